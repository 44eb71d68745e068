//! PostgreSQL, whose server forks a process for each connection; MariaDB, whose server has a thread
//! for each, and an io_uring for its files.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::stage::{Stage, same_and_fast, wanted};
use tests::{Run, artefacts, net, rounds};

/// Where Debian puts the programs of the newest version.
fn bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut all: Vec<PathBuf> = versions.flatten().map(|e| e.path().join("bin")).collect();
    all.sort();
    all.pop().filter(|dir| dir.join("postgres").exists())
}

/// A program as a user who is not root, whom the server refuses; the same for all, because memory
/// is shared within one user only.
fn as_user(stage: &Stage, program: &Path) -> Run {
    // SAFETY: geteuid cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return stage.run(program);
    }
    stage
        .run("setpriv")
        .words("--reuid=postgres --regid=postgres --clear-groups")
        .arg(program)
        .env("HOME", stage.dir())
        // A copy, because the build may lie where only root can read.
        .env("LD_LIBRARY_PATH", stage.dir())
}

fn prepare(stage: &Stage) {
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(stage.dir(), open).unwrap();
    let script = artefacts::workspace().join("tests/sql/script.sql");
    std::fs::copy(script, stage.dir().join("script.sql")).unwrap();
}

/// A server with a fresh cluster, pgbench against it and a script; what comes out.
fn play(stage: &Stage) -> (String, String, String) {
    let bin = bin().expect("PostgreSQL is installed");
    prepare(stage);
    let port = net::free_port();
    let data = stage.dir().join("data");
    as_user(stage, &bin.join("initdb"))
        .args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--no-locale",
        ])
        .args(["--encoding=UTF8", "-D"])
        .arg(&data)
        .finish()
        .ok();
    let server = as_user(stage, &bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &port.to_string()])
        .limit(Duration::from_secs(300))
        .spawn()
        .listening(port);
    let client = |program: &str| {
        as_user(stage, &bin.join(program))
            .words(&format!("-h 127.0.0.1 -p {port} -U postgres"))
            .limit(Duration::from_secs(120))
    };
    let psql = || client("psql").args(["-X", "-A", "-t", "-d", "postgres"]);
    assert!(
        net::wait_until(Duration::from_secs(20), || psql()
            .args(["-c", "select 1"])
            .finish()
            .success()),
        "the server does not answer"
    );
    let pgbench = |options: &str| client("pgbench").words(options).arg("postgres").finish();
    pgbench("-i -s 1 -q").ok();
    // With a seed each client does the same each time, and sums do not depend on their order.
    let transactions = rounds(100, 2000);
    pgbench(&format!("-n -c 8 -j 2 -t {transactions} --random-seed=7")).ok();
    pgbench(&format!(
        "-n -c 2 -j 1 -C -t {} --random-seed=8",
        transactions / 4
    ))
    .ok();
    pgbench(&format!(
        "-n -S -M prepared -c 4 -j 2 -t {transactions} --random-seed=9"
    ))
    .ok();
    let sums =
        "select md5(string_agg(aid || ':' || abalance, ',' order by aid)) from pgbench_accounts;
        select md5(string_agg(tid || ':' || tbalance, ',' order by tid)) from pgbench_tellers;
        select count(*), sum(delta), md5(string_agg(aid || ':' || delta, ',' order by aid, delta))
        from pgbench_history";
    let sums = psql().args(["-c", sums]).finish().ok();
    let copy = stage.dir().join("items.copy");
    let script = std::fs::read_to_string(stage.dir().join("script.sql")).unwrap();
    let script = script.replace("items.copy", &copy.display().to_string());
    std::fs::write(stage.dir().join("script.sql"), script).unwrap();
    let results = psql()
        .arg("-f")
        .arg(stage.dir().join("script.sql"))
        .finish();
    server.signal(libc::SIGINT);
    server.finish();
    let told = |text: &str| {
        let at = stage.dir().display().to_string();
        text.replace(&at, "")
            .lines()
            .filter(|l| !l.contains("server process with PID"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    (sums, told(&results.stdout), told(&results.stderr))
}

#[test]
fn postgresql() {
    if bin().is_some() || wanted("pg_ctlcluster") {
        same_and_fast(play);
    }
}

/// A MariaDB server with a table of large rows: their hash as the server sees it, and a dump of them.
fn play_mariadb(stage: &Stage) -> (String, u64) {
    let port = net::free_port();
    let data = stage.dir().join("data");
    std::fs::create_dir(&data).expect("a new directory");
    // A data directory needs nothing but the tables that the server makes itself with this option.
    let server = stage
        .run("mariadbd")
        .words("--no-defaults --skip-grant-tables --user=root --bind-address=127.0.0.1 --skip-networking=0")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", data.join("sock").display()))
        .arg(format!("--port={port}"))
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port);
    let client = |program: &str| {
        stage
            .run(program)
            .words(&format!("--no-defaults -h 127.0.0.1 -P {port} -u root"))
    };
    let rows = rounds(200, 2000);
    let script = format!(
        "create database t; use t; create table a (i int primary key, s longblob);
        insert into a select seq, repeat(sha2(seq, 512), 2000) from seq_1_to_{rows};
        select md5(group_concat(md5(s) order by i)) from a;"
    );
    let hash = client("mariadb").args(["-N", "-e", &script]).finish().ok();
    let dump = stage.dir().join("dump");
    client("mariadb-dump")
        .words("--skip-dump-date --skip-tz-utc --no-tablespaces t a")
        .stdout(&dump)
        .finish()
        .ok();
    server.stop();
    let (len, dumped) = tests::stream::hash_file(&dump);
    assert!(len > rows as u64 * 200_000, "a dump of all rows");
    (hash, dumped)
}

#[test]
fn mariadb() {
    if wanted("mariadbd") {
        same_and_fast(play_mariadb);
    }
}
