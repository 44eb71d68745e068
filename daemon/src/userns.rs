//! Which user a number means: user_namespaces(7).

use std::fs;
use std::io::ErrorKind;

/// The number under which all users are seen for whom this process' user namespace has none: several
/// of them would look like one, and like the one whose number it is. None: every user has his own.
pub fn stands_for_many() -> Option<u32> {
    // A kernel without user namespaces has no such file. A map that cannot be read may leave somebody out.
    let map = match fs::read_to_string("/proc/self/uid_map") {
        Err(e) if e.kind() == ErrorKind::NotFound && fs::exists("/proc/self").unwrap_or(false) => {
            return None;
        }
        map => map.unwrap_or_default(),
    };
    if is_whole(&map) {
        return None;
    }
    let number = fs::read_to_string("/proc/sys/kernel/overflowuid");
    Some(
        number
            .ok()
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(65534),
    )
}

/// Whether a map (first number inside, first number outside, how many) leaves nobody out.
fn is_whole(map: &str) -> bool {
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    map.lines().filter_map(count).sum::<u64>() >= u32::MAX.into()
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn maps() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(is_whole("0 0 1000\n1000 1000 4294966295\n"));
        for part in [
            "",
            "0 1000 1\n",
            "0 100000 65536\n",
            "0 0 1000\n1000 5000 65536\n",
        ] {
            assert!(!is_whole(part), "{part}");
        }
    }
}
