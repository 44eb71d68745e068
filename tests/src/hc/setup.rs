//! Setting up.

super::rows! {
    1 P0 Same "connect, then accept, in one thread"
        ["differential::setup::one_thread"] "";
    2 P0 Same "the client connects and writes long before the server accepts"
        ["differential::setup::late_accept"] "";
    3 P0 Same "the client is gone before accept"
        ["differential::setup::gone_before_accept"] "";
    4 P0 Same "non-blocking connect: each errno, SO_ERROR and the edge, once"
        ["differential::setup::nonblocking_connect" "differential::polling::add_early"] "";
    5 P0 Same "connect refused, or a backlog that is full"
        ["differential::setup::refused" "differential::hc_setup::hc_005_full_backlog"] "";
    6 P1 Tcp "a socket connected to itself"
        ["differential::setup::self_connect"] "";
    7 P0 Same "what accept inherits of flags and options, and what it does not"
        ["differential::setup::accept_flags"] "";
    8 P0 Same "forked workers that share one listener"
        ["differential::process::prefork" "programs_web::two_workers"] "";
    9 P0 Same "SO_REUSEPORT groups, with members that do not have the library"
        ["differential::odd::shared_port" "differential::hc_setup::hc_009_reuseport_mixed"] "";
    10 P1 Same "a listener that comes through exec (inetd, socket activation)"
        ["differential::hc_setup::hc_010_inherited_listener"] "";
    11 P1 Same "EPOLLEXCLUSIVE on a shared listener"
        ["differential::hc_setup::hc_011_exclusive_listener" "programs_web::two_workers"]
        "Connections registered with EPOLLEXCLUSIVE themselves stay on TCP (`differential::odd::exclusive`).";
    12 P0 Tcp "the peer does not have the library"
        ["fallback::client_alone" "fallback::server_alone"]
        "Byte for byte the same on the wire.";
    13 P0 Tcp "the peer has another daemon, user or policy"
        ["fallback::two_daemons" "fallback::two_daemons_with_one_gid" "fallback::policy_off"
         "users::ends_of_different_users_are_not_paired"] "";
    14 P1 Tcp "the daemon is absent, hung, restarted, or full"
        ["fallback::no_daemon" "fallback::daemon_stopped_from_the_start" "fallback::out_of_dmbs"
         "faults::daemon_killed" "faults::daemon_stopped"]
        "Connections that are accelerated already go on.";
    15 P1 Tcp "TCP_FASTOPEN, TCP_DEFER_ACCEPT, TCP_ULP, socket filters, before and after connect"
        ["differential::hc_setup::hc_015_special_options"]
        "TCP_DEFER_ACCEPT is accelerated. TCP_REPAIR needs a privilege that few have; it is treated as the others, and not tested.";
    16 P1 Same "connect to dissolve, connect twice, listen and bind on connected sockets"
        ["differential::setup::disconnect" "differential::hc_setup::hc_016_wrong_order"] "";
    17 P1 Same "IPv6, mapped and scoped addresses, IPV6_V6ONLY"
        ["differential::setup::ipv6" "differential::hc_setup::hc_017_v6only"] "";
    18 P1 Same "destinations rewritten on the host (REDIRECT, DNAT)"
        ["namespaces::redirect_within_a_namespace" "namespaces::destination_nat_between_namespaces"]
        "Where neither the kernel (SO_ORIGINAL_DST) nor the packets tell who is the other end, the connection stays on TCP.";
    19 P1 Same "ends in different network namespaces"
        ["namespaces::veth" "namespaces::containers_on_a_bridge"
         "namespaces::destination_nat_between_namespaces"] "";
    20 P0 Same "ten thousand short connections"
        ["differential::setup::short_connections" "numbers::ratios"] "";
    21 P1 Same "storms of connections, tables that fill up"
        ["rendezvous::claims_are_bounded_and_the_newest_of_an_end_counts"
         "rendezvous::many_deaths_leak_no_descriptor" "differential::setup::short_connections"] "";
}
