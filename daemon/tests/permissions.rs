//! Who may reach the daemon's files, and what is done with tricks in their places: nothing.

mod support;

use daemon::listener::{ListenError, listen};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let name = format!("smclo-permissions-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn modes() {
    let dir = Dir::new("modes");
    let path = dir.at("s");
    let listening = listen(Some(&path)).unwrap();
    // Root's daemon serves everybody, each with what is his; another one only its own user.
    let everybody = if geteuid().is_root() { 0o666 } else { 0o600 };
    assert_eq!(mode(&path), everybody);
    assert_eq!(mode(&dir.at("s.lock")), 0o600);
    drop(listening);
    assert!(!path.exists());
}

#[test]
fn what_is_no_socket_stays() {
    let dir = Dir::new("others");
    let victim = dir.at("victim");
    fs::write(&victim, "precious").unwrap();
    let path = dir.at("s");
    // A file of that name; a link to a file; a link to a socket.
    fs::write(&path, "mine").unwrap();
    assert!(matches!(
        listen(Some(&path)),
        Err(ListenError::NotASocket(_))
    ));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    fs::remove_file(&path).unwrap();
    symlink(&victim, &path).unwrap();
    assert!(matches!(
        listen(Some(&path)),
        Err(ListenError::NotASocket(_))
    ));
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(dir.at("other")).unwrap();
    symlink(dir.at("other"), &path).unwrap();
    assert!(matches!(
        listen(Some(&path)),
        Err(ListenError::NotASocket(_))
    ));
    fs::remove_file(&path).unwrap();
    // The lock is not opened through a link either.
    symlink(&victim, dir.at("s.lock")).unwrap_or_default();
    let _ = fs::remove_file(dir.at("s.lock"));
    symlink(&victim, dir.at("s.lock")).unwrap();
    assert!(matches!(listen(Some(&path)), Err(ListenError::Path { .. })));
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    // Nor does a FIFO in its place make the daemon wait for a reader.
    fs::remove_file(dir.at("s.lock")).unwrap();
    mkfifo(&dir.at("s.lock"), Mode::S_IRWXU).unwrap();
    assert!(matches!(listen(Some(&path)), Err(ListenError::Path { .. })));
    drop(other);
}

/// Somebody who may write in the directory puts a link in the place of the socket, at any moment: what
/// it leads to keeps its mode.
#[test]
fn a_link_in_place_of_the_new_socket() {
    let dir = Dir::new("swapped");
    let (path, victim, link) = (dir.at("s"), dir.at("victim"), dir.at("link"));
    fs::write(&victim, "precious").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o400)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _ = symlink(&victim, &link);
                // As soon as there is a socket.
                let there = || fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket());
                while !over.load(Relaxed) && !there() {
                    std::hint::spin_loop();
                }
                let _ = fs::rename(&link, &path);
            }
        });
        for _ in 0..2000 {
            drop(listen(Some(&path)));
            let _ = fs::remove_file(&path);
        }
        over.store(true, Relaxed);
    });
    assert_eq!(mode(&victim), 0o400);
}

#[test]
fn a_stale_socket_is_replaced_a_living_one_is_not() {
    let dir = Dir::new("stale");
    let path = dir.at("s");
    // Left behind by a daemon that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    let listening = listen(Some(&path)).unwrap();
    assert!(matches!(listen(Some(&path)), Err(ListenError::Running(_))));
    drop(listening);
    listen(Some(&path)).unwrap();
}
