//! Policy files, as clients and claims meet them.

mod support;

use protocol::ctl::{Claim, Refused, Settings};
use protocol::ids::Role;
use protocol::reason;
use protocol::stats::{TEXT_AT, TableHeader};
use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use support::{Client, Daemon, Files, Tcp};

/// A daemon with a system policy; the file goes with it.
struct Policed {
    daemon: Daemon,
    file: PathBuf,
}

impl Policed {
    fn new(text: &str) -> Self {
        let mut file = PathBuf::new();
        let daemon = Daemon::start(|config| {
            file.clone_from(&config.config);
            fs::write(&file, text).unwrap();
        });
        Policed { daemon, file }
    }
}

impl Drop for Policed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// A client whose user has this file.
fn with_user_file(daemon: &Daemon, program: &str, text: &str) -> Client {
    let files = Files::new();
    files
        .table
        .write_all_at(text.as_bytes(), TEXT_AT as u64)
        .unwrap();
    let len = (text.len() as u32).to_ne_bytes();
    let at = offset_of!(TableHeader, text_len) as u64;
    files.table.write_all_at(&len, at).unwrap();
    Client::join(daemon, &files, program)
}

/// Claims both ends; what the first hears.
fn refusal(client: &Client, claim: &Claim) -> u32 {
    client.send(claim);
    client.get::<Refused>().reason
}

#[test]
fn settings_come_with_the_welcome() {
    let policed = Policed::new("spin_us = 7\n[[rule]]\nprogram = 'web'\nmode = 'copy'");
    let web = with_user_file(&policed.daemon, "web", "receive_buffer = '64k'");
    let want = Settings {
        spin_us: 7,
        copy: 1,
        rcvbuf: 65536,
        ..Settings::default()
    };
    assert_eq!(web.welcome.settings, want);
    // A mistake in a user's file makes all of it void, and nothing else.
    let other = with_user_file(&policed.daemon, "other", "spin_us = 'x'\nmode = 'copy'");
    assert_eq!(
        (other.welcome.settings.spin_us, other.welcome.settings.copy),
        (7, 0)
    );
}

#[test]
fn a_changed_file_holds_at_once() {
    let policed = Policed::new("accelerate = false");
    let off = Client::new(&policed.daemon);
    assert_eq!(off.welcome.settings.accelerate, 0);
    let tcp = Tcp::new();
    assert_eq!(
        refusal(&off, &tcp.claim(Role::Client, 1)),
        reason::POLICY_OFF
    );
    fs::write(&policed.file, "claim_after_exchanges = 3").unwrap();
    let on = Client::new(&policed.daemon);
    let settings = on.welcome.settings;
    assert_eq!((settings.accelerate, settings.exchanges), (1, 3));
    off.send(&tcp.claim(Role::Client, 2));
    off.send(&tcp.claim(Role::Server, 3));
    off.get::<protocol::ctl::Paired>();
}

#[test]
fn rules_judge_single_connections() {
    let tcp = Tcp::new();
    let port = tcp.server.local_addr().unwrap().port();
    let policed = Policed::new(&format!("[[rule]]\nport = {port}\naccelerate = false"));
    let plain = Client::new(&policed.daemon);
    assert_eq!(plain.welcome.settings.accelerate, 1);
    for (n, role) in [(1, Role::Client), (2, Role::Server)] {
        assert_eq!(refusal(&plain, &tcp.claim(role, n)), reason::POLICY_OFF);
    }
    // The user's word comes later.
    let text = format!("[[rule]]\naddress = '127.0.0.0/8'\nport = {port}\naccelerate = true");
    let user = with_user_file(&policed.daemon, "user", &text);
    user.send(&tcp.claim(Role::Client, 1));
    user.send(&tcp.claim(Role::Server, 2));
    user.get::<protocol::ctl::Paired>();
}

#[test]
fn a_process_has_so_many_connections() {
    let policed = Policed::new("[[rule]]\nprogram = 'few'\nconnections = 1");
    let few = Client::join(&policed.daemon, &Files::new(), "few");
    let many = Client::join(&policed.daemon, &Files::new(), "many");
    let (one, two) = (Tcp::new(), Tcp::new());
    few.send(&one.claim(Role::Client, 1));
    many.send(&one.claim(Role::Server, 1));
    few.get::<protocol::ctl::Paired>();
    many.get::<protocol::ctl::Paired>();
    assert_eq!(
        refusal(&few, &two.claim(Role::Client, 2)),
        reason::POLICY_LIMIT
    );
}
