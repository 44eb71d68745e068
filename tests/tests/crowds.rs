//! Many threads of one process, each asleep on a connection of its own.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tests::{Lab, Running, Stats, net, plain_only};

const SERVER: &str = "import resource, socket, sys, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
threading.stack_size(65536)
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1000)
def serve(end):
    while piece := end.recv(64):
        end.sendall(piece)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()";

/// Reads how many more connections to make, and uses each of all that it has.
const CLIENT: &str = "import socket, sys
ends = []
for count in map(int, iter(sys.stdin.readline, '')):
    ends += [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(count)]
    for turn in range(60):
        for end in ends:
            end.sendall(b'%d' % turn)
            assert end.recv(64) == b'%d' % turn
    print(len(ends), flush=True)";

struct Crowd {
    server: Running,
    client: Running,
    input: std::fs::File,
    turns: usize,
}

impl Crowd {
    fn start(lab: &Lab, descriptors: u32) -> Crowd {
        let port = net::free_port();
        let input: PathBuf = lab.dir().join("input");
        let open = tests::process::fifo(&input);
        let run = |program| {
            let run = lab.eager("python3").env("SMCLO_SPIN_US", "0");
            run.args(["-c", program, &port.to_string(), &descriptors.to_string()])
        };
        let server = run(SERVER).spawn().listening(port);
        let client = run(CLIENT).stdin(&input).spawn();
        Crowd {
            server,
            client,
            input: open,
            turns: 0,
        }
    }

    /// So many more connections, and messages there and back on all.
    fn more(&mut self, count: usize) {
        self.turns += 1;
        writeln!(self.input, "{count}").expect("a reader");
        let done = || self.client.stdout().lines().count() == self.turns;
        let done = net::wait_until(Duration::from_secs(60), done);
        assert!(done, "{}", self.client.stdout());
    }

    /// Descriptors of the server's that are such a file.
    fn descriptors(&self, kind: &str) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.server.pid()));
        let links = all.expect("the server").flatten();
        let links = links.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links
            .filter(|link| link.to_string_lossy().contains(kind))
            .count()
    }

    fn end(self) {
        drop(self.input);
        self.client.finish().ok();
        self.server.stop();
    }
}

/// More threads than there are numbers for two descriptors of the library's each: what comes later has a doorbell all the
/// same.
#[test]
fn beds_leave_room_for_doorbells() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let mut crowd = Crowd::start(&lab, 1024);
    crowd.more(100);
    let beds = crowd.descriptors("eventpoll");
    assert!((5..=40).contains(&beds), "{beds} beds");
    crowd.more(100);
    let doorbells = crowd.descriptors("timerfd");
    assert!(doorbells >= 200, "{doorbells} doorbells");
    crowd.end();
    let share = lab.settled().share_smc(&Stats::zero());
    assert!(share > 0.8, "{share} over SMC");
}

/// More threads than there are contexts: nobody looks again and again, the others' connections go back to TCP.
#[test]
fn more_than_there_are_contexts() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let mut crowd = Crowd::start(&lab, 4096);
    crowd.more(400);
    let of_tcp = |least: usize| {
        let count = || lab.sockets().iter().filter(|s| !s.is_smcd()).count();
        assert!(
            net::wait_until(Duration::from_secs(20), || count() >= least),
            "{}",
            count()
        );
    };
    // The server's ends of some 150. The client's follow when it uses them.
    of_tcp(140);
    let rested = net::wait_until(Duration::from_secs(20), || {
        let before = tests::process::cpu_ticks(crowd.server.pid());
        std::thread::sleep(Duration::from_millis(500));
        tests::process::cpu_ticks(crowd.server.pid()) == before
    });
    assert!(rested, "somebody looks again and again");
    crowd.more(0);
    of_tcp(280);
    assert!(lab.sockets().iter().filter(|s| s.is_smcd()).count() >= 480);
    crowd.end();
    lab.assert_clean();
}
