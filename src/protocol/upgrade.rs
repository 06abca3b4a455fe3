//! The HTTP/1.1 request that opens a connection, and its answer (RFC 6455 section 4.2, RFC 9112).
//!
//! [`scan`] finds the end of a request while it trickles in; [`answer`] reads the whole of it once.
//! Whatever is no valid upgrade gets one plain HTTP response that names the broken rule, the value and
//! what is allowed, and the connection ends.

use std::fmt::{self, Write};

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use sha1::{Digest, Sha1};

use super::Format;

/// How many header lines a request may have.
pub const HEADER_LINES_MAX: usize = 64;
/// No registered HTTP method is longer.
const METHOD_BYTES_MAX: usize = 24;
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

/// What a request led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is a WebSocket now.
    Upgraded {
        /// The language that both speak from now on.
        format: Format,
        /// The whole `101` response.
        response: Vec<u8>,
    },
    /// The connection ends after this response.
    Answered {
        /// A whole HTTP response with `Connection: close`.
        response: Vec<u8>,
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
    if scanned_len <= METHOD_BYTES_MAX
        && let Err(refusal) = check_method(bytes)
    {
        return Scan::Refused(refusal.response(Body::Sent));
    }
    for found in memchr::memchr_iter(b'\n', &bytes[scanned_len..]) {
        let line_end = scanned_len + found;
        if !bytes[..line_end].ends_with(b"\r") {
            let refusal = Refusal::new(Status::BadRequest, "a line ends with LF; lines must end with CRLF");
            return Scan::Refused(refusal.response(Body::Sent));
        }
        if bytes[..line_end].ends_with(b"\r\n\r") {
            return Scan::Complete(line_end + 1);
        }
    }
    Scan::Incomplete
}

/// Answers the whole request, blank line included, that [`scan`] found the end of.
pub fn answer(request: &[u8]) -> Answer {
    let mut lines = [httparse::EMPTY_HEADER; HEADER_LINES_MAX];
    let mut parsed = httparse::Request::new(&mut lines);
    let verdict = match parsed.parse(request) {
        Ok(httparse::Status::Complete(len)) if len == request.len() => judge(&parsed),
        Ok(_) => {
            Err(Refusal::new(Status::BadRequest, "the request is malformed; RFC 9112 says how it must be"))
        }
        Err(error) => Err(Refusal::unparsed(error)),
    };
    match verdict {
        Ok(accepted) => Answer::Upgraded { format: accepted.format, response: accepted.response() },
        Err(refusal) => {
            let body = if parsed.method == Some("HEAD") { Body::Withheld } else { Body::Sent };
            Answer::Answered { response: refusal.response(body) }
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

/// A valid upgrade.
struct Accepted {
    format: Format,
    /// The subprotocol, if the client offered any: it must be told which (RFC 6455 section 4.2.2).
    subprotocol: Option<&'static str>,
    /// `Sec-WebSocket-Accept`.
    accept: String,
}

impl Accepted {
    fn response(&self) -> Vec<u8> {
        let mut response = String::with_capacity(192);
        response
            .push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        response.push_str("Sec-WebSocket-Accept: ");
        response.push_str(&self.accept);
        if let Some(subprotocol) = self.subprotocol {
            response.push_str("\r\nSec-WebSocket-Protocol: ");
            response.push_str(subprotocol);
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
                "the HTTP version is unknown; HTTP/1.1 is spoken here",
            ),
            error => Refusal::new(
                Status::BadRequest,
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
    NotFound,
    MethodNotAllowed,
    UpgradeRequired,
    HeaderTooLarge,
    VersionNotSupported,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
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
            return Err(Refusal::new(Status::BadRequest, text));
        }
    }
    Ok(())
}

/// Whether `byte` may stand in a token (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Applies the rules in the order in which their breach should be told.
fn judge(request: &httparse::Request<'_, '_>) -> Result<Accepted, Refusal> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::new(
            Status::BadRequest,
            "the request is malformed: a part of its first line is missing",
        ));
    };
    let fields = Fields(request.headers);
    let is_http_1_1 = version == 1;
    if is_http_1_1 {
        fields.exactly_one("Host")?;
    }
    let is_endpoint = match path_of(target)? {
        "/" | "/ws" => true,
        "/healthz" => false,
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
    if method != "GET" || !fields.lists("Upgrade", "websocket") {
        let text = "this is a WebSocket endpoint: send GET with \"Connection: Upgrade\", \"Upgrade: websocket\", \
                    \"Sec-WebSocket-Version: 13\" and a \"Sec-WebSocket-Key\" (RFC 6455 section 4.1)";
        return Err(Refusal::new(Status::UpgradeRequired, text));
    }
    if !is_http_1_1 {
        let text = "the HTTP version is 1.0; a WebSocket upgrade needs HTTP/1.1 (RFC 6455 section 4.1)";
        return Err(Refusal::new(Status::VersionNotSupported, text));
    }
    judge_upgrade(&fields)
}

/// Applies the rules of RFC 6455 section 4.2.1 that a request with `Upgrade: websocket` can still break.
fn judge_upgrade(fields: &Fields<'_>) -> Result<Accepted, Refusal> {
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
    let (format, subprotocol) = choose_format(fields)?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    Ok(Accepted { format, subprotocol, accept })
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
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter();
        lines.filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value.trim_ascii())
    }

    /// The items of the comma-separated lists in those lines (RFC 9110 section 5.6.1).
    fn list_items(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
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
