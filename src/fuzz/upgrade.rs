//! The request that opens a connection.

use crate::protocol::{
    forwarded::Via,
    site::{OriginPattern, Site},
    upgrade::{self, Answer, Scan, Terms, naive},
};

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
        // Which origins may come is told by the tests of `site`.
        let site = Site { origins: vec![OriginPattern::Any], ..Site::OPEN };
        let terms = Terms { is_echo_served, site, ..Terms::default() };
        let answer = upgrade::answer(&bytes[..len], &terms, Via::Stranger);
        naive::check(&bytes[..len], is_echo_served, &answer);
        let terms = Terms { deflate_window_bits: Some(15), ..terms };
        check_extension(upgrade::answer(&bytes[..len], &terms, Via::Stranger), &answer);
    }
}

/// permessage-deflate adds a line to the answer of an upgrade and changes nothing else.
fn check_extension(answer: Answer, without: &Answer) {
    let answer = match answer {
        Answer::Upgraded { speech, agreement: Some(_), response, credential, client } => {
            let response = String::from_utf8(response).expect("a response is text");
            let (head, line) = response.split_once("Sec-WebSocket-Extensions: ").expect("the line");
            let line = line.strip_suffix("\r\n\r\n").expect("it is the last");
            assert!(line.starts_with("permessage-deflate; server_no_context_takeover;"), "{line}");
            assert!(!line.contains(['\r', '\n', ',']), "{line}");
            Answer::Upgraded {
                speech,
                agreement: None,
                response: format!("{head}\r\n").into_bytes(),
                credential,
                client,
            }
        }
        answer => answer,
    };
    assert_eq!(answer, *without);
}
