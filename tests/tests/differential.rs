//! Cases that must behave under the shim as on plain TCP: `tests/c/*.c`.
//!
//! One case by hand: `cargo test -p tests --test differential transfer::splice`; the program
//! itself is `target/tests/transfer-*`, with the case as its argument.

use std::collections::BTreeSet;
use tests::Lab;
use tests::ccase::{Carrier, compare, compile};

/// One test per case; `Fast`: bytes must have gone over SMC.
macro_rules! cases {
    ($program:ident: $($case:ident $carrier:ident,)*) => {
        mod $program {
            use super::*;

            $(
                #[test]
                fn $case() {
                    compare(stringify!($program), stringify!($case), Carrier::$carrier);
                }
            )*

            #[test]
            fn all_cases_are_here() {
                let here = [$(stringify!($case)),*].map(String::from);
                let program = compile(stringify!($program));
                let listed = Lab::without_daemon().plain(program).finish().ok();
                let listed: BTreeSet<_> = listed.lines().map(String::from).collect();
                assert_eq!(BTreeSet::from(here), listed);
            }
        }
    };
}

cases! { setup:
    one_thread Fast,
    late_accept Fast,
    short_connections Any,
    gone_before_accept Any,
    nonblocking_connect Fast,
    refused Any,
    accept_flags Any,
    lowest_fd Fast,
    ipv6 Fast,
    disconnect Fast,
    self_connect Any,
    many Fast,
}

cases! { asleep:
    ends Fast,
    killed Fast,
    urgent Fast,
    renamed Fast,
    limit Fast,
    signalled Fast,
    stopped Fast,
    cancelled Fast,
    by_turns Fast,
    left_to_a_child Fast,
}

cases! { passing:
    unread Fast,
    greeted Fast,
    client_end Fast,
    in_use Any,
    by_number Fast,
    sender_asleep Fast,
    exec_asleep Fast,
    taken Tcp,
    taken_on_ring Fast,
    sender_keeps Tcp,
    two_receivers Tcp,
    peeked Tcp,
    passed_twice Tcp,
    inherited Tcp,
}

cases! { transfer:
    flags Fast,
    fionread Fast,
    timeouts Fast,
    vectors Fast,
    mmsg Fast,
    bad_pointers Fast,
    sendfile Fast,
    splice Fast,
    splice_into_pieces Fast,
    lowat Fast,
    oob Fast,
    buffer_options Fast,
}

cases! { closing:
    few_bytes_before_reset Any,
    queue_1mb_and_close Any,
    half_close Fast,
    shutdown_read Fast,
    shut_for_reading Fast,
    unread_data Fast,
    so_error_after_reset Fast,
    broken_pipe Fast,
    own_shutdown_pipe Fast,
    default_sigpipe Fast,
    data_survives_exit Fast,
    linger_zero Fast,
    duplicates Fast,
    dup2_over Fast,
    close_range_all Fast,
    close_both Fast,
    late_calls Any,
    late_polls Any,
}

cases! { polling:
    level Fast,
    edge Fast,
    oneshot Fast,
    add_early Fast,
    sets_and_duplicates Fast,
    nested Any,
    full_and_out Fast,
    poll_masks Fast,
    selects Fast,
    fairness Fast,
    changed_while_waiting Fast,
}

cases! { sets:
    room_for_one Fast,
    delete_and_add Fast,
    delete_dup_and_close Fast,
    delete_under_a_sleeper Fast,
    delete_and_hand_on Any,
    quiet_ones Fast,
}

cases! { edges:
    end_behind_own_shutdown Fast,
    taken_before_the_wait Fast,
    room_and_bytes Fast,
    lowat_is_an_edge Fast,
    closed_in_a_receive Fast,
    closed_and_held_by_a_child Fast,
    child_starts_a_program Fast,
    unread_behind_an_end Fast,
    set_over_exec Fast,
    beyond_urgent_data Fast,
    end_with_bytes Fast,
}

cases! { shared_sets:
    edge_is_told_once Fast,
    untold_edge_is_told_once Fast,
    level_is_told_to_both Fast,
    one_shot Fast,
    entered_after_the_fork Fast,
    child_closes_all Fast,
    handed_to_the_child Fast,
    polled_edges Fast,
    polled_room Fast,
    polled_one_shot Fast,
    polled_before_the_wait Fast,
    watched_by_a_set Fast,
    entry_used_again Fast,
    set_closed_by_its_maker Fast,
    end_is_told_once Fast,
}

cases! { closed_sets:
    level_in_the_child Fast,
    input_in_the_child Fast,
    edge_in_the_child Fast,
    one_shot_in_the_child Fast,
    wakes_the_child Fast,
    end_wakes_the_child Fast,
    in_the_parent Fast,
}

cases! { sifted:
    exclusive Fast,
    equal_data Fast,
    many Fast,
    without_proc Fast,
    fired_in_the_child Fast,
    fired_and_inherited Fast,
}

