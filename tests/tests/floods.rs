//! Programs under the library that connect and close as fast as they can: somebody else talks meanwhile,
//! and the daemon keeps nothing of it.

use std::time::{Duration, Instant};
use tests::{Lab, ccase, net, process, rounds};

#[test]
fn connections_that_come_and_go() {
    const CLIENTS: usize = 4;
    let each = rounds(5_000, 25_000);
    let program = ccase::compile("talk");
    let mut lab = Lab::start();
    let port = net::free_port();
    let limit = Duration::from_secs(280);
    let run = |words: &str| lab.eager(&program).words(words).limit(limit).spawn();
    let server = run(&format!("events {port}")).listening(port);
    // Once before the look at the daemon's memory: what it keeps for good is there then.
    run(&format!("storm {port} 100")).finish().ok();
    let pid = lab.daemon().map(|d| d.pid());
    let memory = || pid.map_or(0, process::resident);
    let (start, before) = (Instant::now(), memory());

    let run = |words: &str| lab.eager(&program).words(words).limit(limit).spawn();
    let mut storm = [(); CLIENTS].map(|()| run(&format!("storm {port} {each}")));
    let (mut others, mut longest) = (0, Duration::ZERO);
    while others == 0 || storm.iter_mut().any(|s| s.alive()) {
        let (port, began) = (net::free_port(), Instant::now());
        let other = run(&format!("serve {port} 1")).listening(port);
        assert!(
            run(&format!("ask {port} 300 0"))
                .finish()
                .ok()
                .ends_with("\nend\n")
        );
        assert_eq!(other.finish().ok(), "end 0\n");
        longest = longest.max(began.elapsed());
        others += 1;
    }
    for client in storm {
        assert_eq!(client.finish().ok(), format!("{each}\n"));
    }
    let count = CLIENTS * each;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    server.stop();
    lab.assert_clean();
    let more = memory().saturating_sub(before);
    println!(
        "{count} connections, {rate:.0}/s, the daemon has {more} bytes more; \
         {others} others served meanwhile, the slowest in {longest:.1?}"
    );
    assert!(more < 32 << 20, "{more} bytes more");
}
