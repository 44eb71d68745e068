//! What a person gives the daemon: options, sizes, EIDs, a policy file. No text makes it panic.
#![no_main]

use clap::Parser;
use daemon::config::{Config, size};
use daemon::eid;
use daemon::policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = size(text);
    if let Ok(eid) = eid::parse(text) {
        assert_eq!(eid::parse(&eid::text(&eid)), Ok(eid));
    }
    for system in [true, false] {
        let _ = policy::parse(text, system).is_valid();
    }
    let words = text.split('\n').filter(|w| !w.is_empty());
    let _ = Config::try_parse_from(std::iter::once("smclod").chain(words));
});
