//! The HTTP/1.1 request that opens a connection, and its answer (RFC 6455 section 4.2, RFC 9112).
//!
//! [`scan`] finds the end of a request while it trickles in; [`answer`] reads the whole of it once.
//! Whatever is no valid upgrade gets one plain HTTP response that names the broken rule, the value and
//! what is allowed, and the connection ends.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    net::IpAddr,
    sync::Arc,
};

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use sha1::{Digest, Sha1};

use super::{
    Format, Speech,
    close::CloseReason,
    credential::{self, Places},
    deflate::{self, Agreement},
    forwarded::{self, Via},
    ranges::AddressRanges,
    secret::Secret,
    site::Site,
};

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// How many header lines a request may have.
pub const HEADER_LINES_MAX: usize = 64;
/// No registered HTTP method is longer.
const METHOD_BYTES_MAX: usize = 24;
/// What old clients send behind a body, which then stands before the next request.
const EMPTY_LINE: &[u8] = b"\r\n";
/// How much of a peer's value an answer repeats, escaped.
const QUOTED_BYTES_MAX: usize = 64;
/// What the accept value is a hash of, after the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The bits that 16 bytes leave unused in their last base64 digit need not be 0: clients that write a
/// key by hand get it wrong, and it matters to nobody.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What the broker offers, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// `/echo` is served.
    pub is_echo_served: bool,
    /// In which window, in bits, the broker compresses; `None`: it does not negotiate permessage-deflate.
    pub deflate_window_bits: Option<u8>,
    /// By which names it is reached, and from which pages.
    pub site: Site,
    /// Where a credential is looked for; nowhere if none is needed.
    pub credentials: Option<Places>,
    /// Past which addresses the `X-Forwarded-For` of a trusted proxy is walked; none where there is no such proxy.
    pub forwarded_for: Option<Arc<AddressRanges>>,
}

/// What a request led to.
#[derive(Debug)]
#[cfg_attr(any(test, fuzzing), derive(PartialEq))]
pub enum Answer {
    /// The connection is a WebSocket now.
    Upgraded {
        /// What both speak from now on.
        speech: Speech,
        /// What they agreed on of permessage-deflate, if they did.
        agreement: Option<Agreement>,
        /// The whole `101` response.
        response: Vec<u8>,
        /// What it proves itself with, if it does and that is asked for.
        credential: Option<Secret>,
        /// Whose request it is by the word of the trusted proxy that sent it, if that says so and is asked.
        client: Option<IpAddr>,
    },
    /// The connection ends after this response.
    Answered {
        /// A whole HTTP response with `Connection: close`.
        response: Vec<u8>,
        /// Why it ends.
        reason: CloseReason,
    },
}

/// Where the end of a request is.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// Not in these bytes; nothing is wrong so far.
    Incomplete,
    /// The request is this many bytes long.
    Complete(usize),
    /// These bytes cannot begin an HTTP request: send this response, then close.
    Refused(Vec<u8>),
}

/// Looks for the end of the request in `bytes`, of which the first `scanned_len` were in an earlier
/// `bytes` without finding it, so that each byte is looked at once however they trickle in.
pub fn scan(bytes: &[u8], scanned_len: usize) -> Scan {
    if scanned_len <= EMPTY_LINE.len() + METHOD_BYTES_MAX
        && let Err(refusal) = check_method(without_empty_line(bytes))
    {
        return Scan::Refused(refusal.response(Body::Sent));
    }
    for found in memchr::memchr_iter(b'\n', &bytes[scanned_len..]) {
        let line_end = scanned_len + found;
        if !bytes[..line_end].ends_with(b"\r") {
            let refusal = Refusal::new(Status::Malformed, "a line ends with LF; lines must end with CRLF");
            return Scan::Refused(refusal.response(Body::Sent));
        }
        if bytes[..line_end].ends_with(b"\r\n\r") {
            return Scan::Complete(line_end + 1);
        }
    }
    Scan::Incomplete
}

/// `bytes` without the empty line that may stand before a request (RFC 9112 section 2.2), or the part of it that is
/// there.
fn without_empty_line(bytes: &[u8]) -> &[u8] {
    match bytes {
        b"\r" => b"",
        _ => bytes.strip_prefix(EMPTY_LINE).unwrap_or(bytes),
    }
}

/// A request of a later HTTP/1.x as one of HTTP/1.1, which is what its sender must be able to take it for (RFC 9110
/// section 2.5).
fn as_known_version(request: &[u8]) -> Cow<'_, [u8]> {
    let start = request.len() - without_empty_line(request).len();
    let line_len = memchr::memchr(b'\r', &request[start..]).unwrap_or(0);
    match request[start..start + line_len] {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {
            let mut request = request.to_vec();
            request[start + line_len - 1] = b'1';
            Cow::Owned(request)
        }
        _ => Cow::Borrowed(request),
    }
}

