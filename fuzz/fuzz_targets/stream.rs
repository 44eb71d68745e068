//! Messages taken out of a stream that comes in pieces: the library's rule, with random cuts. What is
//! taken does not depend on the cuts, and what is no message stays on the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::clc;

/// What a library makes of the bytes that are there so far.
#[derive(Debug, PartialEq)]
enum Taken {
    /// It waits for more.
    More,
    /// A message of so many bytes.
    Message(usize),
    /// Not a message: the program's bytes.
    Program,
    /// Nobody can tell what is whose.
    Garbled,
}

/// As `take_locked` of the library does; `end`: nothing more will come.
fn take(bytes: &[u8], end: bool) -> Taken {
    let Some(head) = bytes.first_chunk::<{ clc::HEADER_LEN }>() else {
        return match (end, clc::may_begin(bytes) && !bytes.is_empty()) {
            (false, _) => Taken::More,
            (true, true) => Taken::Garbled,
            (true, false) => Taken::Program,
        };
    };
    let Ok(len) = clc::message_len(head) else {
        return Taken::Program;
    };
    assert!(len <= clc::MAX_LEN && len >= clc::HEADER_LEN);
    match bytes.get(..len) {
        None if end => Taken::Garbled,
        None => Taken::More,
        Some(whole) if clc::is_whole(whole) => {
            let _ = clc::decode(whole);
            Taken::Message(len)
        }
        Some(_) => Taken::Garbled,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((cuts, bytes)) = input.split_at_checked(8) else {
        return;
    };
    let whole = take(bytes, true);
    let mut at = 0;
    for cut in cuts {
        at = (at + usize::from(*cut)).min(bytes.len());
        match take(&bytes[..at], false) {
            Taken::More => {}
            early => return assert_eq!(early, whole, "after {at} bytes"),
        }
    }
});
