//! The request that opens a connection.

use crate::protocol::upgrade::{self, Answer, Scan, naive};

/// Reads `bytes` as what a client sends first, at once and byte by byte.
pub fn upgrade(bytes: &[u8]) {
    let scan = upgrade::scan(bytes, 0);
    let trickled = (1..=bytes.len())
        .map(|len| upgrade::scan(&bytes[..len], len - 1))
        .find(|scan| *scan != Scan::Incomplete)
        .unwrap_or(Scan::Incomplete);
    assert_eq!(scan, trickled, "{}", bytes.escape_ascii());
    match (&scan, naive::scan(bytes)) {
        (Scan::Refused(response), Scan::Refused(_)) => naive::check_refusal(response, false),
        (scan, expected) => assert_eq!(*scan, expected, "{}", bytes.escape_ascii()),
    }
    let Scan::Complete(len) = scan else { return };
    for is_echo_served in [false, true] {
        let answer = upgrade::answer(&bytes[..len], is_echo_served);
        naive::check(&bytes[..len], is_echo_served, &answer);
        if let Answer::Answered { .. } = answer {
            assert_eq!(upgrade::answer(&bytes[..len], is_echo_served), answer);
        }
    }
}
