//! Size codes of DMBs against what Linux 6.12 chose for a value of `SO_RCVBUF` or `net.smc.rmem`.

use protocol::shm::{DMB_CODE_MAX, DMB_MIN, dmb_code, dmb_len};

#[test]
fn captured_codes() {
    for (asked, code) in [
        (0, 0),
        (1, 0),
        (16384, 0),
        (16385, 1),
        (32768, 1),
        (32769, 2),
        (65536, 2),
        (65537, 3),
        (131072, 3),
        (131073, 4),
        (262144, 4),
        (262145, 5),
        (524288, 5),
        (524289, 6),
        (1048576, 6),
        (4194304, 6),
        (u32::MAX, 6),
    ] {
        assert_eq!(dmb_code(asked), code, "{asked}");
    }
}

#[test]
fn lengths_and_codes_agree() {
    for code in 0..=DMB_CODE_MAX {
        let len = dmb_len(code).unwrap();
        assert_eq!(len, DMB_MIN << code);
        assert_eq!(dmb_code(len), code);
        assert_eq!(dmb_code(len + 1), (code + 1).min(DMB_CODE_MAX));
    }
    for code in DMB_CODE_MAX + 1..=u8::MAX {
        assert_eq!(dmb_len(code), None, "{code}");
    }
}
