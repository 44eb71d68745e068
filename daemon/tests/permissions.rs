//! Who may reach the daemon's files, and what is done with tricks in their places: nothing.

mod support;

use daemon::listener::{ListenError, listen};
use nix::unistd::geteuid;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

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
    drop(other);
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
