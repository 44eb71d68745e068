//! CPython's own suites: each test ends as it does without the shim. The short ones run always,
//! all of them with `--full`.

use tests::cpython::{Talks, compare};

macro_rules! suites {
    ($( $when:ident $talks:ident: $($name:ident $(= $suite:literal)?),*; )*) => {$($(
        #[test]
        fn $name() {
            if suites!(@now $when) {
                let suite = [$($suite,)? stringify!($name)];
                compare(suite[0], Talks::$talks);
            }
        }
    )*)*};
    (@now always) => { true };
    (@now full) => { tests::full() };
}

suites! {
    always ToItself: test_asynchat, test_ftplib, test_poplib, test_smtplib, test_socket,
        test_asyncio_sendfile = "test_asyncio.test_sendfile";
    always Little: test_asyncore, test_epoll, test_poll, test_select, test_httpservers,
        test_httplib, test_urllib2_localnet,
        test_asyncio_streams = "test_asyncio.test_streams",
        test_asyncio_server = "test_asyncio.test_server";
    full ToItself: test_ssl, test_imaplib, test_asyncio, test_multiprocessing_fork,
        test_multiprocessing_forkserver, test_multiprocessing_spawn;
    full Little: test_selectors, test_xmlrpc, test_subprocess, test_multiprocessing_main_handling;
}