/// Answers the whole request, blank line included, that [`scan`] found the end of and that came by `via`.
pub fn answer(request: &[u8], terms: &Terms, via: Via) -> Answer {
    let request = as_known_version(request);
    let mut lines = [httparse::EMPTY_HEADER; HEADER_LINES_MAX];
    let mut parsed = httparse::Request::new(&mut lines);
    let verdict = match parsed.parse(&request) {
        Ok(httparse::Status::Complete(len)) if len == request.len() => judge(&parsed, terms, via),
        Ok(_) => {
            Err(Refusal::new(Status::Malformed, "the request is malformed; RFC 9112 says how it must be"))
        }
        Err(error) => Err(Refusal::unparsed(error)),
    };
    match verdict {
        Ok(accepted) => Answer::Upgraded {
            speech: accepted.speech,
            agreement: accepted.extension.as_ref().map(|(agreement, _)| *agreement),
            response: accepted.response(),
            credential: accepted.credential,
            client: accepted.client,
        },
        Err(refusal) => {
            let body = if parsed.method == Some("HEAD") { Body::Withheld } else { Body::Sent };
            Answer::Answered { response: refusal.response(body), reason: refusal.status.reason() }
        }
    }
}

/// The response to a request whose end is not within `header_bytes_max`.
pub fn header_too_long(header_bytes_max: usize) -> Vec<u8> {
    let text = format!(
        "the request's header must not be longer than {header_bytes_max} bytes (limits.header_bytes_max)"
    );
    Refusal::new(Status::HeaderTooLarge, text).response(Body::Sent)
}

/// The response to what cannot be read as a request.
pub fn malformed(text: &str) -> Vec<u8> {
    Refusal::new(Status::Malformed, text).response(Body::Sent)
}

/// A valid upgrade.
struct Accepted {
    speech: Speech,
    /// The subprotocol, if the client offered any: it must be told which (RFC 6455 section 4.2.2).
    subprotocol: Option<&'static str>,
    /// What was agreed on of permessage-deflate, and the item that says so.
    extension: Option<(Agreement, String)>,
    /// `Sec-WebSocket-Accept`.
    accept: String,
    credential: Option<Secret>,
    client: Option<IpAddr>,
}

impl Accepted {
    fn response(&self) -> Vec<u8> {
        let mut response = String::with_capacity(320);
        response
            .push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        response.push_str("Sec-WebSocket-Accept: ");
        response.push_str(&self.accept);
        if let Some(subprotocol) = self.subprotocol {
            response.push_str("\r\nSec-WebSocket-Protocol: ");
            response.push_str(subprotocol);
        }
        if let Some((_, item)) = &self.extension {
            response.push_str("\r\nSec-WebSocket-Extensions: ");
            response.push_str(item);
        }
        response.push_str("\r\n\r\n");
        response.into_bytes()
    }
}

/// Any other answer; that to a health check too.
struct Refusal {
    status: Status,
    /// One line, without its end.
    text: String,
}

impl Refusal {
    fn new(status: Status, text: impl Into<String>) -> Self {
        Refusal { status, text: text.into() }
    }

    fn unparsed(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Refusal::new(
                Status::HeaderTooLarge,
                format!("a request must not have more than {HEADER_LINES_MAX} header lines"),
            ),
            httparse::Error::Version => Refusal::new(
                Status::VersionNotSupported,
                "the HTTP version is not 1.x; HTTP/1.1 is spoken here",
            ),
            error => Refusal::new(
                Status::Malformed,
                format!("the request is malformed: {error}; RFC 9112 says how it must be"),
            ),
        }
    }

    fn response(&self, body: Body) -> Vec<u8> {
        let mut response = String::with_capacity(384);
        let content_len = self.text.len() + 1;
        write!(
            response,
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {content_len}\r\n{}\r\n",
            self.status.line(),
            self.status.header_lines(),
        )
        .expect("a String takes everything");
        if let Body::Sent = body {
            response.push_str(&self.text);
            response.push('\n');
        }
        response.into_bytes()
    }
}

/// Whether a response carries its body: that to a HEAD does not (RFC 9110 section 9.3.2).
enum Body {
    Sent,
    Withheld,
}