cases! { waiting:
    asleep_in_recv Any,
    asleep_in_waitall Any,
    asleep_in_poll Any,
    asleep_in_epoll Any,
    asleep_in_splice Any,
    woken_by_shutdown Fast,
    two_senders Any,
    two_receivers Fast,
    two_threads_one_set Fast,
    eintr Fast,
    restart Fast,
    handler_uses_sockets Fast,
    handler_jumps Fast,
    cancellation Fast,
    no_room_to_wait Fast,
    set_without_room Fast,
}

cases! { roomless:
    every_call Fast,
}

cases! { process:
    child_serves Fast,
    prefork Fast,
    both_share Any,
    snapshot_child Fast,
    inetd_cat Any,
    exec_with_unread Any,
    cloexec Any,
    spawned Fast, spawned_marked Fast, many_inherited Fast, asleep_while_parent_spawns Fast,
    stdio Any,
    passed_on Any,
}

cases! { leaving:
    forks Fast,
    programs Fast,
}

cases! { standing:
    programs Fast,
    exec Fast,
    passed Fast,
    stream Fast,
    same_reader Fast,
}

cases! { odd:
    by_number Fast,
    past_the_library Any,
    one_end_past Any,
    few_descriptors Any,
    standard_descriptors Any,
    fork_among_threads Fast,
    set_across_fork Fast,
    exclusive Any,
    signal_driven Fast,
    small_stacks Fast,
    shared_port Fast,
}

cases! { args:
    lengths Fast,
    addresses Fast,
    narrow_option Fast,
    long_times Fast,
    numbers Fast,
    nobody_elses Fast,
    more_than_the_set Fast,
    restarted_splice Fast,
    sendfile_unknown_length Fast,
    same_structure Fast,
    control_data Fast,
}

cases! { calls:
    sends_interrupted Fast,
    receives_interrupted Fast,
    senders_woken Fast,
    times_below_zero Fast,
    times_below_zero_inherited Fast,
    headers Fast,
    splice_refused Fast,
    replaced_while_polled Fast,
}

cases! { woken:
    closed_and_woken_at_once Fast,
    nothing_woken_by_room Fast,
    room_used_again Fast,
    stamped_meanwhile Fast,
    interrupted_and_woken_at_once Fast,
    urgent_behind_bytes Fast,
    urgent_behind_bytes_of_another Fast,
    interrupted_between_looks Fast,
}

cases! { bulk:
    own_both_ends Fast,
    full_then_room Fast,
    random_sizes Fast,
    pure_uploader Fast,
    reader_behind Fast,
}

cases! { mesh:
    many_in_loops Fast,
}

cases! { death:
    killed_after_half_close Fast,
    killed_writer Fast,
    killed_reader Fast,
    killed_behind_full Fast,
    killed_asleep Any,
    killed_in_a_pause Fast,
}

cases! { hc_setup:
    hc_005_full_backlog Any,
    hc_009_reuseport_mixed Fast,
    hc_010_inherited_listener Fast,
    hc_011_exclusive_listener Any,
    hc_015_special_options Any,
    hc_016_wrong_order Any,
    hc_017_v6only Fast,
    hc_061_same_ports Fast,
}

cases! { hc_data:
    hc_023_full_duplex Fast,
    hc_025_long_send Fast,
    hc_030_nonblock_elsewhere Fast,
    hc_032_urgent Fast,
    hc_033_sigpipe_thread Fast,
    hc_034_cork Fast,
    hc_035_error_queue Any,
    hc_040_tcp_info Fast,
    hc_040_inq Fast,
    hc_049_not_a_file Fast,
    hc_058_last_words Any,
    hc_059_close_under_a_sleeper Fast,
    hc_060_dup2_under_a_sleeper Fast,
    hc_062_keepalive Fast,
}

cases! { hc_sets:
    hc_065_epollet Fast,
    hc_066_oneshot_threads Fast,
    hc_067_unasked Fast,
    hc_070_nested Any,
    hc_071_set_travels Fast,
    hc_072_number_again Fast,
    hc_073_changed_while_waiting Fast,
    hc_074_poll_and_select Fast,
    hc_076_timeouts Fast,
    hc_077_no_busy_loop Fast,
    hc_078_many_registered Fast,
    hc_080_odd_bits Fast,
}

cases! { hc_process:
    hc_082_two_writers Fast,
    hc_084_shared_memory_children Fast,
    hc_089_cloexec_changes Fast,
    hc_090_closes_everything Fast,
    hc_091_numbers Fast,
    hc_093_little_memory Any,
    hc_095_chroot Fast,
    hc_096_setuid Any,
    hc_117_seccomp_errno Any,
    hc_117_seccomp_kill Any,
    hc_117_seccomp_threads Fast,
    hc_117_seccomp_strict Fast,
}

cases! { hc_runtime:
    hc_102_which_handler Fast,
    hc_102_every_call Fast,
    hc_102_longjmp Fast,
    hc_103_handler_storm Fast,
    hc_104_small_stacks Fast,
    hc_105_cancelled Fast,
    hc_105_cancelled_before Fast,
    hc_107_errno Fast,
    hc_119_switched_stacks Fast,
    hc_120_resolver Fast,
}
