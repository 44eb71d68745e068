//! Programs of different users: what they share, they share because the host's policy says so.

use protocol::reason;
use std::fs;
use std::path::PathBuf;
use tests::{Lab, Run, Stats, ccase, net, plain_only, process};

const NOBODY: &str = "65534";

/// `talk` where every user can run it.
fn talk(lab: &Lab) -> PathBuf {
    let copy = lab.dir().join("talk");
    if !copy.exists() {
        fs::copy(ccase::compile("talk"), &copy).expect("a copy");
    }
    copy
}

/// As the user: a number or a name.
fn by(lab: &Lab, user: &str, run: Run) -> Run {
    let run = run
        .env("LD_PRELOAD", lab.open_library())
        .env("HOME", lab.dir());
    match user {
        "0" => run,
        _ => run.through(&["setpriv", "--reuid", user, "--clear-groups"]),
    }
}

/// As many that the daemon has its time, also on a busy machine.
const EXCHANGES: u32 = 3000;

/// Exchanges between two users; what the daemon counted.
fn exchange(lab: &Lab, server: &str, client: &str) -> Stats {
    let port = net::free_port();
    let run = lab.eager(talk(lab)).words(&format!("serve {port} 1"));
    let server = by(lab, server, run).spawn().listening(port);
    let run = lab
        .eager(talk(lab))
        .words(&format!("ask {port} {EXCHANGES} 0"));
    let said = by(lab, client, run).finish().ok();
    assert!(said.ends_with("\nend\n"), "{said}");
    assert_eq!(server.finish().ok(), "end 0\n");
    lab.assert_clean();
    lab.settled()
}

#[test]
fn share_nothing_unless_told() {
    if !process::is_root() || plain_only() {
        return;
    }
    for policy in ["", "trust = [[0, 33], [33, 65534]]"] {
        for (server, client) in [("0", NOBODY), (NOBODY, "0")] {
            let stats = exchange(&Lab::start_for_all(policy), server, client);
            assert_eq!(stats.smc_bytes(), 0, "{}", stats.raw);
            assert_eq!(stats.fallbacks(reason::OTHER_UID), 2, "{}", stats.raw);
        }
    }
}

/// A daemon in a user namespace that has numbers for some users only: all others look like one user to
/// it, who must not be taken for one.
#[test]
fn users_without_a_number_share_nothing() {
    if !process::is_root() || plain_only() {
        return;
    }
    let unshare = ["unshare", "--user", "--map-root-user"];
    // Nor where the daemon cannot read for whom there are numbers.
    let unread = "strace -D -qq -o /dev/null -P /proc/self/uid_map -e trace=openat -e inject=openat:error=EMFILE";
    let unread: Vec<_> = unshare.into_iter().chain(unread.split(' ')).collect();
    for prefix in [&unshare[..], &unread[..]] {
        let lab = Lab::start_for_all_through(prefix, "");
        for (server, client) in [("33", NOBODY), (NOBODY, "33"), ("33", "33")] {
            let stats = exchange(&lab, server, client);
            assert_eq!(stats.smc_bytes(), 0, "{server} {client}: {}", stats.raw);
        }
        // Who has a number is served.
        let stats = exchange(&lab, "0", "0");
        assert!(stats.share_smc(&Stats::zero()) > 0.5, "{}", stats.raw);
    }
}

#[test]
fn share_what_the_policy_lets_them() {
    if !process::is_root() || plain_only() {
        return;
    }
    let lab = Lab::start_for_all("trust = [[0, 65534]]");
    for (server, client) in [("0", NOBODY), (NOBODY, "0"), (NOBODY, NOBODY)] {
        let before = lab.stats();
        let stats = exchange(&lab, server, client);
        assert!(
            stats.share_smc(&before) > 0.5,
            "{server} {client}: {}",
            stats.raw
        );
    }
    // A policy that is taken back holds for what comes from then on.
    fs::write(lab.dir().join("host.toml"), "# nobody any more\n").unwrap();
    let before = lab.stats().smc_bytes();
    assert_eq!(exchange(&lab, "0", NOBODY).smc_bytes(), before);
}

/// A server that accepts as root, whose children go on as somebody else: the kernel says that the
/// connection is root's, so root has to be trusted.
#[test]
fn privileges_dropped_after_accept() {
    if !process::is_root() || plain_only() {
        return;
    }
    for (policy, client) in [
        ("", "0"),
        ("trust = [[0, 65534]]", "0"),
        ("trust = [[0, 65534]]", NOBODY),
    ] {
        let (lab, port) = (Lab::start_for_all(policy), net::free_port());
        let server = lab.eager(talk(&lab)).words(&format!("serve {port} 0"));
        let server = by(&lab, "0", server).env("TALK_DROP", NOBODY);
        let server = server.spawn().listening(port);
        let run = lab.eager(talk(&lab)).words(&format!("ask {port} 3000 0"));
        let said = by(&lab, client, run).finish().ok();
        assert!(said.ends_with("\nend\n"), "{said}");
        server.stop();
        let stats = lab.settled();
        if policy.is_empty() {
            assert_eq!(stats.smc_bytes(), 0, "{}", stats.raw);
            assert!(stats.fallbacks(reason::NOT_VERIFIED) > 0, "{}", stats.raw);
        } else {
            let share = stats.share_smc(&Stats::zero());
            assert!(share > 0.5, "{client}: {}", stats.raw);
        }
        lab.assert_clean();
    }
}

/// What hosts have: services with users of their own, and a client that is root.
#[test]
fn root_and_a_service() {
    if !process::is_root() || plain_only() {
        return;
    }
    for policy in ["", "trust = [['root', 'www-data', 'redis']]"] {
        let lab = Lab::start_for_all(policy);
        let port = net::free_port();
        let body = "0123456789".repeat(1000);
        fs::write(lab.dir().join("page"), &body).unwrap();
        let config = lab.dir().join("nginx.conf");
        let text = net::nginx_config(lab.dir(), port, 1, "");
        fs::write(&config, text.replace("user root;", "user www-data;")).unwrap();
        let server = lab.eager("nginx").env("LD_PRELOAD", lab.open_library());
        let server = server.arg("-p").arg(lab.dir()).arg("-c").arg(&config);
        let server = server.arg("-e").arg(lab.dir().join("nginx.err"));
        let server = server.spawn().listening(port);
        let load = format!("-t 1 -c 10 -d 1s http://127.0.0.1:{port}/page");
        let said = lab.eager("wrk").words(&load).finish().ok();
        assert!(
            said.contains("Requests/sec:") && !said.contains("errors"),
            "{said}"
        );
        server.stop();
        let nginx = lab.settled();

        let port = net::free_port();
        let server = lab
            .eager("redis-server")
            .words(&format!("--port {port} --save"));
        let server = by(&lab, "redis", server.arg("").arg("--dir").arg(lab.dir()));
        let server = server.spawn().listening(port);
        let load = format!("-p {port} -n 20000 -c 10 -t set,get -q");
        lab.eager("redis-benchmark").words(&load).finish().ok();
        server.stop();
        lab.assert_clean();
        let all = lab.settled();
        if policy.is_empty() {
            assert_eq!(all.smc_bytes(), 0, "{}", all.raw);
            assert!(all.fallbacks(reason::OTHER_UID) > 0, "{}", all.raw);
        } else {
            let shares = [nginx.share_smc(&Stats::zero()), all.share_smc(&nginx)];
            println!("root to nginx and redis: {shares:.3?} over SMC");
            assert!(shares.iter().all(|s| *s > 0.5), "{shares:?} {}", all.raw);
        }
    }
}
