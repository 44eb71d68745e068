//! Programs that copy files: OpenSSH and rsync, and servers on stdio.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::stage::{Stage, same, same_and_fast};
use tests::{Running, net, rounds, stream};

fn mib() -> usize {
    rounds(64, 1024)
}

/// An sshd with keys and configuration of its own, and the options for its clients.
struct Ssh {
    server: Running,
    options: Vec<String>,
    port: u16,
}

fn ssh(stage: &Stage, more: &[&str]) -> Ssh {
    let dir = stage.dir();
    let port = net::free_port();
    for key in ["host", "user"] {
        stage
            .lab
            .plain("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(dir.join(key))
            .finish()
            .ok();
    }
    let at = dir.display();
    fs::write(
        dir.join("sshd_config"),
        format!(
            "ListenAddress 127.0.0.1:{port}
            HostKey {at}/host
            AuthorizedKeysFile {at}/user.pub
            PidFile {at}/sshd.pid
            StrictModes no
            UsePAM no
            PermitRootLogin yes
            SetEnv LC_ALL=C
            Subsystem sftp /usr/lib/openssh/sftp-server\n"
        ),
    )
    .unwrap();
    // Where it separates privileges; Debian's unit makes it.
    // SAFETY: geteuid cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let server = stage
        .run("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .args(more)
        .limit(Duration::from_secs(300))
        .spawn()
        .listening(port);
    let options = [
        format!("IdentityFile={at}/user"),
        "IdentitiesOnly=yes".into(),
        "StrictHostKeyChecking=no".into(),
        format!("UserKnownHostsFile={at}/known"),
        "BatchMode=yes".into(),
    ];
    let options = options.into_iter().flat_map(|o| ["-o".into(), o]);
    Ssh {
        server,
        options: options.collect(),
        port,
    }
}

/// A file there and back again, and a command with input and output.
fn copy_over_ssh(stage: &Stage, more: &[&str]) -> [(u64, u64); 3] {
    let ssh = ssh(stage, more);
    let (sample, _) = stream::sample(mib());
    let [there, back, piped] = ["there", "back", "piped"].map(|name| stage.dir().join(name));
    let remote = |path: &Path| format!("127.0.0.1:{}", path.display());
    let scp = |from: String, to: String| {
        stage
            .run("scp")
            .args(&ssh.options)
            .args(["-q", "-P", &ssh.port.to_string(), &from, &to])
            .limit(Duration::from_secs(200))
            .finish()
            .ok()
    };
    scp(sample.display().to_string(), remote(&there));
    scp(remote(&there), back.display().to_string());
    stage
        .run("ssh")
        .args(&ssh.options)
        .args(["-p", &ssh.port.to_string(), "127.0.0.1", "cat"])
        .stdin(&sample)
        .stdout(&piped)
        .limit(Duration::from_secs(200))
        .finish()
        .ok();
    ssh.server.stop();
    [there, back, piped].map(|path| stream::hash_file(&path))
}

/// Each connection's server is a program that inherits the socket over exec: TCP, without a
/// difference.
#[test]
fn openssh() {
    same(|stage| copy_over_ssh(stage, &[])).lab.assert_clean();
}

/// Without that exec the servers are children of sshd, which forbid themselves system calls before
/// the first key is exchanged (seccomp): TCP, by decision.
#[test]
fn openssh_forked() {
    same(|stage| copy_over_ssh(stage, &["-r"]))
        .lab
        .assert_clean();
}

/// rsync's daemon, a push and a pull of a tree.
#[test]
fn rsync_daemon() {
    same_and_fast(|stage| {
        let port = net::free_port();
        let dir = stage.dir();
        let tree = dir.join("tree");
        fs::create_dir(&tree).unwrap();
        for i in 0..300 {
            fs::write(tree.join(format!("f{i}")), format!("{i} ").repeat(i * 7)).unwrap();
        }
        let (sample, _) = stream::sample(rounds(32, 256));
        fs::copy(sample, tree.join("big")).unwrap();
        fs::create_dir(dir.join("module")).unwrap();
        let at = dir.display();
        // As root it would write as nobody.
        // SAFETY: geteuid cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let user = if root { "uid = 0\ngid = 0\n" } else { "" };
        fs::write(
            dir.join("rsyncd.conf"),
            format!(
                "use chroot = no\npid file = {at}/rsyncd.pid\nlog file = {at}/rsyncd.log\n\
                 {user}[m]\npath = {at}/module\nread only = no\n"
            ),
        )
        .unwrap();
        let server = stage
            .run("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={at}/rsyncd.conf"))
            .limit(Duration::from_secs(200))
            .spawn()
            .listening(port);
        let url = format!("rsync://127.0.0.1:{port}/m/");
        let rsync = |from: &str, to: &str| {
            stage
                .run("rsync")
                .args(["-a", "--whole-file", from, to])
                .finish()
                .ok()
        };
        rsync(&format!("{at}/tree/"), &url);
        rsync(&url, &format!("{at}/back/"));
        server.stop();
        let mut names: Vec<PathBuf> = fs::read_dir(dir.join("back"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        let file = |path: &PathBuf| {
            (
                path.file_name().unwrap().to_owned(),
                stream::hash_file(path),
            )
        };
        names.iter().map(file).collect::<Vec<_>>()
    });
}

/// Both ends of gawk's sockets are stdio streams (fdopen): TCP.
#[test]
fn gawk_over_stdio() {
    let stage = same(|stage| {
        let port = net::free_port();
        let server = stage
            .run("gawk")
            .arg(format!(
                "BEGIN {{ s = \"/inet/tcp/{port}/0/0\";
                  while ((s |& getline line) > 0) {{ print length(line), line |& s; fflush(s) }} }}"
            ))
            .spawn()
            .listening(port);
        let text = stage
            .run("gawk")
            .arg(format!(
                "BEGIN {{ s = \"/inet/tcp/0/127.0.0.1/{port}\"; word = \"word\";
                  for (i = 0; i < 3000; i++) {{
                    print word i |& s; s |& getline answer; print answer
                    if (i % 500 == 0) word = word word }} close(s) }}"
            ))
            .finish()
            .ok();
        server.finish().ok();
        text
    });
    stage.lab.assert_clean();
}

/// inetd's way: socat starts a program for each connection. What comes back is the same as what was sent.
fn inetd(stage: &Stage, program: &str) {
    let port = net::free_port();
    let server = stage
        .run("socat")
        .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"))
        .arg(format!("EXEC:{program}"))
        .spawn()
        .listening(port);
    let (sample, sent) = stream::sample(32);
    for i in 0..3 {
        let back = stage.dir().join(format!("back{i}"));
        stage
            .run("socat")
            .args(["-t", "60", "-", &format!("TCP:127.0.0.1:{port}")])
            .stdin(&sample)
            .stdout(&back)
            .finish()
            .ok();
        assert_eq!(stream::hash_file(&back), (32 << 20, sent), "{program}");
    }
    server.stop();
}

/// The program has the connection itself, as descriptors 0 and 1.
#[test]
fn socat_exec() {
    for program in ["cat,nofork", "/bin/busybox cat,nofork"] {
        let stage = same(|stage| inetd(stage, program));
        stage.lab.assert_clean();
    }
}

/// socat keeps the connection, and the program has a socket of the Unix kind.
#[test]
fn socat_exec_between() {
    for program in ["cat", "/bin/busybox cat"] {
        same_and_fast(|stage| inetd(stage, program));
    }
}
