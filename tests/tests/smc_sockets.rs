//! Programs that ask for SMC by themselves get TCP sockets that the shim accelerates.

use tests::{Lab, Stats, ccase, plain_only};

#[test]
fn smc_sockets_are_tcp_sockets() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let text = lab
        .eager(ccase::compile("smc"))
        .env("TEST_WARM", "64")
        .arg("sockets")
        .finish()
        .ok();
    assert_eq!(text.matches("= 8\n").count(), 8, "{text}");
    assert_eq!(text.matches("= 0\n").count(), 4, "{text}");
    assert!(lab.settled().share_smc(&Stats::zero()) > 0.0);
    lab.assert_clean();
}