#[derive(Clone, Copy)]
enum Status {
    Ok,
    BadRequest,
    /// 400 as well: it cannot be read as a request at all.
    Malformed,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    MisdirectedRequest,
    UpgradeRequired,
    HeaderTooLarge,
    VersionNotSupported,
}

impl Status {
    fn reason(self) -> CloseReason {
        match self {
            Status::Forbidden => CloseReason::OriginRefused,
            Status::MisdirectedRequest => CloseReason::HostRefused,
            Status::Malformed | Status::HeaderTooLarge => CloseReason::HttpMalformed,
            _ => CloseReason::HttpAnswered,
        }
    }

    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest | Status::Malformed => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::MisdirectedRequest => "421 Misdirected Request",
            Status::UpgradeRequired => "426 Upgrade Required",
            Status::HeaderTooLarge => "431 Request Header Fields Too Large",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }

    /// Whole lines, the connection's fate among them.
    fn header_lines(self) -> &'static str {
        match self {
            Status::MethodNotAllowed => "Connection: close\r\nAllow: GET, HEAD\r\n",
            // Who sends `Upgrade` names it as a connection option too (RFC 9110 section 7.8).
            Status::UpgradeRequired => {
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
            _ => "Connection: close\r\n",
        }
    }
}

/// Checks the method as far as it is there: TLS, or a protocol that is no HTTP, ends here at once and
/// does not wait for a blank line that never comes.
fn check_method(bytes: &[u8]) -> Result<(), Refusal> {
    for (index, &byte) in bytes.iter().enumerate() {
        if byte == b' ' && index > 0 {
            break;
        }
        if !is_token_byte(byte) || index == METHOD_BYTES_MAX {
            let text = format!(
                "the request begins with {}; it must begin with an HTTP method",
                Quoted(&bytes[..=index])
            );
            return Err(Refusal::new(Status::Malformed, text));
        }
    }
    Ok(())
}

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` may stand in a host and its port (RFC 3986 sections 3.2.2 and 3.2.3).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

/// Applies the rules in the order in which their breach should be told.
fn judge(request: &httparse::Request<'_, '_>, terms: &Terms, via: Via) -> Result<Accepted, Refusal> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::new(
            Status::BadRequest,
            "the request is malformed: a part of its first line is missing",
        ));
    };
    let fields = Fields(request.headers);
    let is_http_1_1 = version == 1;
    let host = match is_http_1_1 {
        true => Some(fields.exactly_one("Host")?),
        false => fields.at_most_one("Host")?,
    };
    if let Some(host) = host.filter(|host| !host.iter().all(|byte| is_host_byte(*byte))) {
        let text = format!("the Host header is {}; a host and a port are allowed", Quoted(host));
        return Err(Refusal::new(Status::BadRequest, text));
    }
    let path = path_of(target)?;
    let is_echo = terms.is_echo_served && path == "/echo";
    let is_endpoint = match path {
        "/" | "/ws" => true,
        "/healthz" => false,
        _ if is_echo => true,
        path => {
            let text = format!("the path is {}; /ws, / and /healthz are served", Quoted(path.as_bytes()));
            return Err(Refusal::new(Status::NotFound, text));
        }
    };
    if !matches!(method, "GET" | "HEAD") {
        let text = format!("the method is {}; GET and HEAD are allowed", Quoted(method.as_bytes()));
        return Err(Refusal::new(Status::MethodNotAllowed, text));
    }
    check_no_body(&fields)?;
    if !is_endpoint {
        return Err(Refusal::new(Status::Ok, "ok"));
    }
    if let Some(host) = host.filter(|host| !terms.site.admits_host(host)) {
        let text = format!("the Host header is {}; that is none of the names in listen.hosts", Quoted(host));
        return Err(Refusal::new(Status::MisdirectedRequest, text));
    }
    if method != "GET" || !fields.lists("Upgrade", "websocket") {
        let text = "this is a WebSocket endpoint: send GET with \"Connection: Upgrade\", \"Upgrade: websocket\", \
                    \"Sec-WebSocket-Version: 13\" and a \"Sec-WebSocket-Key\" (RFC 6455 section 4.1)";
        return Err(Refusal::new(Status::UpgradeRequired, text));
    }
    if !is_http_1_1 {
        let text = "the HTTP version is 1.0; a WebSocket upgrade needs HTTP/1.1 (RFC 6455 section 4.1)";
        return Err(Refusal::new(Status::VersionNotSupported, text));
    }
    let query = target.split_once('?').map_or("", |(_, query)| query);
    judge_upgrade(&fields, host.unwrap_or_default(), query, is_echo, terms, via)
}

/// Applies the rules of RFC 6455 section 4.2.1 that a request with `Upgrade: websocket` can still break.
fn judge_upgrade(
    fields: &Fields<'_>,
    host: &[u8],
    query: &str,
    is_echo: bool,
    terms: &Terms,
    via: Via,
) -> Result<Accepted, Refusal> {
    if !fields.lists("Connection", "upgrade") {
        let text = match fields.values("Connection").next() {
            None => "the request has no Connection header; it must list \"Upgrade\"".to_owned(),
            Some(value) => format!("the Connection header is {}; it must list \"Upgrade\"", Quoted(value)),
        };
        return Err(Refusal::new(Status::BadRequest, text));
    }
    match fields.at_most_one("Sec-WebSocket-Version")? {
        Some(b"13") => {}
        other => {
            let text = match other {
                None => "the request has no Sec-WebSocket-Version header; it must be 13".to_owned(),
                Some(value) => format!("Sec-WebSocket-Version is {}; it must be 13", Quoted(value)),
            };
            return Err(Refusal::new(Status::UpgradeRequired, text));
        }
    }
    let key = fields.exactly_one("Sec-WebSocket-Key")?;
    // 16 bytes are 24 digits; the buffer is what the decoder wants for any 24 digits.
    let is_key = key.len() == 24 && KEY_BASE64.decode_slice(key, &mut [0; 18]) == Ok(16);
    if !is_key {
        let text = format!("Sec-WebSocket-Key is {}; it must be 16 bytes in base64", Quoted(key));
        return Err(Refusal::new(Status::BadRequest, text));
    }
    let is_tls = match via {
        Via::Stranger => false,
        Via::Proxy { is_tls, .. } => is_tls || forwarded::is_https(fields.list_items("X-Forwarded-Proto")),
    };
    let origin = fields.at_most_one("Origin")?;
    if let Some(origin) = origin.filter(|_| !terms.site.admits_origin(origin, host, is_tls)) {
        let text = format!(
            "the Origin header is {}; that of {} and those in listen.origins are allowed",
            Quoted(origin),
            Quoted(host)
        );
        return Err(Refusal::new(Status::Forbidden, text));
    }
    let (speech, subprotocol) = match is_echo {
        true => (Speech::Echo, None),
        false => choose_format(fields).map(|(format, subprotocol)| (format.into(), subprotocol))?,
    };
    let extension = terms.deflate_window_bits.and_then(|window_bits| {
        deflate::negotiate(fields.list_items("Sec-WebSocket-Extensions"), window_bits)
    });
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    let credential = terms.credentials.as_ref().map_or(Ok(None), |places| {
        places.find(credential::Request {
            authorizations: fields.values("Authorization"),
            query,
            cookies: fields.values("Cookie"),
            has_known_origin: origin.is_some_and(|origin| terms.site.knows_origin(origin, host, is_tls)),
        })
    });
    let credential = credential.map_err(|credential::Twice(what)| {
        Refusal::new(Status::BadRequest, format!("the request has a second {what}; one is allowed"))
    })?;
    let names_client = matches!(via, Via::Proxy { names_clients: true, .. });
    let trusted = terms.forwarded_for.as_deref().filter(|_| names_client);
    let client = trusted.and_then(|trusted| forwarded::client(fields.list_items("X-Forwarded-For"), trusted));
    Ok(Accepted { speech, subprotocol, extension, accept, credential, client })
}

/// Picks the first subprotocol that we know in the client's order of preference; JSON without a name
/// if it offers none (RFC 6455 section 4.2.2).
fn choose_format(fields: &Fields<'_>) -> Result<(Format, Option<&'static str>), Refusal> {
    let mut unknown = None;
    for offer in fields.list_items("Sec-WebSocket-Protocol") {
        match offer {
            b"fanfare.json.v1" => return Ok((Format::Json, Some("fanfare.json.v1"))),
            b"fanfare.bin.v1" => return Ok((Format::Binary, Some("fanfare.bin.v1"))),
            other => unknown = unknown.or(Some(other)),
        }
    }
    match unknown {
        None => Ok((Format::Json, None)),
        Some(offer) => {
            let text = format!(
                "the subprotocol {} is unknown; fanfare.json.v1, fanfare.bin.v1 or none must be offered",
                Quoted(offer)
            );
            Err(Refusal::new(Status::BadRequest, text))
        }
    }
}

/// Refuses a request with a body: its bytes would be taken for frames.
fn check_no_body(fields: &Fields<'_>) -> Result<(), Refusal> {
    if let Some(value) = fields.values("Transfer-Encoding").next() {
        let text = format!("Transfer-Encoding is {}; a request must not have a body here", Quoted(value));
        return Err(Refusal::new(Status::BadRequest, text));
    }
    match fields.values("Content-Length").find(|value| *value != b"0") {
        None => Ok(()),
        Some(value) => {
            let text = format!("Content-Length is {}; a request must not have a body here", Quoted(value));
            Err(Refusal::new(Status::BadRequest, text))
        }
    }
}

/// The path in a request's target, of which a server must take both forms (RFC 9112 section 3.2).
fn path_of(target: &str) -> Result<&str, Refusal> {
    let from_path = if target.starts_with('/') {
        target
    } else {
        let Some((_, rest)) = target.split_once("://") else {
            let text =
                format!("the request's target is {}; it must begin with \"/\"", Quoted(target.as_bytes()));
            return Err(Refusal::new(Status::BadRequest, text));
        };
        rest.find(['/', '?']).map_or("", |at| &rest[at..])
    };
    let path = from_path.split('?').next().unwrap_or_default();
    Ok(if path.is_empty() { "/" } else { path })
}

/// A request's header lines.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// The values of the lines with this name, without the blanks around them.
    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let lines = self.0.iter();
        lines.filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value.trim_ascii())
    }

    /// The items of the comma-separated lists in those lines (RFC 9110 section 5.6.1).
    fn list_items(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let items = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
    }

    fn lists(&self, name: &str, token: &str) -> bool {
        self.list_items(name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn at_most_one(&self, name: &str) -> Result<Option<&'a [u8]>, Refusal> {
        let mut values = self.values(name);
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(second) => {
                let text =
                    format!("the request has a second {name} header, {}; one is allowed", Quoted(second));
                Err(Refusal::new(Status::BadRequest, text))
            }
        }
    }

    fn exactly_one(&self, name: &str) -> Result<&'a [u8], Refusal> {
        self.at_most_one(name)?.ok_or_else(|| {
            let text = format!("the request has no {name} header; it must have one");
            Refusal::new(Status::BadRequest, text)
        })
    }
}

/// A peer's value in quotes, escaped, and cut so that one line of an answer stays one short line.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = QUOTED_BYTES_MAX;
        out.write_char('"')?;
        for byte in self.0 {
            let escaped = byte.escape_ascii();
            let Some(rest) = left.checked_sub(escaped.len()) else {
                return out.write_str("\" (cut)");
            };
            left = rest;
            write!(out, "{escaped}")?;
        }
        out.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::site::OriginPattern;

    const GOOD: &str = "GET /ws HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// The answer to a whole request, through the scan as the session does it.
    fn response_to(request: &[u8]) -> (Option<Speech>, String) {
        response_with(request, false)
    }

    fn response_with(request: &[u8], is_echo_served: bool) -> (Option<Speech>, String) {
        let (speech, response) = match scan(request, 0) {
            Scan::Incomplete => panic!("no end"),
            Scan::Refused(response) => (None, response),
            Scan::Complete(len) => {
                match answer(&request[..len], &Terms { is_echo_served, ..Terms::default() }, Via::Stranger) {
                    Answer::Upgraded { speech, response, .. } => (Some(speech), response),
                    Answer::Answered { response, .. } => (None, response),
                }
            }
        };
        (speech, String::from_utf8(response).expect("a response is text"))
    }

    /// Checks that the answer is a whole, correct response, and gives its status and its body.
    fn refused(request: &str) -> (u16, String, String) {
        let (speech, response) = response_to(request.as_bytes());
        assert_eq!(speech, None, "{request}");
        let (head, body) = response.split_once("\r\n\r\n").expect("a blank line");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let field = |name: &str| {
            let line = head.split("\r\n").find(|line| line.starts_with(name));
            line.map(|line| line[name.len()..].trim_start_matches(": ").to_owned())
        };
        assert!(field("Connection").expect("its fate").starts_with("close"));
        assert_eq!(field("Content-Type").as_deref(), Some("text/plain; charset=utf-8"));
        let content_len: usize = field("Content-Length").expect("a length").parse().expect("a number");
        if !request.starts_with("HEAD") {
            assert_eq!(content_len, body.len());
            assert!(body.ends_with('\n') && body.lines().count() == 1, "{body:?}");
            assert!(body.len() < 300 && body.is_ascii(), "{body:?}");
        }
        (status[..3].parse().expect("a number"), head.to_owned(), body.to_owned())
    }

    /// The status and body for [`GOOD`] with one text replaced.
    fn with(from: &str, to: &str) -> (u16, String) {
        assert!(GOOD.contains(from), "{from}");
        let (status, _, body) = refused(&GOOD.replace(from, to));
        (status, body)
    }

    #[test]
    fn the_example_of_rfc_6455_is_accepted_with_its_accept_value() {
        let (speech, response) = response_to(GOOD.as_bytes());
        assert_eq!(speech, Some(Format::Json.into()));
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(response, expected);
    }

    #[test]
    fn variants_that_the_rfcs_allow_are_accepted() {
        let variants = [
            ("/ws", "/"),
            ("/ws", "/ws?token=abc"),
            ("/ws", "/?x"),
            ("/ws", "http://example.org/ws"),
            ("/ws", "ws://example.org"),
            ("/ws", "ws://example.org?x=/healthz"),
            ("Upgrade: websocket", "uPGRADE: WebSocket"),
            ("Upgrade: websocket", "Upgrade: h2c, websocket"),
            ("Connection: Upgrade", "Connection: keep-alive, upgrade"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: ,UPGRADE ,"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "  dGhlIHNhbXBsZSBub25jZQ==  "),
            ("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAB=="),
            ("Host: example.org", "Host: example.org\r\nContent-Length: 0"),
            ("Host: example.org", "Host: [::1]:7600"),
            ("Host: example.org", "Host: "),
            ("HTTP/1.1", "HTTP/1.2"),
            ("HTTP/1.1", "HTTP/1.9"),
            ("GET", "\r\nGET"),
            ("Host: example.org", "Host: example.org\r\nSec-WebSocket-Extensions: permessage-deflate"),
            ("Host: example.org", "Host: example.org\r\nSec-WebSocket-Protocol: "),
        ];
        for (from, to) in variants {
            let (speech, response) = response_to(GOOD.replace(from, to).as_bytes());
            assert_eq!(speech, Some(Format::Json.into()), "{to}: {response}");
            assert!(!response.contains("Sec-WebSocket-Protocol"), "{response}");
        }
    }

    /// Whatever is listed: any page may have a frame that says `null`.
    #[test]
    fn a_cookie_is_looked_at_where_it_is_known_whose_page_asks() {
        let terms = Terms {
            site: Site { origins: vec![OriginPattern::Any, OriginPattern::Null], ..Site::OPEN },
            credentials: Some(Places { cookie: Some("t".into()) }),
            ..Terms::default()
        };
        for (origin, is_looked_at) in
            [("https://example.org", true), ("https://evil.example", false), ("null", false)]
        {
            let lines = format!("Host: example.org\r\nOrigin: {origin}\r\nCookie: t=secret");
            match answer(GOOD.replace("Host: example.org", &lines).as_bytes(), &terms, Via::Stranger) {
                Answer::Upgraded { credential, .. } => {
                    assert_eq!(credential.is_some(), is_looked_at, "{origin}");
                }
                other => panic!("{origin}: {other:?}"),
            }
        }
    }

    /// Of whoever is not trusted neither is looked at, nor are addresses where that is not asked for.
    #[test]
    fn what_is_said_of_a_client_counts_if_a_trusted_proxy_says_it() {
        let proxy = Via::Proxy { is_tls: false, names_clients: true };
        let lines = "Host: example.org\r\nX-Forwarded-For: 192.0.2.1, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
                     Origin: http://example.org\r\nx-forwarded-for: 10.0.0.2";
        let request = GOOD.replace("Host: example.org", lines);
        let trusted = Arc::new(AddressRanges::parse(["10.0.0.0/8"]).unwrap());
        let terms = Terms { forwarded_for: Some(trusted), ..Terms::default() };
        let client_of = |request: &str, terms: &Terms, via| match answer(request.as_bytes(), terms, via) {
            Answer::Upgraded { client, .. } => Ok(client),
            Answer::Answered { reason, .. } => Err(reason),
        };
        assert_eq!(client_of(&request, &terms, Via::Stranger), Ok(None));
        assert_eq!(client_of(&request, &terms, proxy), Err(CloseReason::OriginRefused));
        let of_https = request.replace("Origin: http:", "Origin: https:");
        assert_eq!(client_of(&of_https, &terms, proxy), Ok("203.0.113.7".parse().ok()));
        assert_eq!(client_of(&of_https, &Terms::default(), proxy), Ok(None));
        let of_http = request.replace("Proto: https", "Proto: http");
        assert_eq!(client_of(&of_http, &terms, proxy), Ok("203.0.113.7".parse().ok()));
        let is_tls = Via::Proxy { is_tls: true, names_clients: false };
        assert_eq!(client_of(&of_http, &terms, is_tls), Err(CloseReason::OriginRefused));
        assert_eq!(client_of(&of_https, &terms, is_tls), Ok(None));
    }

    #[test]
    fn the_first_known_subprotocol_in_the_clients_order_is_chosen_and_named() {
        let cases = [
            ("fanfare.json.v1", Format::Json, "fanfare.json.v1"),
            ("fanfare.bin.v1", Format::Binary, "fanfare.bin.v1"),
            ("fanfare.bin.v1, fanfare.json.v1", Format::Binary, "fanfare.bin.v1"),
            ("mqtt,fanfare.json.v1,fanfare.bin.v1", Format::Json, "fanfare.json.v1"),
            ("mqtt\r\nSec-WebSocket-Protocol: fanfare.bin.v1", Format::Binary, "fanfare.bin.v1"),
        ];
        for (offer, expected, name) in cases {
            let lines = format!("Host: example.org\r\nSec-WebSocket-Protocol: {offer}");
            let (speech, response) = response_to(GOOD.replace("Host: example.org", &lines).as_bytes());
            assert_eq!(speech, Some(expected.into()), "{offer}");
            assert!(response.ends_with(&format!("\r\nSec-WebSocket-Protocol: {name}\r\n\r\n")), "{response}");
        }
        let unknown = "Host: example.org\r\nSec-WebSocket-Protocol: mqtt, FANFARE.json.v1";
        let (status, body) = with("Host: example.org", unknown);
        assert_eq!(status, 400);
        assert!(body.contains("\"mqtt\"") && body.contains("fanfare.bin.v1"), "{body}");
    }

    #[test]
    fn every_broken_rule_of_the_upgrade_has_its_status_and_names_the_value() {
        let cases = [
            ("Host: example.org\r\n", "", 400, "no Host header"),
            ("Host: example.org", "Host: a\r\nHost: b", 400, "\"b\""),
            ("Host: example.org", "Host: a b", 400, "\"a b\""),
            ("Host: example.org", "Host: a/b", 400, "\"a/b\""),
            ("Host: example.org", "Host: a@b", 400, "\"a@b\""),
            ("HTTP/1.1\r\nHost: example.org", "HTTP/1.0\r\nHost: a\r\nHost: b", 400, "\"b\""),
            ("Upgrade: websocket\r\n", "", 426, "WebSocket endpoint"),
            ("Upgrade: websocket", "Upgrade: h2c", 426, "WebSocket endpoint"),
            ("Connection: Upgrade\r\n", "", 400, "no Connection header"),
            ("Connection: Upgrade", "Connection: close", 400, "\"close\""),
            ("Connection: Upgrade", "Connection: upgraded", 400, "\"upgraded\""),
            ("Sec-WebSocket-Version: 13\r\n", "", 426, "no Sec-WebSocket-Version"),
            ("Version: 13", "Version: 8", 426, "\"8\""),
            ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", 400, "second Sec-WebSocket-Version"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "no Sec-WebSocket-Key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", 400, "16 bytes in base64"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400, "\"c2hvcnQ=\""),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=", 400, "16 bytes"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZTEy", 400, "16 bytes"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZTE=", 400, "16 bytes"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl!HNhbXBsZSBub25jZQ==", 400, "16 bytes"),
            ("Key: dGhl", "Key: b\r\nSec-WebSocket-Key: dGhl", 400, "second Sec-WebSocket-Key"),
            ("GET", "POST", 405, "\"POST\""),
            ("HTTP/1.1", "HTTP/1.0", 505, "1.0"),
            ("HTTP/1.1", "HTTP/2.0", 505, "HTTP/1.1"),
            ("GET /ws", "GET /chat", 404, "\"/chat\""),
            ("GET /ws", "GET //ws", 404, "\"//ws\""),
            ("GET /ws", "GET *", 400, "\"*\""),
            ("Host: e", "Content-Length: 5\r\nHost: e", 400, "\"5\""),
            ("Host: e", "Transfer-Encoding: chunked\r\nHost: e", 400, "\"chunked\""),
            ("Host: e", "Host : e", 400, "invalid header name"),
            ("Host: e", "Bad\x01: x\r\nHost: e", 400, "malformed"),
        ];
        for (from, to, status, needle) in cases {
            let (actual, body) = with(from, to);
            assert_eq!(actual, status, "{to}: {body}");
            assert!(body.contains(needle), "{to}: {body}");
        }
    }

    #[test]
    fn requests_that_are_no_upgrade_get_a_plain_answer() {
        let get = |line: &str| refused(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let (status, _, body) = get("GET /healthz");
        assert_eq!((status, body.as_str()), (200, "ok\n"));
        assert_eq!(get("GET /healthz?verbose").0, 200);
        let (status, head, body) = get("HEAD /healthz");
        assert_eq!((status, body.as_str()), (200, ""));
        assert!(head.contains("Content-Length: 3"), "{head}");
        assert_eq!(refused("GET /healthz HTTP/1.0\r\n\r\n").0, 200, "old health checkers send no Host");

        for line in ["GET /ws", "GET /", "HEAD /ws"] {
            let (status, head, _) = get(line);
            assert_eq!(status, 426);
            assert!(head.contains("\r\nUpgrade: websocket"), "{head}");
            assert!(head.contains("\r\nSec-WebSocket-Version: 13"), "{head}");
        }
        let (status, head, _) = get("DELETE /healthz");
        assert_eq!(status, 405);
        assert!(head.contains("\r\nAllow: GET, HEAD"), "{head}");
        assert_eq!(get("POST /nowhere").0, 404);
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").0, 505);
    }

    #[test]
    fn the_echo_is_served_only_where_it_is_switched_on() {
        assert_eq!(with("/ws", "/echo").0, 404);
        let offer = "Host: example.org\r\nSec-WebSocket-Protocol: fanfare.json.v1";
        for request in [GOOD.to_owned(), GOOD.replace("Host: example.org", offer)] {
            let (speech, response) = response_with(request.replace("/ws", "/echo?x").as_bytes(), true);
            assert_eq!(speech, Some(Speech::Echo));
            assert!(!response.contains("Sec-WebSocket-Protocol"), "it speaks none of them: {response}");
            let (speech, _) = response_with(request.as_bytes(), true);
            assert_eq!(speech, Some(Format::Json.into()), "other paths stay what they are");
        }
        for (from, to) in [("GET /ws", "HEAD /echo"), ("/ws", "/echo/"), ("Version: 13", "Version: 8")] {
            let request = GOOD.replace("/ws", if from.contains("/ws") { "/ws" } else { "/echo" });
            assert_eq!(response_with(request.replace(from, to).as_bytes(), true).0, None, "{to}");
        }
    }

    #[test]
    fn what_cannot_be_http_is_refused_before_a_blank_line() {
        let client_hello = [0x16, 0x03, 0x01, 0x02, 0x00];
        let Scan::Refused(response) = scan(&client_hello, 0) else { panic!("TLS must be refused") };
        assert!(String::from_utf8_lossy(&response).contains("\"\\x16\""));
        assert!(matches!(scan(b"\r\n", 0), Scan::Incomplete));
        assert!(matches!(scan(b"\r\n\r\n", 0), Scan::Refused(_)), "one empty line is skipped");
        assert!(matches!(scan(b"\r\n\r\n", 3), Scan::Refused(_)));
        assert!(matches!(scan(b"\n", 0), Scan::Refused(_)));
        assert!(matches!(scan(b"\rG", 0), Scan::Refused(_)));
        assert!(matches!(scan(b" GET", 0), Scan::Refused(_)));
        assert!(matches!(scan(&[b'A'; METHOD_BYTES_MAX + 1], 0), Scan::Refused(_)));
        assert!(matches!(scan(&[b'A'; METHOD_BYTES_MAX], 0), Scan::Incomplete));
        assert!(matches!(scan(b"GET / HTTP/1.1\n", 10), Scan::Refused(_)), "a bare LF");
        assert!(matches!(scan(b"", 0), Scan::Incomplete));
    }

    #[test]
    fn too_many_header_lines_are_431_whatever_they_hold() {
        let lines = |count: usize| {
            let lines: String = (0..count).map(|index| format!("a{index}: b\r\n")).collect();
            GOOD.replace("Host:", &format!("{lines}Host:"))
        };
        let others = GOOD.lines().count() - 2;
        let (speech, _) = response_to(lines(HEADER_LINES_MAX - others).as_bytes());
        assert_eq!(speech, Some(Format::Json.into()));
        assert_eq!(refused(&lines(HEADER_LINES_MAX - others + 1)).0, 431);
        assert_eq!(refused(&lines(10_000)).0, 431);
    }

    #[test]
    fn a_long_or_hostile_value_is_escaped_and_cut_in_the_answer() {
        let (status, body) = with("/ws", &format!("/{}", "\"".repeat(500)));
        assert_eq!(status, 404);
        assert!(body.contains(&format!("\"/{}\" (cut)", "\\\"".repeat(31))), "{body}");
        let (_, body) = with("Version: 13", "Version: \u{e9}\t\u{1F600}");
        assert!(body.contains("\"\\xc3\\xa9\\t\\xf0\\x9f\\x98\\x80\""), "{body}");
    }
}
