//! 256 MiB both ways through socat, nc and Python, with the shim at both ends.

use std::path::Path;
use std::time::Duration;
use tests::{Lab, net, stream};

const SHARE: f64 = 0.95;
const MIB: usize = 256;

#[test]
fn socat() {
    let lab = Lab::start();
    let (sample, hash) = stream::sample(MIB);
    for (server_sends, receiver) in [(false, "server"), (true, "client")] {
        let port = net::free_port();
        let received = lab.dir().join(receiver);
        let send = format!("OPEN:{},rdonly", sample.display());
        let receive = format!("CREATE:{}", received.display());
        let (server_file, client_file) = if server_sends {
            (&send, &receive)
        } else {
            (&receive, &send)
        };
        let way = |sends: bool| if sends { "-U" } else { "-u" };
        let server = lab
            .shim("socat")
            .args([
                way(server_sends),
                &format!("TCP-LISTEN:{port},bind=127.0.0.1"),
            ])
            .arg(server_file)
            .spawn()
            .listening(port);
        let client = lab
            .shim("socat")
            .args([way(!server_sends), &format!("TCP:127.0.0.1:{port}")])
            .arg(client_file)
            .spawn();
        client.finish().ok();
        server.finish().ok();
        let got = stream::hash_file(&received);
        assert_eq!(
            got,
            ((MIB as u64) << 20, hash),
            "what the {receiver} received"
        );
    }
    lab.assert_share(SHARE);
    lab.assert_clean();
}

/// One way after the other: `nc -l` ends when its input from the network does, whatever it has left
/// to send.
#[test]
fn netcat() {
    let lab = Lab::start();
    let (sample, hash) = stream::sample(MIB);
    let nothing = Path::new("/dev/null");
    let nc = |options: &str, port: u16, input: &Path, received: &Path| {
        lab.shim("nc")
            .words(&format!("{options} 127.0.0.1 {port}"))
            .stdin(input)
            .stdout(received)
            .spawn()
    };
    for (server_sends, receiver) in [(false, "server"), (true, "client")] {
        let port = net::free_port();
        let (to_send, other) = (sample.as_path(), nothing);
        let (server_in, client_in) = if server_sends {
            (to_send, other)
        } else {
            (other, to_send)
        };
        // Who has nothing to send does not end its direction, which would end the server.
        let (server_end, client_end) = if server_sends { ("-N", "") } else { ("", "-N") };
        let server = nc(
            &format!("{server_end} -l"),
            port,
            server_in,
            &lab.dir().join("server"),
        )
        .listening(port);
        let client = nc(client_end, port, client_in, &lab.dir().join("client"));
        client.finish().ok();
        server.finish().ok();
        let got = stream::hash_file(&lab.dir().join(receiver));
        assert_eq!(
            got,
            ((MIB as u64) << 20, hash),
            "what the {receiver} received"
        );
    }
    lab.assert_share(SHARE);
    lab.assert_clean();
}

fn python(kind: &str, connections: usize) {
    let lab = Lab::start();
    let port = net::free_port();
    let script = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("python")
            .join(name)
    };
    let server = lab
        .shim("/usr/bin/python3")
        .arg(script("echo.py"))
        .args([kind, &port.to_string()])
        .limit(Duration::from_secs(120))
        .spawn()
        .listening(port);
    let text = lab
        .shim("/usr/bin/python3")
        .arg(script("ask.py"))
        .words(&format!("{port} {connections} {}", MIB / connections))
        .limit(Duration::from_secs(120))
        .finish()
        .ok();
    assert_eq!(
        text.trim(),
        format!("{connections} of {connections} the same")
    );
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

#[test]
fn python_asyncio() {
    python("asyncio", 1);
}

#[test]
fn python_asyncio_many() {
    python("asyncio", 16);
}

#[test]
fn python_threads() {
    python("threads", 1);
}

#[test]
fn python_threads_many() {
    python("threads", 16);
}
