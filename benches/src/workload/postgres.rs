//! PostgreSQL under pgbench, with a cluster of its own.

use super::{Place, Program, Workload, is_root, reading};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn pgbench_select(key: &str, title: &str, clients: u32) -> Workload {
    Workload {
        n: clients,
        unix: true,
        operation: "transaction",
        prepare: Some(prepare),
        servers: |p| vec![server(p)],
        client: |p| {
            let (n, time) = (p.n, p.seconds);
            let args = format!("-n -S -M prepared -c {n} -j 1 -T {time}");
            pgbench(p, &args)
        },
        result: reading::pgbench,
        ..Workload::new(key, title)
    }
}

pub fn one_client() -> Workload {
    pgbench_select("pgbench", "pgbench, select only, 1 client", 1)
}

pub fn eight_clients() -> Workload {
    pgbench_select("pgbench-8", "pgbench, select only, 8 clients", 8)
}

/// A new connection, and a server process, for each transaction.
pub fn connecting() -> Workload {
    Workload {
        client: |p| pgbench(p, &format!("-n -S -C -c {} -j 1 -T {}", p.n, p.seconds)),
        ..pgbench_select(
            "pgbench-connect",
            "pgbench, select only, new connections, 4 clients",
            4,
        )
    }
}

/// Directory of the newest server that Debian has installed; its programs are not in PATH.
fn bin() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max();
    match newest {
        Some(version) => Ok(format!("/usr/lib/postgresql/{version}/bin").into()),
        None => {
            Err("no PostgreSQL server in /usr/lib/postgresql; scripts/install-deps --full".into())
        }
    }
}

fn program(name: &str, args: &str) -> Program {
    let path = bin().map(|dir| dir.join(name).display().to_string());
    Program {
        unprivileged: true,
        ..Program::new(path.unwrap_or_else(|_| name.into()), args)
    }
}

fn data(p: &Place<'_>) -> PathBuf {
    p.dir.join("pg").join("data")
}

fn server(p: &Place<'_>) -> Program {
    let dir = data(p);
    let args = format!(
        "-D {} -p {} -h 127.0.0.1 -k {}",
        dir.display(),
        p.port,
        socket_dir(p).display()
    );
    let settings = " -c fsync=off -c max_connections=50 -c shared_buffers=64MB -c autovacuum=off";
    program("postgres", &(args + settings))
}

/// PostgreSQL names its sockets itself, after the port.
fn socket_dir(p: &Place<'_>) -> PathBuf {
    p.dir.join("pg")
}

fn pgbench(p: &Place<'_>, args: &str) -> Program {
    let host = match p.unix {
        None => "127.0.0.1".into(),
        Some(_) => socket_dir(p).display().to_string(),
    };
    let port = p.port;
    program(
        "pgbench",
        &format!("-h {host} -p {port} -U bench {args} postgres"),
    )
}

/// Makes the cluster and fills it: 100,000 rows.
fn prepare(p: &Place<'_>) -> Result<(), String> {
    if data(p).join("PG_VERSION").exists() {
        return Ok(());
    }
    bin()?;
    let dir = socket_dir(p);
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(p.dir, open.clone()).map_err(|e| e.to_string())?;
    if is_root() {
        let user = nix::unistd::User::from_name("nobody");
        let user = user.ok().flatten().ok_or("no user nobody")?;
        std::os::unix::fs::chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(|e| e.to_string())?;
    }
    fs::set_permissions(&dir, open).map_err(|e| e.to_string())?;
    let init = "--username=bench --auth=trust --no-sync --no-locale --encoding=UTF8 -D";
    let data = data(p);
    run(
        &program("initdb", init).arg(data.display().to_string()),
        &dir,
    )?;
    // Filled over its UNIX domain socket by a server of its own, which pg_ctl waits for.
    let (data, dir_text, port) = (data.display(), dir.display(), p.port);
    let options = format!("-p {port} -k {dir_text} -c listen_addresses= -c fsync=off");
    let ctl = |verb: &str| {
        program(
            "pg_ctl",
            &format!("-D {data} -l {dir_text}/log -w -s {verb}"),
        )
    };
    run(&ctl("start").arg("-o").arg(options), &dir)?;
    let unix = Place {
        unix: Some(dir.clone()),
        dir: p.dir,
        ..*p
    };
    let filled = run(&pgbench(&unix, "-i -q -s 1"), &dir);
    run(&ctl("stop"), &dir)?;
    filled
}

fn run(program: &Program, dir: &Path) -> Result<(), String> {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(&program.program);
        command
    } else {
        Command::new(&program.program)
    };
    // To a file: the server that pg_ctl starts would hold a pipe open.
    let log = fs::File::create(dir.join("prepare.log")).map_err(|e| e.to_string())?;
    let status = command
        .args(&program.args)
        .current_dir(dir)
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log)
        .status()
        .map_err(|e| format!("{}: {e}", program.program))?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(dir.join("prepare.log")).unwrap_or_default();
    Err(format!("{}: {status}: {said}", program.program))
}
