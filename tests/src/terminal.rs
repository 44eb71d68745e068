//! A real terminal (tmux), for what a person sees and types.

use crate::{Lab, net};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A terminal of its own, gone on drop.
#[derive(Debug)]
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// With a command of the shell running in it.
    #[track_caller]
    pub fn start(lab: &Lab, command: &str) -> Terminal {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tmux.{}", COUNT.fetch_add(1, Relaxed));
        let socket = lab.dir().join(name).display().to_string();
        let terminal = Terminal { socket };
        terminal.tmux(&["new-session", "-d", "-x", "160", "-y", "40", command]);
        terminal
    }

    #[track_caller]
    fn tmux(&self, words: &[&str]) -> String {
        let output = self.command().args(words).output().expect("tmux");
        assert!(output.status.success(), "tmux {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types a text; a key by its name (`Tab`, `Enter`).
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    #[track_caller]
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"]);
        command.env("TERM", "xterm-256color");
        command
    }

    /// Waits until all these stand on the screen; gives it, with its colours.
    #[track_caller]
    pub fn shows(&self, parts: &[&str]) -> String {
        self.wait_for(&["capture-pane", "-p", "-e"], parts)
    }

    /// As [`Terminal::shows`], without colours, which may stand between two words.
    #[track_caller]
    pub fn reads(&self, parts: &[&str]) -> String {
        self.wait_for(&["capture-pane", "-p"], parts)
    }

    #[track_caller]
    fn wait_for(&self, capture: &[&str], parts: &[&str]) -> String {
        let mut screen = String::new();
        let shown = net::wait_until(Duration::from_secs(20), || {
            screen = self.tmux(capture);
            parts.iter().all(|part| screen.contains(part))
        });
        assert!(shown, "not all of {parts:?} in\n{screen}");
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").status();
    }
}
