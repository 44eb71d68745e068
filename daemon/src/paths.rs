//! Where the daemon listens and where programs look for it.
//!
//! The library keeps its own copy of this search (it may not allocate): [`SYSTEM_SOCKET`], then
//! `/run/user/UID/smclo/smclod.sock` when `/run/user/UID` exists, then
//! `/tmp/.smclo-UID/smclod.sock`, UID being the effective one in decimal. `SMCLO_SOCKET`, when
//! set and not empty, replaces the search. A per-user directory counts only when it is a real
//! directory (no symlink) of that uid with mode 0700.

use protocol::ctl::SYSTEM_SOCKET;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The sockets at which a program of this user looks for a daemon, in this order.
pub fn socket_candidates(uid: u32) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from(SYSTEM_SOCKET)];
    all.extend(user_sockets(uid));
    all
}

fn user_sockets(uid: u32) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let run = format!("/run/user/{uid}");
    if Path::new(&run).is_dir() {
        all.push(format!("{run}/smclo/smclod.sock").into());
    }
    all.push(format!("/tmp/.smclo-{uid}/smclod.sock").into());
    all
}

/// Where a daemon of this user listens unless told otherwise.
pub fn default_socket(uid: u32) -> PathBuf {
    if uid == 0 {
        return SYSTEM_SOCKET.into();
    }
    user_sockets(uid).swap_remove(0)
}

/// Whether a socket on the search path may be trusted: the system's, or one in a directory that
/// only this user can write to.
pub fn trusted(socket: &Path, uid: u32) -> bool {
    socket == Path::new(SYSTEM_SOCKET)
        || socket
            .parent()
            .is_some_and(|dir| check_dir(dir, uid, 0o077).is_ok())
}

/// Makes the directory of a default socket, or checks the one that is there.
pub fn prepare_dir(socket: &Path, uid: u32) -> io::Result<()> {
    let Some(dir) = socket.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (mode, forbidden) = if uid == 0 {
        (0o755, 0o022)
    } else {
        (0o700, 0o077)
    };
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(mode)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_dir(dir, uid, forbidden),
        Err(e) => Err(e),
    }
}

fn check_dir(dir: &Path, uid: u32, forbidden: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(dir)?;
    let refuse = |why: &str| {
        let text = format!("{}: {why}", dir.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    if !meta.is_dir() {
        return refuse("not a directory");
    }
    if meta.uid() != uid {
        return refuse("belongs to another user");
    }
    if meta.mode() & forbidden != 0 {
        return refuse("others have access to it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn order() {
        let all = socket_candidates(4_000_000_000);
        let all: Vec<_> = all.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(all, [SYSTEM_SOCKET, "/tmp/.smclo-4000000000/smclod.sock"]);
        assert_eq!(default_socket(0), Path::new(SYSTEM_SOCKET));
    }

    #[test]
    fn directories_of_others_are_refused() {
        let uid = nix::unistd::geteuid().as_raw();
        let base = std::env::temp_dir().join(format!("smclo-paths-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        let dir = base.join("d");
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        assert!(check_dir(&dir, uid, 0o077).is_ok());
        assert!(check_dir(&dir, uid + 1, 0o077).is_err());
        symlink(&dir, base.join("link")).unwrap();
        assert!(check_dir(&base.join("link"), uid, 0o077).is_err());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(check_dir(&dir, uid, 0o077).is_err());
        fs::remove_dir_all(&base).unwrap();
    }
}
