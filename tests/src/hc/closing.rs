//! Ends and errors.

super::rows! {
    51 P0 Same "half-close, from either end"
        ["differential::closing::half_close"] "";
    52 P1 Same "shutdown for reading"
        ["differential::closing::shutdown_read" "differential::closing::shut_for_reading"
         "differential::waiting::woken_by_shutdown"] "";
    53 P0 Same "close with unread bytes resets"
        ["differential::closing::unread_data"] "";
    54 P0 Same "SO_LINGER"
        ["differential::closing::linger_zero"] "";
    55 P0 Same "what was sent survives the exit of the sender"
        ["differential::closing::data_survives_exit" "differential::closing::queue_1mb_and_close"] "";
    56 P0 Limit "either end killed or stopped, at any moment"
        ["differential::death::killed_after_half_close" "differential::death::killed_writer"
         "differential::death::killed_reader" "faults::clients_and_servers_killed"
         "faults::peer_stopped"]
        "A kill within the handshake may show as a reset, see [limits](limits.md).";
    57 P0 Same "a peer that writes nonsense into the shared memory"
        ["hostile::a_table_full_of_nonsense_harms_nobody" "hostile::unfit_files_are_refused"]
        "Files are sealed by the daemon; each word is checked before use.";
    58 P1 Same "abort, exit with atexit functions and destructors that use sockets"
        ["differential::hc_data::hc_058_last_words"] "";
    59 P1 Same "close in one thread while another waits in recv; the number used again"
        ["differential::hc_data::hc_059_close_under_a_sleeper"] "";
    60 P0 Same "dup2 over a descriptor in use"
        ["differential::hc_data::hc_060_dup2_under_a_sleeper"
         "differential::calls::replaced_while_polled" "differential::closing::dup2_over"] "";
    61 P1 Same "the same addresses and ports again, milliseconds later"
        ["differential::hc_setup::hc_061_same_ports"] "";
    62 P1 Same "keepalive and TCP_USER_TIMEOUT on an idle connection"
        ["differential::hc_data::hc_062_keepalive"] "";
    63 P1 Limit "a packet filter that cuts the TCP connection under a ring"
        ["namespaces::hc_063_packet_filter"]
        "What the kernel's socket reports (a reset, a time-out) the program gets; but bytes on a ring pass no filter, and go on until then.";
}
