//! What can be seen of a program file.

use super::Finding;
use goblin::container::Ctx;
use goblin::elf::Elf;
use goblin::elf::header::EM_X86_64;
use goblin::elf::program_header::{PT_INTERP, ProgramHeader};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Scripts that name a script as their interpreter.
const MAX_DEPTH: usize = 4;

/// The file that a shell would run.
pub fn resolve(command: &OsStr) -> Option<PathBuf> {
    let executable = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then(|| path.to_path_buf())
    };
    if command.as_bytes().contains(&b'/') {
        return executable(Path::new(command));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&path).find_map(|dir| executable(&dir.join(command)))
}

pub fn check(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut path = path.to_path_buf();
    for _ in 0..MAX_DEPTH {
        let Some(interpreter) = interpreter_of_script(&path) else {
            break;
        };
        let what = format!("a script, run by {}", interpreter.display());
        findings.push(Finding::good(what));
        match resolve(interpreter.as_os_str()) {
            Some(next) => path = next,
            None => {
                let what = format!("{} is not there", interpreter.display());
                findings.push(Finding::obstacle(what, "install it"));
                return findings;
            }
        }
    }
    findings.extend(privileges(&path));
    match fs::read(&path) {
        Ok(bytes) => findings.extend(elf(&bytes)),
        Err(e) => {
            let what = format!("{} cannot be read: {e}", path.display());
            findings.push(Finding::note(what, "run the doctor as root"));
        }
    }
    findings
}

/// Whether a command is linked with musl, whose loader would rather not start it than go without a
/// library that needs glibc. Reads no more than the beginning of its file.
pub fn needs_musl(command: &OsStr) -> bool {
    let mut path = resolve(command);
    for _ in 0..MAX_DEPTH {
        let next = path.as_deref().and_then(interpreter_of_script);
        let Some(next) = next else { break };
        path = resolve(next.as_os_str());
    }
    let loader = path.and_then(|path| loader(&path));
    loader.is_some_and(|name| name.contains("ld-musl"))
}

