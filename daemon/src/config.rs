//! Options of `smclod`.

use crate::arena::MIN_ARENA;
use crate::eid;
use crate::policy::Limits;
use clap::Parser;
use protocol::ids::{Eid, Gid};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the system's policy is, unless told otherwise.
pub const POLICY: &str = "/etc/smclo/smclo.toml";

/// The SMC-D loopback device of one host: pairs local TCP connections and gives them shared memory.
#[derive(Clone, Debug, Parser)]
#[command(name = "smclod", version, max_term_width = 100)]
pub struct Config {
    /// Listen here instead of the default place.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Policy for all programs.
    #[arg(long, value_name = "FILE", default_value = POLICY)]
    pub config: PathBuf,

    /// GID of the device, as a UUID; drawn at random unless given.
    #[arg(long, value_name = "UUID", value_parser = gid)]
    pub gid: Option<Gid>,

    /// User EID; may be given up to four times. Replaces the default one.
    #[arg(long, value_name = "EID", value_parser = eid::parse)]
    pub ueid: Vec<Eid>,

    /// Whether the system EID takes part in the match.
    #[arg(long, value_name = "on|off", default_value = "off", value_parser = on_off,
          action = clap::ArgAction::Set)]
    pub seid: bool,

    /// Most DMBs at one time.
    #[arg(long, value_name = "N", default_value_t = 65536)]
    pub max_dmbs: usize,

    /// Most DMBs for one user at one time.
    #[arg(long, value_name = "N", default_value_t = 32768)]
    pub max_dmbs_per_uid: usize,

    /// Most bytes of DMBs for one user.
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = size)]
    pub max_bytes_per_uid: u64,

    /// Most claims of one client that wait at one time.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_claims_per_client: usize,

    /// Most claims that one user may make in a second; 0: no limit.
    #[arg(long, value_name = "N", default_value_t = 20000)]
    pub max_claims_per_second: u32,

    /// Bytes of a link group's memory; taken only as far as it is used.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = arena)]
    pub arena: u64,

    /// Serve metrics for Prometheus at this loopback address: http://ADDRESS:PORT/metrics.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = metrics)]
    pub metrics: Option<SocketAddr>,

    /// Stay in the foreground; there is no other mode.
    #[arg(long)]
    pub foreground: bool,

    /// Write a byte to this descriptor when listening.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub ready_fd: Option<i32>,
}

impl Config {
    /// Takes over what the policy limits, except where the command line (`given`) says otherwise.
    pub fn limit(&mut self, limits: &Limits, given: impl Fn(&str) -> bool) {
        if let Some(n) = limits.dmbs.filter(|_| !given("max_dmbs")) {
            self.max_dmbs = n as usize;
        }
        if let Some(n) = limits
            .bytes_per_user
            .filter(|_| !given("max_bytes_per_uid"))
        {
            self.max_bytes_per_uid = n;
        }
        let claims = limits.claims_per_process;
        if let Some(n) = claims.filter(|_| !given("max_claims_per_client")) {
            self.max_claims_per_client = n as usize;
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::parse_from(["smclod"])
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("say on or off".into()),
    }
}

fn gid(text: &str) -> Result<Gid, String> {
    let why = || "a UUID has 32 hexadecimal digits".to_string();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(why());
    }
    u128::from_str_radix(&digits, 16)
        .map(Gid::from_uuid)
        .map_err(|_| why())
}

/// Whoever can connect can read: so nobody from another host.
fn metrics(text: &str) -> Result<SocketAddr, String> {
    let at: SocketAddr = text.parse().map_err(|_| "say ADDRESS:PORT")?;
    if !at.ip().is_loopback() {
        return Err("only a loopback address, such as 127.0.0.1:9464".into());
    }
    Ok(at)
}

fn arena(text: &str) -> Result<u64, String> {
    let len = size(text)?;
    // Offsets must fit the file size of every file system, and DMBs are page aligned.
    if (MIN_ARENA..1 << 40).contains(&len) && len % 4096 == 0 {
        Ok(len)
    } else {
        Err(format!(
            "a multiple of 4K, at least {MIN_ARENA} and less than 1024G"
        ))
    }
}

/// A number of bytes, with an optional suffix k, m or g in either case.
pub fn size(text: &str) -> Result<u64, String> {
    let why = || "a size is a number with an optional suffix k, m or g".to_string();
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 10),
        Some(b'm') => (&text[..text.len() - 1], 20),
        Some(b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(why());
    }
    let n: u64 = digits.parse().map_err(|_| why())?;
    n.checked_mul(1 << shift).ok_or_else(why)
}

/// A random GID in the form of a version 4 UUID.
pub fn random_gid() -> Gid {
    let random: u128 = rand::random();
    let uuid = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    Gid::from_uuid(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64k"), Ok(65536));
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("0"), Ok(0));
        for bad in [
            "",
            "k",
            "-1",
            "+1",
            "1.5k",
            "1kk",
            "99999999999999999999",
            "99999999999G",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(arena("1M").is_err() && arena("256M").is_ok());
    }

    #[test]
    fn gids() {
        let want = Gid {
            gid: 0x0011_2233_4455_6677,
            ext: 0x8899_aabb_ccdd_eeff,
        };
        assert_eq!(gid("00112233-4455-6677-8899-aabbccddeeff"), Ok(want));
        assert!(gid("0011").is_err() && gid(&"+".repeat(32)).is_err());
        assert_eq!(random_gid().gid >> 12 & 0xf, 4);
        assert_eq!(random_gid().ext >> 62, 2);
    }

    #[test]
    fn bad_options_are_refused() {
        for bad in [
            &["--seid", "maybe"][..],
            &["--ueid", "lower"],
            &["--arena", "1k"],
            &["extra"],
            &["--metrics", "0.0.0.0:1"],
            &["--metrics", "9464"],
        ] {
            let args = ["smclod"].iter().chain(bad);
            assert!(Config::try_parse_from(args).is_err(), "{bad:?}");
        }
        assert!(!Config::default().seid);
    }
}
