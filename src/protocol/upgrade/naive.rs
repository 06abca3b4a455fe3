//! What must hold of a request's end and of its answer, said a second time with the plainest means.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use super::{Answer, Scan};
use crate::protocol::{Format, Speech};

/// As [`scan`](super::scan) of `bytes` at once, without the response's words.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    if b"\r\n".starts_with(bytes) {
        return Scan::Incomplete;
    }
    let method_at = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let mut is_method = true;
    for (index, &byte) in bytes.iter().enumerate().skip(method_at) {
        is_method &= byte != b' ' || index == method_at;
        let is_token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if is_method && (!is_token || index == method_at + 24) {
            return Scan::Refused(Vec::new());
        }
        if byte == b'\n' && (index == 0 || bytes[index - 1] != b'\r') {
            return Scan::Refused(Vec::new());
        }
        if bytes[..=index].ends_with(b"\r\n\r\n") {
            return Scan::Complete(index + 1);
        }
    }
    Scan::Incomplete
}

/// Holds an answer against the rules that the request follows or breaks.
///
/// One that is accepted follows every rule of RFC 6455 section 4.2.1; one that follows them and is
/// written plainly, so that no reader of RFC 9112 can take offence, is accepted.
pub(crate) fn check(request: &[u8], is_echo_served: bool, answer: &Answer) {
    let upgrade = Request::read(request).map(|request| (request.is_plain, request.upgrade(is_echo_served)));
    match (answer, upgrade) {
        (
            Answer::Upgraded { speech, agreement: None, response, credential: None, client: None },
            Some((_, Some(expected))),
        ) => {
            assert_eq!(*speech, expected.speech);
            let response = str::from_utf8(response).expect("a response is text");
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
            let rest = response.strip_prefix(head).expect("the lines that every upgrade has");
            let accept = STANDARD
                .encode(Sha1::digest([expected.key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()));
            let subprotocol = expected
                .subprotocol
                .map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
            assert_eq!(rest, format!("Sec-WebSocket-Accept: {accept}\r\n{subprotocol}\r\n"));
        }
        (Answer::Upgraded { .. }, _) => panic!("accepted against the rules: {}", request.escape_ascii()),
        (Answer::Answered { response, .. }, Some((true, Some(_)))) => {
            panic!("{} gets {}", request.escape_ascii(), response.escape_ascii())
        }
        (Answer::Answered { response, .. }, _) => {
            let request = request.strip_prefix(b"\r\n").unwrap_or(request);
            check_refusal(response, request.starts_with(b"HEAD "));
        }
    }
}

/// Checks that `response` is a whole HTTP response of one short line, without it if `is_head`.
pub(crate) fn check_refusal(response: &[u8], is_head: bool) {
    let response = str::from_utf8(response).expect("a response is text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a blank line");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
    assert!(
        ["200 ", "400 ", "404 ", "405 ", "426 ", "431 ", "505 "].iter().any(|code| status.starts_with(code))
    );
    let field = |name: &str| lines.clone().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    assert!(field("Connection").is_some_and(|fate| fate.starts_with("close")));
    let content_len: usize = field("Content-Length").and_then(|len| len.parse().ok()).expect("a length");
    if is_head && body.is_empty() {
        return;
    }
    assert_eq!(content_len, body.len());
    assert!(body.ends_with('\n') && body.lines().count() == 1 && body.len() < 300, "{body:?}");
    assert!(body.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{body:?}");
}

/// An upgrade that follows the rules.
struct Upgrade<'a> {
    speech: Speech,
    subprotocol: Option<&'static str>,
    key: &'a [u8],
}

/// A request, taken apart at its line ends and colons.
pub(crate) struct Request<'a> {
    /// No line has anything that a reader may refuse or mend.
    is_plain: bool,
    first: Vec<&'a [u8]>,
    /// Names in lower case, values without the blanks around them.
    fields: Vec<(Vec<u8>, &'a [u8])>,
}

impl<'a> Request<'a> {
    pub(crate) fn read(request: &'a [u8]) -> Option<Self> {
        let request = request.strip_prefix(b"\r\n").unwrap_or(request);
        let request = request.strip_suffix(b"\r\n\r\n")?;
        let mut lines = split(request, b"\r\n").into_iter();
        let first = split(lines.next()?, b" ");
        let mut fields = Vec::new();
        let mut is_plain = first.len() == 3
            && first.iter().all(|part| {
                !part.is_empty()
                    && part.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/?=&._-:%".contains(byte))
            });
        for line in lines {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            is_plain &= !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && value.iter().all(|byte| (b' '..=b'~').contains(byte));
            fields.push((name.to_ascii_lowercase(), value.trim_ascii()));
        }
        is_plain &= fields.len() <= 64;
        Some(Request { is_plain, first, fields })
    }

    /// The upgrade that this asks for, if it breaks no rule.
    fn upgrade(&self, is_echo_served: bool) -> Option<Upgrade<'a>> {
        let [b"GET", target, version] = self.first[..] else { return None };
        let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] = version else { return None };
        let path = match target {
            [b'/', ..] => target,
            _ => {
                let after_scheme = &target[target.windows(3).position(|three| three == b"://")? + 3..];
                let end = after_scheme.iter().position(|byte| b"/?".contains(byte));
                end.map_or(&b""[..], |end| &after_scheme[end..])
            }
        };
        let path = split(path, b"?")[0];
        let is_echo = is_echo_served && path == b"/echo";
        let [host] = self.values("host")[..] else { return None };
        if host.iter().any(|byte| !byte.is_ascii_graphic() || b"\"#/<>?@\\^`{|}".contains(byte)) {
            return None;
        }
        let [b"13"] = self.values("sec-websocket-version")[..] else { return None };
        let [key] = self.values("sec-websocket-key")[..] else { return None };
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
        let follows = self.values("origin").len() <= 1
            && (is_echo || [&b""[..], b"/", b"/ws"].contains(&path))
            && self.items("upgrade").contains(&b"websocket".to_vec())
            && self.items("connection").contains(&b"upgrade".to_vec())
            && key.len() == 24
            && key[..22].iter().all(is_base64)
            && key.ends_with(b"==")
            && self.values("transfer-encoding").is_empty()
            && self.values("content-length").iter().all(|value| *value == b"0");
        if !follows {
            return None;
        }
        if is_echo {
            return Some(Upgrade { speech: Speech::Echo, subprotocol: None, key });
        }
        let offers: Vec<&[u8]> =
            self.values("sec-websocket-protocol").into_iter().flat_map(|value| split(value, b",")).collect();
        let mut offers =
            offers.into_iter().map(<[u8]>::trim_ascii).filter(|offer| !offer.is_empty()).peekable();
        let offers_none = offers.peek().is_none();
        let known = offers.find_map(|offer| match offer {
            b"fanfare.json.v1" => Some((Format::Json, "fanfare.json.v1")),
            b"fanfare.bin.v1" => Some((Format::Binary, "fanfare.bin.v1")),
            _ => None,
        });
        match known {
            Some((format, name)) => Some(Upgrade { speech: format.into(), subprotocol: Some(name), key }),
            None if offers_none => Some(Upgrade { speech: Format::Json.into(), subprotocol: None, key }),
            None => None,
        }
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|field| field.0 == name.as_bytes()).map(|field| field.1).collect()
    }

    /// The items of the lists under `name`, in lower case.
    fn items(&self, name: &str) -> Vec<Vec<u8>> {
        let values = self.values(name).into_iter();
        values
            .flat_map(|value| split(value, b","))
            .map(|item| item.trim_ascii().to_ascii_lowercase())
            .collect()
    }
}

/// The pieces of `bytes` between every two occurrences of `separator`.
fn split<'a>(mut bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while let Some(at) = bytes.windows(separator.len()).position(|window| window == separator) {
        pieces.push(&bytes[..at]);
        bytes = &bytes[at + separator.len()..];
    }
    pieces.push(bytes);
    pieces
}