fn loader(path: &Path) -> Option<String> {
    const BEGINNING: u64 = 64 << 10;
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(BEGINNING).read_to_end(&mut bytes).ok()?;
    let head = Elf::parse_header(&bytes).ok()?;
    let form = Ctx::new(head.container().ok()?, head.endianness().ok()?);
    let parts = usize::try_from(head.e_phoff).ok()?;
    let parts = ProgramHeader::parse(&bytes, parts, usize::from(head.e_phnum), form).ok()?;
    let name = parts.iter().find(|part| part.p_type == PT_INTERP)?;
    let name = bytes.get(name.file_range())?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The program on the first line; what `env` would start, where it is `env`.
fn interpreter_of_script(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    let file = File::open(path).ok()?;
    BufReader::new(file.take(256))
        .read_until(b'\n', &mut line)
        .ok()?;
    let words = line.strip_prefix(b"#!")?;
    let mut words = words
        .split(u8::is_ascii_whitespace)
        .filter(|w| !w.is_empty());
    let first = words.next()?;
    let name = |word: &[u8]| PathBuf::from(OsString::from_vec(word.to_vec()));
    if first.ends_with(b"/env") {
        let mut rest = words.filter(|w| !w.starts_with(b"-") && !w.contains(&b'='));
        return rest.next().map(name);
    }
    Some(name(first))
}

/// The loader takes no library from the environment of somebody who gains rights by the exec.
fn privileges(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(meta) = fs::metadata(path) else {
        return findings;
    };
    let gains_uid =
        meta.mode() & libc::S_ISUID != 0 && meta.uid() != nix::unistd::geteuid().as_raw();
    let gains_gid =
        meta.mode() & libc::S_ISGID != 0 && meta.gid() != nix::unistd::getegid().as_raw();
    let remedy = "start it as that user, without the bit; or from systemd with User= and \
                  AmbientCapabilities=, which keep LD_PRELOAD";
    if gains_uid || gains_gid {
        let bit = if gains_uid { "setuid" } else { "setgid" };
        let what = format!("{bit}: the loader ignores LD_PRELOAD for it");
        findings.push(Finding::obstacle(what, remedy));
    }
    if xattr::get(path, "security.capability").is_ok_and(|caps| caps.is_some()) {
        let what = "file capabilities: the loader ignores LD_PRELOAD for it";
        findings.push(Finding::obstacle(what, remedy));
    }
    findings
}

fn elf(bytes: &[u8]) -> Vec<Finding> {
    let Ok(elf) = Elf::parse(bytes) else {
        let what = "neither an ELF program nor a script with an interpreter";
        return vec![Finding::obstacle(what, "")];
    };
    if !elf.is_64 || elf.header.e_machine != EM_X86_64 {
        let what = "not a 64-bit x86 program: the library is only built for that";
        return vec![Finding::obstacle(what, "")];
    }
    let mut findings = Vec::new();
    match elf.interpreter {
        // How it is linked makes no difference then.
        _ if is_go(&elf) => findings.push(Finding::obstacle(
            "a Go program: it makes its system calls itself, past the C library",
            "put a proxy that is no Go program (haproxy, nginx) next to it, and accelerate that",
        )),
        None => findings.push(Finding::obstacle(
            "statically linked: there is no loader that could preload anything",
            "use a dynamically linked build",
        )),
        Some(loader) if loader.contains("ld-musl") => findings.push(Finding::obstacle(
            "linked with musl (as on Alpine): the library needs glibc",
            "use a build for glibc, such as the Debian-based image",
        )),
        Some(_) => findings.push(Finding::good("dynamically linked with glibc")),
    }
    if elf.libraries.iter().any(|l| l.starts_with("liburing")) {
        findings.push(Finding::note(
            "linked with liburing: a process that has made an io_uring stays on TCP (ASYNC_IO)",
            "turn io_uring off in its settings",
        ));
    }
    findings
}

fn is_go(elf: &Elf<'_>) -> bool {
    let name = |at: usize| elf.shdr_strtab.get_at(at).unwrap_or_default();
    elf.section_headers.iter().any(|s| {
        matches!(
            name(s.sh_name),
            ".go.buildinfo" | ".note.go.buildid" | ".gopclntab"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::doctor::Level;

    fn obstacles(path: &Path) -> Vec<String> {
        let found = check(path)
            .into_iter()
            .filter(|f| f.level == Level::Obstacle);
        found.map(|f| f.what).collect()
    }

    fn file(name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = env::temp_dir().join(format!("smclo-doctor-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn an_ordinary_program_and_a_script() {
        assert_eq!(obstacles(&env::current_exe().unwrap()), [""; 0]);
        let script = file("script", b"#!/usr/bin/env -S sh -e\n:\n", 0o755);
        assert_eq!(interpreter_of_script(&script), Some("sh".into()));
        assert_eq!(obstacles(&script), [""; 0]);
        let lost = file("lost", b"#! /no/such/interpreter\n", 0o755);
        assert!(obstacles(&lost)[0].contains("is not there"));
        for path in [script, lost] {
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_is_no_program() {
        for content in [&b""[..], b"text", b"\x7fELF", &[0xff; 100]] {
            let path = file("odd", content, 0o755);
            assert_eq!(obstacles(&path).len(), 1);
            fs::remove_file(path).unwrap();
        }
        assert_eq!(resolve(OsStr::new("no-such-command-at-all")), None);
        assert!(resolve(OsStr::new("sh")).is_some());
        assert_eq!(resolve(OsStr::new("/etc/passwd")), None, "not executable");
    }

    #[test]
    fn a_set_user_id_of_another_user() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        let path = file("setuid", &own, 0o755);
        nix::unistd::chown(&path, Some(1.into()), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        assert!(obstacles(&path)[0].starts_with("setuid"));
        fs::remove_file(path).unwrap();
    }
}
