//! The values of a policy, each of its kind.

use super::Network;
use crate::config::size;
use nix::unistd::User;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::DeValue;

pub(super) type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;
/// A value that is not what it has to be.
pub(super) type Wrong = (Range<usize>, String);

pub(super) fn boolean(value: Value<'_, '_>) -> Result<bool, Wrong> {
    let why = || (value.span(), "say true or false".into());
    value.get_ref().as_bool().ok_or_else(why)
}

pub(super) fn choice<const N: usize>(
    value: Value<'_, '_>,
    words: [&str; N],
) -> Result<usize, Wrong> {
    let said = value.get_ref().as_str();
    let at = words.iter().position(|w| Some(*w) == said);
    at.ok_or_else(|| {
        let words = words.map(|w| format!("{w:?}"));
        (value.span(), format!("say {}", words.join(" or ")))
    })
}

fn plain_number(value: Value<'_, '_>) -> Option<u64> {
    let n = value.get_ref().as_integer()?;
    u64::from_str_radix(n.as_str(), n.radix()).ok()
}

fn within(
    value: Value<'_, '_>,
    n: Option<u64>,
    range: RangeInclusive<u64>,
    what: &str,
) -> Result<u64, Wrong> {
    n.filter(|n| range.contains(n)).ok_or_else(|| {
        let (from, to) = range.into_inner();
        (value.span(), format!("{what} from {from} to {to}"))
    })
}

pub(super) fn number(value: Value<'_, '_>, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    within(value, plain_number(value), range, "a number")
}

pub(super) fn bytes(value: Value<'_, '_>, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let n = match value.get_ref().as_str() {
        Some(text) => size(text).ok(),
        None => plain_number(value),
    };
    within(
        value,
        n,
        range,
        "bytes, a number or a text such as \"256k\",",
    )
}

pub(super) fn program(value: Value<'_, '_>) -> Result<String, Wrong> {
    let text = value
        .get_ref()
        .as_str()
        .filter(|t| !t.is_empty() && !t.contains('/'));
    let why = || {
        let why = "a name as in /proc/PID/comm, without a path; * at the end for anything";
        (value.span(), why.into())
    };
    text.map(str::to_owned).ok_or_else(why)
}

pub(super) fn ports(value: Value<'_, '_>) -> Result<RangeInclusive<u16>, Wrong> {
    let why = || {
        let why = "a port from 1 to 65535, or a range such as \"6000-6010\"";
        (value.span(), why.into())
    };
    let port = |n: u64| u16::try_from(n).ok().filter(|n| *n != 0);
    if let Some(n) = plain_number(value) {
        return port(n).map(|n| n..=n).ok_or_else(why);
    }
    let text = value.get_ref().as_str().ok_or_else(why)?;
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let end = |text: &str| port(text.trim().parse().ok()?);
    match (end(from), end(to)) {
        (Some(from), Some(to)) if from <= to => Ok(from..=to),
        _ => Err(why()),
    }
}

pub(super) fn network(value: Value<'_, '_>) -> Result<Network, Wrong> {
    let why = || {
        let why = "an IP address, or a network such as \"127.0.0.0/8\" or \"fd00::/8\"";
        (value.span(), why.into())
    };
    let text = value.get_ref().as_str();
    text.and_then(Network::parse).ok_or_else(why)
}

/// Names are looked up for the system's file only: the text of a user must not make the daemon wait
/// for a directory service.
pub(super) fn user(value: Value<'_, '_>, names: bool) -> Result<u32, Wrong> {
    let wrong = |why: &str| (value.span(), why.to_owned());
    if let Some(n) = plain_number(value) {
        return u32::try_from(n).map_err(|_| wrong("no number of a user"));
    }
    match value.get_ref().as_str() {
        Some(name) if names => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            _ => Err(wrong("there is no such user")),
        },
        Some(_) => Err(wrong(
            "users are named only in the system's file; say the number",
        )),
        None => Err(wrong("the name or the number of a user")),
    }
}
