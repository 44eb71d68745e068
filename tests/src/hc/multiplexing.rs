//! Multiplexing.

super::rows! {
    64 P0 Same "level-triggered sets; rings and other descriptors together"
        ["differential::polling::level" "differential::polling::fairness"] "";
    65 P0 Same "EPOLLET: one event for each arrival, armed again by MOD, full masks"
        ["differential::hc_sets::hc_065_epollet" "differential::polling::edge"] "";
    66 P0 Same "EPOLLONESHOT, also with several threads"
        ["differential::hc_sets::hc_066_oneshot_threads" "differential::polling::oneshot"] "";
    67 P0 Same "RDHUP, HUP and ERR, asked for or not"
        ["differential::hc_sets::hc_067_unasked"] "";
    68 P0 Same "registered before connect; upgraded and taken back while registered"
        ["differential::polling::add_early" "differential::waiting::asleep_in_epoll"] "";
    69 P0 Same "one socket in two sets, duplicates in one"
        ["differential::polling::sets_and_duplicates"] "";
    70 P0 Tcp "sets within sets, in poll and in select"
        ["differential::hc_sets::hc_070_nested" "differential::polling::nested"] "";
    71 P0 Same "a set shared by threads, duplicated, inherited, passed on"
        ["differential::waiting::two_threads_one_set" "differential::hc_sets::hc_071_set_travels"
         "differential::odd::set_across_fork"]
        "Connections in a set that another process uses are on TCP.";
    72 P0 Same "close without DEL, and the number used again"
        ["differential::hc_sets::hc_072_number_again"] "";
    73 P0 Same "epoll_ctl while another thread waits"
        ["differential::hc_sets::hc_073_changed_while_waiting"
         "differential::polling::changed_while_waiting"] "";
    74 P1 Same "poll and select: many, negative and repeated descriptors, masks, time left"
        ["differential::hc_sets::hc_074_poll_and_select" "differential::polling::selects"
         "differential::polling::poll_masks"] "";
    75 P0 Same "poll for nothing still reports HUP and ERR"
        ["differential::polling::poll_masks"] "";
    76 P1 Same "time limits: never early, up to the largest"
        ["differential::hc_sets::hc_076_timeouts"] "";
    77 P0 Same "no processor time while idle or full"
        ["differential::hc_sets::hc_077_no_busy_loop" "faults::idle_connections_are_free"
         "faults::peer_stopped"] "";
    78 P1 Same "a thousand registered, ten active"
        ["differential::hc_sets::hc_078_many_registered"] "";
    79 P2 Tcp "signal-driven input"
        ["differential::odd::signal_driven"] "";
    80 P1 Same "the rare bits of poll and epoll, wrong arguments"
        ["differential::hc_sets::hc_080_odd_bits"] "";
}
