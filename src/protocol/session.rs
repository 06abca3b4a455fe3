//! One connection's WebSocket state machine, without its socket.
//!
//! Call [`Session::poll`] with what was received until it returns `None`; then everything has been
//! taken. Payloads are unmasked in place; a message that fits in one receive is never copied.

use std::net::IpAddr;

use zeroize::Zeroize;

use super::{
    Speech,
    close::{self, BrokenRule, CloseReason},
    deflate::{self, Agreement, Bounds, Inflater},
    forwarded::Via,
    frame::{CONTROL_PAYLOAD_BYTES_MAX, Context, Header, HeaderDecoder, Opcode},
    mask,
    secret::Secret,
    upgrade::{self, Answer, Scan, Terms},
    utf8,
};

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// What a session allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest upgrade request, in bytes.
    pub header_bytes_max: usize,
    /// The longest message, all fragments together, in bytes.
    pub message_bytes_max: usize,
    /// The longest frame of one, in bytes.
    pub frame_bytes_max: usize,
    /// What is offered to whom.
    pub terms: Terms,
    /// How many times its compressed length a message may be if it is longer than 64 KiB.
    pub inflate_ratio_max: usize,
}

/// Up to here a message may be compressed as far as can be.
const RATIO_BYTES_MIN: usize = 64 << 10;

impl Limits {
    fn inflate_bounds(&self) -> Bounds {
        Bounds {
            bytes_max: self.message_bytes_max,
            ratio_max: self.inflate_ratio_max,
            ratio_bytes_min: RATIO_BYTES_MIN,
        }
    }
}

/// What the bytes meant.
#[derive(Debug)]
pub enum Event<'a> {
    /// The upgrade is accepted: send `response`, then speak `speech`.
    Upgraded {
        /// What both speak from now on.
        speech: Speech,
        /// What they agreed on of permessage-deflate, if they did.
        agreement: Option<Agreement>,
        /// The whole `101` response.
        response: Vec<u8>,
        /// What the client proves itself with, if it does and that is asked for.
        credential: Option<Secret>,
        /// Whose request it is by the word of the trusted proxy that sent it, if that says so and is asked.
        client: Option<IpAddr>,
    },
    /// The request is answered and the connection over: send `response`, then close.
    Answered {
        /// A whole HTTP response with `Connection: close`.
        response: Vec<u8>,
        /// Why it is over.
        reason: CloseReason,
    },
    /// A whole text message (the session speaks JSON, or echoes); valid UTF-8.
    Text(&'a str),
    /// A whole binary message (the session speaks binary, or echoes).
    Binary(&'a [u8]),
    /// Answer with a pong that carries these bytes (at most 125).
    Ping(&'a [u8]),
    /// A pong came.
    Pong,
    /// The peer closes; echo `code` (none: an empty close frame), then close the socket.
    Closed {
        /// The peer's code, if its frame had one; allowed by RFC 6455 section 7.4.
        code: Option<u16>,
    },
    /// The peer broke a rule: send a close frame with the reason's code and `rule` as its text, then
    /// close. The session takes no more input.
    Failed {
        /// Which code.
        reason: CloseReason,
        /// The broken rule, for the close frame (at most 123 bytes) and the log.
        rule: &'static str,
    },
}

/// The most fragments that one message may have.
///
/// Empty fragments take no memory, so without this bound a message could go on for ever. It is far above
/// what any sender needs: a fragment per byte of the longest message by default.
pub const FRAGMENT_COUNT_MAX: u32 = 1 << 20;

/// The least that the assembly allocates, so that a trickle does not begin with a series of tiny ones.
const ASSEMBLY_BYTES_MIN: usize = 64;

/// A connection's state between receives.
///
/// An idle session owns no memory beyond itself: the assembly is allocated when a receive ends within a
/// request, a message or a control frame, and freed by the first [`Session::poll`] after its event.
#[derive(Debug, Default)]
pub struct Session {
    /// An incomplete request; or what is there of a message, unmasked, and behind it what is there of a
    /// control frame.
    assembly: Vec<u8>,
    /// Payload bytes of `frame` that have not come.
    frame_bytes_left: usize,
    /// Frames of the message that has begun and not ended, the current one included; 0: none has begun.
    fragment_count: u32,
    /// The mask for the next payload byte of `frame` on.
    key: [u8; 4],
    header: HeaderDecoder,
    /// The data or control frame whose payload is to come.
    frame: Option<Frame>,
    phase: Phase,
    /// The message that has begun and not ended is text.
    is_text: bool,
    /// It is compressed: what is in `assembly` is deflate data. False when none has begun.
    is_deflated: bool,
    /// Messages may be compressed.
    is_deflate_agreed: bool,
    /// How far the message in `assembly` is known to be UTF-8, if it is text.
    text: utf8::Progress,
    /// How many bytes at the end of `assembly` belong to a control frame.
    control_len: u8,
}

// Every connection has one: with a million of them a byte here is a megabyte.
const _: () = assert!(size_of::<Session>() <= 64);

/// Where in its life a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// How its request comes.
    Upgrading(Via),
    Open(Speech),
    Ended,
}

impl Default for Phase {
    fn default() -> Self {
        Phase::Upgrading(Via::default())
    }
}

/// A frame whose header is read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
}

/// An event without the bytes that lie in the session, which the search for it borrows exclusively.
enum Found<'input> {
    Text(&'input str),
    Binary(&'input [u8]),
    Ping(&'input [u8]),
    /// The assembly is a whole text message, and valid UTF-8.
    AssembledText,
    /// The assembly is a whole binary message.
    AssembledBinary,
    /// What was inflated last is a whole text message, and valid UTF-8.
    InflatedText,
    /// What was inflated last is a whole binary message.
    InflatedBinary,
    /// The assembly ends with the payload of a ping, `control_len` bytes.
    AssembledPing,
    Pong,
    Closed(Option<u16>),
}

impl Session {
    /// One whose request comes by `via`.
    pub fn new(via: Via) -> Session {
        Session { phase: Phase::Upgrading(via), ..Session::default() }
    }

    /// Takes from the front of `input` up to the end of one event. `None`: all of `input` was taken
    /// and nothing is complete yet. After `Answered`, `Closed` or `Failed` it returns only `None`.
    ///
    /// `inflater` keeps nothing from one message to the next: any will do.
    pub fn poll<'event, 'input: 'event>(
        &'event mut self,
        input: &mut &'input mut [u8],
        limits: &Limits,
        inflater: &'event mut Inflater,
    ) -> Option<Event<'event>> {
        let speech = match self.phase {
            Phase::Open(speech) => speech,
            Phase::Upgrading(via) => return self.poll_upgrade(via, input, limits),
            Phase::Ended => {
                *input = &mut [];
                return None;
            }
        };
        self.release();
        let found = match self.next_frame_event(speech, input, limits, inflater) {
            Ok(found) => found?,
            Err(rule) => {
                self.end(input);
                return Some(Event::Failed { reason: rule.reason(), rule: rule.sentence() });
            }
        };
        Some(match found {
            Found::Text(text) => Event::Text(text),
            Found::Binary(bytes) => Event::Binary(bytes),
            Found::Ping(payload) => Event::Ping(payload),
            Found::AssembledText => {
                debug_assert!(str::from_utf8(&self.assembly).is_ok());
                // SAFETY: `utf8::Progress` has seen every byte of the assembly and ended complete, which
                // `take_message_end` checked before it said `AssembledText`.
                Event::Text(unsafe { str::from_utf8_unchecked(&self.assembly) })
            }
            Found::AssembledBinary => Event::Binary(&self.assembly),
            Found::InflatedText => {
                debug_assert!(str::from_utf8(inflater.message()).is_ok());
                // SAFETY: `inflate` validated what is still the inflater's message before it said `InflatedText`.
                Event::Text(unsafe { str::from_utf8_unchecked(inflater.message()) })
            }
            Found::InflatedBinary => Event::Binary(inflater.message()),
            Found::AssembledPing => {
                Event::Ping(&self.assembly[self.assembly.len() - usize::from(self.control_len)..])
            }
            Found::Pong => Event::Pong,
            Found::Closed(code) => {
                self.end(input);
                Event::Closed { code }
            }
        })
    }

    /// The memory that it owns beyond itself, in bytes.
    pub fn memory(&self) -> usize {
        self.assembly.capacity()
    }

    /// Whether a message has begun, of which all that came is taken, and has not ended.
    pub fn is_inside_message(&self) -> bool {
        self.fragment_count > 0
    }

    fn poll_upgrade(&mut self, via: Via, input: &mut &mut [u8], limits: &Limits) -> Option<Event<'static>> {
        let kept_len = self.assembly.len();
        let room = limits.header_bytes_max.saturating_sub(kept_len);
        let window = &input[..room.min(input.len())];
        let scan = if kept_len == 0 {
            upgrade::scan(window, 0)
        } else {
            self.assembly.extend_from_slice(window);
            upgrade::scan(&self.assembly, kept_len)
        };
        match scan {
            Scan::Complete(request_len) => {
                let taken = request_len - kept_len;
                let request = if kept_len == 0 { &input[..taken] } else { &self.assembly[..request_len] };
                match upgrade::answer(request, &limits.terms, via) {
                    Answer::Upgraded { speech, agreement, response, credential, client } => {
                        self.phase = Phase::Open(speech);
                        self.is_deflate_agreed = agreement.is_some();
                        if credential.is_some() {
                            self.assembly.zeroize();
                            input[..taken].zeroize();
                        }
                        self.assembly = Vec::new();
                        take_front(input, taken);
                        Some(Event::Upgraded { speech, agreement, response, credential, client })
                    }
                    Answer::Answered { response, reason } => {
                        self.end(input);
                        Some(Event::Answered { response, reason })
                    }
                }
            }
            Scan::Refused(response) => {
                self.end(input);
                Some(Event::Answered { response, reason: CloseReason::HttpMalformed })
            }
            Scan::Incomplete if window.len() == room => {
                self.end(input);
                let response = upgrade::header_too_long(limits.header_bytes_max);
                Some(Event::Answered { response, reason: CloseReason::HttpMalformed })
            }
            Scan::Incomplete => {
                if kept_len == 0 {
                    self.assembly.extend_from_slice(window);
                }
                if limits.terms.credentials.is_some() {
                    input.zeroize();
                }
                *input = &mut [];
                None
            }
        }
    }

    /// Overwrites what the last event was made of, if that is here; returns how many bytes that were.
    pub fn wipe(&mut self) -> usize {
        if self.fragment_count > 0 || self.frame.is_some() {
            return 0;
        }
        let len = self.assembly.capacity();
        // It makes room that nothing is in any more.
        self.assembly.zeroize();
        len
    }

    /// Whether it has these bytes of a message.
    #[cfg(test)]
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.assembly.windows(bytes.len()).any(|it| it == bytes)
    }

    /// Frees what the last event was made of.
    #[inline]
    fn release(&mut self) {
        if self.assembly.capacity() == 0 || self.frame.is_some() {
            return;
        }
        if self.fragment_count == 0 {
            self.assembly = Vec::new();
        } else {
            self.assembly.truncate(self.assembly.len() - usize::from(self.control_len));
        }
        self.control_len = 0;
    }

    fn end(&mut self, input: &mut &mut [u8]) {
        *input = &mut [];
        self.phase = Phase::Ended;
        self.assembly = Vec::new();
    }

    /// Takes frames until one of them is an event, or `input` is empty.
    fn next_frame_event<'input>(
        &mut self,
        speech: Speech,
        input: &mut &'input mut [u8],
        limits: &Limits,
        inflater: &mut Inflater,
    ) -> Result<Option<Found<'input>>, BrokenRule> {
        loop {
            if self.frame.is_none() {
                let Some(header) = self.take_header(speech, input, limits)? else { return Ok(None) };
                let is_control = header.opcode.is_control();
                let is_whole_message = header.is_final && self.fragment_count == 0;
                if (is_control || is_whole_message) && header.payload_len <= input.len() {
                    let payload = take_front(input, header.payload_len);
                    mask::unmask(payload, header.key, 0);
                    if header.is_deflated {
                        return inflate(header.opcode, payload, limits, inflater).map(Some);
                    }
                    return found_in_input(header.opcode, payload).map(Some);
                }
                if !is_control {
                    if self.fragment_count == FRAGMENT_COUNT_MAX {
                        return Err(BrokenRule::TooManyFragments);
                    }
                    if self.fragment_count == 0 {
                        self.is_text = header.opcode == Opcode::Text;
                        self.is_deflated = header.is_deflated;
                    }
                    self.fragment_count += 1;
                }
                self.frame = Some(Frame { opcode: header.opcode, is_final: header.is_final });
                self.frame_bytes_left = header.payload_len;
                self.key = header.key;
            }
            let Some(frame) = self.frame else { unreachable!("it was there or has just been set") };
            self.take_payload(frame, input, limits)?;
            if self.frame_bytes_left > 0 {
                return Ok(None);
            }
            self.frame = None;
            if frame.opcode.is_control() {
                return self.take_control_end(frame.opcode).map(Some);
            }
            if frame.is_final {
                return self.take_message_end(limits, inflater).map(Some);
            }
        }
    }

    #[inline]
    fn take_header(
        &mut self,
        speech: Speech,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<Option<Header>, BrokenRule> {
        let context = Context {
            message_opcode: message_opcode(speech),
            is_inside_message: self.fragment_count > 0,
            // Saturating, because a reload may have lowered the limit within a message.
            message_bytes_left: self.payload_bytes_max(limits).saturating_sub(self.assembly.len()),
            deflated_bytes_max: self
                .is_deflate_agreed
                .then(|| deflate::deflated_len_max(limits.message_bytes_max)),
            frame_bytes_max: limits.frame_bytes_max,
        };
        let (taken, header) = self.header.take(input, &context)?;
        take_front(input, taken);
        Ok(header)
    }

    /// How long the payloads of a message may be together: of the one that has begun, else of one that is not
    /// compressed.
    #[inline]
    fn payload_bytes_max(&self, limits: &Limits) -> usize {
        match self.is_deflated {
            true => deflate::deflated_len_max(limits.message_bytes_max),
            false => limits.message_bytes_max,
        }
    }

    /// Moves what `input` has of the frame's payload to the assembly.
    fn take_payload(
        &mut self,
        frame: Frame,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<(), BrokenRule> {
        let taken = self.frame_bytes_left.min(input.len());
        let chunk = take_front(input, taken);
        let old_len = self.assembly.len();
        // The assembly grows by what came and not by what a header promises. The end of a message is a
        // bound; that of a control frame is none, or each that does not fit would move the message.
        let len_max = if frame.is_final && !frame.opcode.is_control() {
            old_len + self.frame_bytes_left
        } else {
            self.payload_bytes_max(limits).saturating_add(CONTROL_PAYLOAD_BYTES_MAX)
        };
        reserve(&mut self.assembly, taken, len_max);
        mask::append_unmasked(chunk, self.key, 0, &mut self.assembly);
        self.key.rotate_left(taken % 4);
        self.frame_bytes_left -= taken;
        if frame.opcode.is_control() {
            self.control_len += taken as u8;
        } else if self.is_text && !self.is_deflated {
            self.text.extend(&self.assembly, old_len).map_err(|utf8::InvalidUtf8| BrokenRule::TextNotUtf8)?;
        }
        Ok(())
    }

    fn take_control_end(&mut self, opcode: Opcode) -> Result<Found<'static>, BrokenRule> {
        match opcode {
            Opcode::Ping => Ok(Found::AssembledPing),
            Opcode::Pong => Ok(Found::Pong),
            _ => {
                let payload = &self.assembly[self.assembly.len() - usize::from(self.control_len)..];
                close::read_code(payload).map(Found::Closed)
            }
        }
    }

    fn take_message_end(
        &mut self,
        limits: &Limits,
        inflater: &mut Inflater,
    ) -> Result<Found<'static>, BrokenRule> {
        self.fragment_count = 0;
        if std::mem::take(&mut self.is_deflated) {
            let opcode = if self.is_text { Opcode::Text } else { Opcode::Binary };
            return inflate(opcode, &self.assembly, limits, inflater);
        }
        match self.is_text {
            false => Ok(Found::AssembledBinary),
            true if self.text.is_complete() => Ok(Found::AssembledText),
            true => Err(BrokenRule::TextNotUtf8),
        }
    }
}

/// The event that a whole, unmasked frame is, if it is a control frame or a message of its own.
#[inline]
fn found_in_input(opcode: Opcode, payload: &[u8]) -> Result<Found<'_>, BrokenRule> {
    match opcode {
        Opcode::Text => match utf8::validate(payload) {
            Ok(text) => Ok(Found::Text(text)),
            Err(utf8::InvalidUtf8) => Err(BrokenRule::TextNotUtf8),
        },
        Opcode::Binary => Ok(Found::Binary(payload)),
        Opcode::Ping => Ok(Found::Ping(payload)),
        Opcode::Pong => Ok(Found::Pong),
        Opcode::Close => close::read_code(payload).map(Found::Closed),
        Opcode::Continuation => unreachable!("the header decoder takes one only inside a message"),
    }
}

/// The event that a whole compressed message is.
#[cold]
fn inflate(
    opcode: Opcode,
    payload: &[u8],
    limits: &Limits,
    inflater: &mut Inflater,
) -> Result<Found<'static>, BrokenRule> {
    let message = inflater.inflate(payload, &limits.inflate_bounds())?;
    if opcode != Opcode::Text {
        return Ok(Found::InflatedBinary);
    }
    match utf8::validate(message) {
        Ok(_) => Ok(Found::InflatedText),
        Err(utf8::InvalidUtf8) => Err(BrokenRule::TextNotUtf8),
    }
}

/// The one kind of message that the connection takes, unless it takes both.
fn message_opcode(speech: Speech) -> Option<Opcode> {
    match speech {
        Speech::Commands(format) => Some(format.opcode()),
        Speech::Echo => None,
    }
}

/// Takes the first `len` bytes off `input`.
#[inline]
fn take_front<'input>(input: &mut &'input mut [u8], len: usize) -> &'input mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(len);
    *input = rest;
    front
}

/// Makes room for `additional` bytes: doubling, but not past `len_max` unless they need it.
fn reserve(assembly: &mut Vec<u8>, additional: usize, len_max: usize) {
    let needed = assembly.len() + additional;
    if needed > assembly.capacity() {
        let doubled = assembly.capacity().saturating_mul(2).max(ASSEMBLY_BYTES_MIN);
        assembly.reserve_exact(needed.max(doubled.min(len_max)) - assembly.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{
        naive::{Seen, decode, open, open_deflated, receive, receive_to},
        *,
    };
    use crate::protocol::{Format, deflate::twin};
    use fastwebsockets::{OpCode, Payload};
    use proptest::{prelude::*, sample::Index, test_runner::RngSeed};

    const LIMITS: Limits = Limits {
        header_bytes_max: 1024,
        message_bytes_max: 1000,
        frame_bytes_max: 1 << 20,
        terms: Terms {
            is_echo_served: false,
            deflate_window_bits: None,
            site: crate::protocol::site::Site::OPEN,
            credentials: None,
            forwarded_for: None,
        },
        inflate_ratio_max: 100,
    };
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// Several receives, which end at `splits`.
    fn receive_split(session: &mut Session, limits: &Limits, bytes: &[u8], splits: &[Index]) -> Vec<Seen> {
        let mut ends: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        receive_to(session, limits, bytes, ends)
    }

    /// A client's frame, whatever rules it breaks.
    #[derive(Clone, Debug)]
    struct Sent {
        first: u8,
        is_masked: bool,
        /// 0, 2 or 8: where the length stands; more than it needs if the rule is to be broken.
        length_bytes: usize,
        /// The length that the header tells, if not the payload's.
        declared_len: Option<u64>,
        payload: Vec<u8>,
    }

    impl Sent {
        fn new(first: u8, payload: impl Into<Vec<u8>>) -> Self {
            let payload = payload.into();
            let length_bytes = match payload.len() {
                0..126 => 0,
                126..65536 => 2,
                _ => 8,
            };
            Sent { first, is_masked: true, length_bytes, declared_len: None, payload }
        }

        fn bytes(&self) -> Vec<u8> {
            let masked = if self.is_masked { 0x80 } else { 0 };
            let len = self.declared_len.unwrap_or(self.payload.len() as u64);
            let mut bytes = vec![self.first];
            match self.length_bytes {
                0 => bytes.push(masked | len as u8 & 0x7f),
                2 => {
                    bytes.push(masked | 126);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(masked | 127);
                    bytes.extend_from_slice(&len.to_be_bytes());
                }
            }
            if self.is_masked {
                bytes.extend_from_slice(&KEY);
                bytes.extend(self.payload.iter().enumerate().map(|(index, byte)| byte ^ KEY[index % 4]));
            } else {
                bytes.extend_from_slice(&self.payload);
            }
            bytes
        }
    }

    fn frame(first: u8, payload: impl Into<Vec<u8>>) -> Vec<u8> {
        Sent::new(first, payload).bytes()
    }

    const REQUEST: &[u8] =
        b"GET /ws HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn frames_behind_the_request_in_one_receive_are_events_too() {
        let stream = [REQUEST, &frame(0x81, "first"), &frame(0x89, "p")].concat();
        let expected = [
            Seen::Upgraded(Format::Json.into(), false),
            Seen::Text("first".to_owned()),
            Seen::Ping(b"p".to_vec()),
        ];
        assert_eq!(receive(&mut Session::default(), &LIMITS, &stream), expected);

        let mut session = Session::default();
        let mut seen = Vec::new();
        for byte in stream {
            seen.extend(receive(&mut session, &LIMITS, &[byte]));
        }
        assert_eq!(seen, expected);
        assert_eq!(session.assembly.capacity(), 0);
    }

    #[test]
    fn a_request_is_refused_where_its_header_passes_the_limit_and_not_before() {
        let len = REQUEST.len();
        let exact = Limits { header_bytes_max: len, ..LIMITS };
        assert_eq!(
            receive(&mut Session::default(), &exact, REQUEST),
            [Seen::Upgraded(Format::Json.into(), false)]
        );
        let short = Limits { header_bytes_max: len - 1, ..LIMITS };
        let expected = [Seen::Answered(upgrade::header_too_long(len - 1))];
        assert_eq!(receive(&mut Session::default(), &short, REQUEST), expected);
        let mut session = Session::default();
        assert_eq!(receive(&mut session, &short, &REQUEST[..len - 2]), []);
        assert_eq!(receive(&mut session, &short, &REQUEST[len - 2..]), expected);
        assert_eq!(session.assembly.capacity(), 0, "a session that ended owns nothing");
    }

    #[test]
    fn a_message_within_one_receive_is_borrowed_from_it_and_nothing_is_allocated() {
        for (format, first) in [(Format::Json, 0x81), (Format::Binary, 0x82)] {
            let mut session = open(format);
            let mut bytes =
                [frame(first, "a"), frame(0x89, "ping"), frame(0x8A, ""), frame(first, "b".repeat(900))]
                    .concat();
            let range = bytes.as_ptr_range();
            let mut input = bytes.as_mut_slice();
            let mut count = 0;
            let mut inflater = Inflater::default();
            while let Some(event) = session.poll(&mut input, &LIMITS, &mut inflater) {
                let payload = match event {
                    Event::Text(text) => text.as_bytes(),
                    Event::Binary(payload) | Event::Ping(payload) => payload,
                    Event::Pong => &[],
                    other => panic!("{other:?}"),
                };
                assert!(payload.is_empty() || range.contains(&payload.as_ptr()));
                count += 1;
                assert_eq!(session.assembly.capacity(), 0, "the only allocation of an open session");
            }
            assert_eq!(count, 4);
        }
    }

    #[test]
    fn the_assembly_follows_the_bytes_received_and_is_freed_after_the_message() {
        let limits = Limits { message_bytes_max: 1 << 40, frame_bytes_max: 1 << 40, ..LIMITS };
        let mut session = open(Format::Binary);
        let huge = Sent { length_bytes: 8, declared_len: Some(1 << 39), ..Sent::new(0x82, "x".repeat(300)) };
        assert_eq!(receive(&mut session, &limits, &huge.bytes()), []);
        assert!(session.assembly.capacity() <= 600, "{}", session.assembly.capacity());

        let mut session = open(Format::Binary);
        let bytes = frame(0x82, "y".repeat(900));
        for byte in &bytes[..bytes.len() - 1] {
            assert_eq!(receive(&mut session, &LIMITS, &[*byte]), []);
            assert!(session.assembly.capacity() <= 900.min(64.max(2 * session.assembly.len())));
        }
        assert_eq!(
            receive(&mut session, &LIMITS, &bytes[bytes.len() - 1..]),
            [Seen::Binary(vec![b'y'; 900])]
        );
        assert_eq!(session.assembly.capacity(), 0);
    }

    #[test]
    fn a_ping_that_spans_receives_inside_a_message_is_delivered_before_it() {
        let stream = [frame(0x01, "one "), frame(0x89, "are you there"), frame(0x80, "two")].concat();
        let mut session = open(Format::Json);
        let mut seen = Vec::new();
        for byte in stream {
            seen.extend(receive(&mut session, &LIMITS, &[byte]));
        }
        assert_eq!(seen, [Seen::Ping(b"are you there".to_vec()), Seen::Text("one two".to_owned())]);
    }

    #[test]
    fn invalid_utf8_fails_in_the_middle_of_a_frame_as_soon_as_it_is_certain() {
        let bytes = frame(0x81, b"\xce\xba\xf4\x90\x80\x80 and more".to_vec());
        let mut session = open(Format::Json);
        let header_len = 6;
        assert_eq!(receive(&mut session, &LIMITS, &bytes[..header_len + 3]), []);
        let expected = [BrokenRule::TextNotUtf8.into()];
        assert_eq!(receive(&mut session, &LIMITS, &bytes[header_len + 3..header_len + 4]), expected);
    }

    #[test]
    fn a_message_over_the_limit_fails_at_the_header_of_the_fragment_that_passes_it() {
        let expected = [BrokenRule::MessageTooBig.into()];
        let whole = Sent { length_bytes: 2, declared_len: Some(1001), ..Sent::new(0x81, "") }.bytes();
        let mut session = open(Format::Json);
        assert_eq!(receive(&mut session, &LIMITS, &whole[..3]), []);
        assert_eq!(receive(&mut session, &LIMITS, &whole[3..4]), expected, "before the mask comes");

        let mut session = open(Format::Json);
        assert_eq!(receive(&mut session, &LIMITS, &frame(0x01, "a".repeat(990))), []);
        assert_eq!(receive(&mut session, &LIMITS, &frame(0x00, "a".repeat(10))), []);
        assert_eq!(receive(&mut session, &LIMITS, &frame(0x00, "")), []);
        assert_eq!(receive(&mut session, &LIMITS, &[0x80, 0x81]), expected);
    }

    #[test]
    fn every_rule_broken_once_has_its_exact_outcome() {
        use Format::{Binary, Json};
        let close = |payload: &[u8]| frame(0x88, payload);
        let cases: Vec<(Format, Vec<u8>, BrokenRule)> = vec![
            (Json, frame(0xC1, "x"), BrokenRule::ReservedBits),
            (Json, frame(0xA1, "x"), BrokenRule::ReservedBits),
            (Json, frame(0x91, "x"), BrokenRule::ReservedBits),
            (Json, frame(0x83, "x"), BrokenRule::UnknownOpcode),
            (Json, frame(0xC9, "x"), BrokenRule::DeflatedBitMisplaced),
            (Json, [frame(0x41, "x"), frame(0xC0, "y")].concat(), BrokenRule::DeflatedBitMisplaced),
            (Binary, frame(0xC2, b"\xff\xff".to_vec()), BrokenRule::CorruptDeflate),
            (
                Binary,
                [frame(0x42, b"\xff".to_vec()), frame(0x80, b"\xff".to_vec())].concat(),
                BrokenRule::CorruptDeflate,
            ),
            (Binary, frame(0xC2, twin::deflated(&[7; 1001], 6)), BrokenRule::MessageTooBig),
            (Binary, frame(0xC2, "x".repeat(1147)), BrokenRule::MessageTooBig),
            (Binary, frame(0xC2, twin::deflated(&[7; 65_537], 6)), BrokenRule::InflatesTooMuch),
            (Binary, frame(0xC2, [0x03, 0x00].repeat(257)), BrokenRule::TooManyBlocks),
            (Json, frame(0xC1, twin::deflated(b"cut \xe2\x82", 6)), BrokenRule::TextNotUtf8),
            (Json, frame(0x8B, "x"), BrokenRule::UnknownOpcode),
            (Json, frame(0x09, "x"), BrokenRule::FragmentedControl),
            (Json, frame(0x80, "x"), BrokenRule::ContinuationOutsideMessage),
            (Json, [frame(0x01, "x"), frame(0x81, "y")].concat(), BrokenRule::MessageInsideMessage),
            (Binary, frame(0x81, "x"), BrokenRule::TextOnBinary),
            (Json, frame(0x82, "x"), BrokenRule::BinaryOnText),
            (Json, Sent { is_masked: false, ..Sent::new(0x81, "x") }.bytes(), BrokenRule::Unmasked),
            (Json, frame(0x89, "x".repeat(126)), BrokenRule::ControlTooLong),
            (
                Json,
                Sent { length_bytes: 2, ..Sent::new(0x81, "x".repeat(125)) }.bytes(),
                BrokenRule::LengthNotMinimal,
            ),
            (
                Json,
                Sent { length_bytes: 8, ..Sent::new(0x81, "x".repeat(126)) }.bytes(),
                BrokenRule::LengthNotMinimal,
            ),
            (
                Json,
                Sent { length_bytes: 8, declared_len: Some(65_535), ..Sent::new(0x81, "") }.bytes(),
                BrokenRule::LengthNotMinimal,
            ),
            (
                Json,
                Sent { length_bytes: 8, declared_len: Some(65_536), ..Sent::new(0x81, "") }.bytes(),
                BrokenRule::MessageTooBig,
            ),
            (
                Json,
                Sent { length_bytes: 8, declared_len: Some(1 << 63), ..Sent::new(0x81, "") }.bytes(),
                BrokenRule::LengthTopBit,
            ),
            (Json, frame(0x81, "x".repeat(1001)), BrokenRule::MessageTooBig),
            (
                Json,
                Sent { length_bytes: 8, declared_len: Some((1 << 63) - 1), ..Sent::new(0x81, "") }.bytes(),
                BrokenRule::FrameTooBig,
            ),
            (
                Binary,
                [frame(0x02, ""), frame(0x00, "").repeat(FRAGMENT_COUNT_MAX as usize)].concat(),
                BrokenRule::TooManyFragments,
            ),
            (Json, frame(0x81, b"\xff".to_vec()), BrokenRule::TextNotUtf8),
            (Json, frame(0x81, b"cut \xe2\x82".to_vec()), BrokenRule::TextNotUtf8),
            (
                Json,
                [frame(0x01, b"\xe2".to_vec()), frame(0x80, b"\x82".to_vec())].concat(),
                BrokenRule::TextNotUtf8,
            ),
            (Json, close(b"\x03"), BrokenRule::CloseCodeCut),
            (Json, close(b"\x03\xed"), BrokenRule::CloseCodeForbidden),
            (Json, close(b"\x03\xe8\xff"), BrokenRule::CloseReasonNotUtf8),
        ];
        for rule in BrokenRule::ALL {
            assert!(cases.iter().any(|case| case.2 == rule), "{rule:?} has no case");
        }
        for (format, bytes, rule) in cases {
            let message_bytes_max = if rule == BrokenRule::InflatesTooMuch { 1 << 20 } else { 1000 };
            let limits = Limits { message_bytes_max, ..LIMITS };
            let is_deflate_agreed = !matches!(rule, BrokenRule::ReservedBits);
            let mut session = Session { is_deflate_agreed, ..open(format) };
            assert_eq!(receive(&mut session, &limits, &bytes), [rule.into()]);
            assert_eq!(receive(&mut session, &limits, &frame(0x81, "x")), [], "it takes no more input");
            assert_eq!(session.assembly.capacity(), 0);
        }
    }

    #[test]
    fn an_echo_takes_text_and_binary_in_turn_and_holds_each_to_its_rules() {
        let terms = Terms { is_echo_served: true, ..Terms::default() };
        let limits = Limits { terms, ..LIMITS };
        let request = String::from_utf8_lossy(REQUEST).replacen("/ws", "/echo", 1);
        let mut session = Session::default();
        assert_eq!(receive(&mut session, &limits, request.as_bytes()), [Seen::Upgraded(Speech::Echo, false)]);
        let stream = [
            frame(0x81, "text"),
            frame(0x82, b"\xff".to_vec()),
            frame(0x01, b"cut \xc3".to_vec()),
            frame(0x89, "between"),
            frame(0x80, b"\xa9".to_vec()),
            frame(0x02, b"\xff".to_vec()),
            frame(0x80, b"\xfe".to_vec()),
        ];
        let expected = [
            Seen::Text("text".to_owned()),
            Seen::Binary(b"\xff".to_vec()),
            Seen::Ping(b"between".to_vec()),
            Seen::Text("cut é".to_owned()),
            Seen::Binary(b"\xff\xfe".to_vec()),
        ];
        assert_eq!(receive(&mut session, &limits, &stream.concat()), expected);
        let stream = [frame(0x02, "\n"), frame(0x81, "x")].concat();
        assert_eq!(
            receive(&mut open(Speech::Echo), &limits, &stream),
            [BrokenRule::MessageInsideMessage.into()]
        );
        let stream = [frame(0x82, b"\xff".to_vec()), frame(0x01, b"\xff".to_vec())].concat();
        let expected = [Seen::Binary(b"\xff".to_vec()), BrokenRule::TextNotUtf8.into()];
        assert_eq!(receive(&mut session, &limits, &stream), expected);
    }

    #[test]
    fn a_message_may_have_as_many_fragments_as_the_bound_says() {
        let mut session = open(Format::Binary);
        assert_eq!(receive(&mut session, &LIMITS, &frame(0x02, "a")), []);
        let middle = frame(0x00, "").repeat(FRAGMENT_COUNT_MAX as usize - 2);
        assert_eq!(receive(&mut session, &LIMITS, &middle), []);
        assert_eq!(receive(&mut session, &LIMITS, &frame(0x80, "b")), [Seen::Binary(b"ab".to_vec())]);
    }

    #[test]
    fn a_close_ends_the_session_and_gives_its_code() {
        for (payload, code) in [(&b""[..], None), (b"\x03\xe8", Some(1000)), (b"\x0b\xb8bye", Some(3000))] {
            let mut session = open(Format::Json);
            let stream = [frame(0x88, payload), frame(0x81, "after")].concat();
            assert_eq!(receive(&mut session, &LIMITS, &stream), [Seen::Closed(code)]);
            assert_eq!(receive(&mut session, &LIMITS, &stream), []);
        }
    }

    #[test]
    fn empty_messages_and_empty_fragments_are_messages() {
        let text = |text: &str| Seen::Text(text.to_owned());
        let stream = [frame(0x81, ""), frame(0x01, ""), frame(0x00, ""), frame(0x80, ""), frame(0x81, "x")];
        let expected = [text(""), text(""), text("x")];
        assert_eq!(receive(&mut open(Format::Json), &LIMITS, &stream.concat()), expected);
    }

    /// What fastwebsockets, which shares no code with us, writes as a client.
    fn independent_frame(is_final: bool, opcode: OpCode, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut frame =
            fastwebsockets::Frame::new(is_final, opcode, Some(key), Payload::Owned(payload.to_vec()));
        frame.mask();
        frame.write(&mut Vec::new()).to_vec()
    }

    /// A frame that follows the rules at its own place, or breaks one.
    fn any_sent() -> impl Strategy<Value = Sent> {
        let text = "\\PC{0,40}".prop_map(String::into_bytes);
        let bytes = prop::collection::vec(any::<u8>(), 0..140);
        let close = prop_oneof![
            Just(vec![]),
            Just(vec![3]),
            (any::<u16>(), "\\PC{0,4}")
                .prop_map(|(code, text)| [&code.to_be_bytes(), text.as_bytes()].concat()),
            (1000_u16..1016).prop_map(|code| code.to_be_bytes().to_vec()),
        ];
        let first = prop::sample::select(vec![0x00, 0x80, 0x01, 0x81, 0x02, 0x82]);
        prop_oneof![
            20 => (first.clone(), text.clone()).prop_map(|(first, payload)| Sent::new(first, payload)),
            4 => (first.clone(), text.clone(), 1_u32..10)
                .prop_map(|(first, text, level)| Sent::new(first | 0x40, twin::deflated(&text, level))),
            1 => (first.clone(), bytes.clone()).prop_map(|(first, payload)| Sent::new(first | 0x40, payload)),
            4 => (first, bytes.clone()).prop_map(|(first, payload)| Sent::new(first, payload)),
            8 => (0x89_u8..=0x8A, bytes).prop_map(|(first, payload)| Sent::new(first, payload)),
            1 => close.prop_map(|payload| Sent::new(0x88, payload)),
            1 => (any::<u8>(), any::<bool>(), 0_usize..3, prop::option::of(any::<u64>())).prop_map(
                |(first, is_masked, length, declared_len)| Sent {
                    is_masked,
                    length_bytes: [0, 2, 8][length],
                    declared_len,
                    ..Sent::new(first, "hostile")
                },
            ),
        ]
    }

    /// Streams in which a few frames in a row tend to make sense: an index repairs the first bits of
    /// data frames, so that messages begin, continue and end.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec((any_sent(), prop::bool::weighted(0.95)), 0..24), any::<bool>()).prop_map(
            |(frames, is_text)| {
                let mut is_inside = false;
                let mut stream = Vec::new();
                for (mut sent, is_repaired) in frames {
                    if is_repaired && sent.first & 0x08 == 0 {
                        let opcode = if is_inside {
                            0
                        } else if is_text {
                            1
                        } else {
                            2
                        };
                        let rsv1 = if is_inside { 0 } else { sent.first & 0x40 };
                        sent.first = sent.first & 0x80 | rsv1 | opcode;
                        is_inside = sent.first & 0x80 == 0;
                    }
                    stream.extend(sent.bytes());
                }
                stream
            },
        )
    }

    fn any_speech() -> impl Strategy<Value = Speech> {
        prop_oneof![any_format().prop_map(Speech::from), Just(Speech::Echo)]
    }

    fn any_format() -> impl Strategy<Value = Format> {
        prop::sample::select(Format::ALL.as_slice())
    }

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            cases,
            rng_seed: RngSeed::Fixed(0x6672_616d),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    proptest! {
        #![proptest_config(config(4000))]

        #[test]
        fn any_split_of_any_stream_gives_the_events_of_the_whole_stream(
            speech in any_speech(),
            is_deflate_agreed in prop::bool::weighted(0.7),
            stream in any_stream(),
            cut in prop_oneof![Just(None), any::<Index>().prop_map(Some)],
            splits in prop::collection::vec(any::<Index>(), 0..12),
        ) {
            let len = cut.map_or(stream.len(), |cut| cut.index(stream.len() + 1));
            let stream = &stream[..len];
            let limits = Limits { message_bytes_max: 150, frame_bytes_max: 120, ..LIMITS };
            let start = || Session { is_deflate_agreed, ..open(speech) };
            let expected = decode(speech, is_deflate_agreed, &limits, stream);
            prop_assert_eq!(&receive(&mut start(), &limits, stream), &expected);
            prop_assert_eq!(&receive_split(&mut start(), &limits, stream, &splits), &expected);
            let every_byte: Vec<Vec<Seen>> = {
                let mut session = start();
                stream.iter().map(|byte| receive(&mut session, &limits, &[*byte])).collect()
            };
            prop_assert_eq!(&every_byte.concat(), &expected);
        }

        #[test]
        fn any_bytes_at_all_end_in_the_same_events_however_they_are_split(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            speech in prop::option::of(any_speech()),
            splits in prop::collection::vec(any::<Index>(), 0..12),
        ) {
            let start = || speech.map_or_else(Session::default, open);
            let expected = receive(&mut start(), &LIMITS, &bytes);
            prop_assert_eq!(&receive_split(&mut start(), &LIMITS, &bytes, &splits), &expected);
            if let Some(speech) = speech {
                prop_assert_eq!(decode(speech, false, &LIMITS, &bytes), expected);
            }
        }

        #[test]
        fn a_request_with_a_byte_changed_is_answered_alike_however_it_is_split(
            at in any::<Index>(),
            byte in any::<u8>(),
            splits in prop::collection::vec(any::<Index>(), 0..12),
        ) {
            let mut stream = REQUEST.to_vec();
            *at.get_mut(stream.as_mut_slice()) = byte;
            stream.extend(frame(0x81, "behind"));
            let expected = receive(&mut Session::default(), &LIMITS, &stream);
            prop_assert_eq!(receive_split(&mut Session::default(), &LIMITS, &stream, &splits), expected);
        }
    }

    proptest! {
        #![proptest_config(config(1000))]

        #[test]
        fn messages_in_any_fragments_with_control_frames_between_arrive_whole_and_in_order(
            messages in prop::collection::vec(
                (
                    "\\PC{0,300}",
                    prop::option::of(1_u32..10),
                    prop::collection::vec((any::<Index>(), 0_u8..4), 0..6),
                ),
                1..6,
            ),
            key in any::<[u8; 4]>(),
            splits in prop::collection::vec(any::<Index>(), 0..12),
            format in any_format(),
        ) {
            let limits = Limits { message_bytes_max: 4096, ..LIMITS };
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (text, level, fragments) in messages {
                let payload = level.map_or_else(|| text.clone().into_bytes(), |level| {
                    twin::deflated(text.as_bytes(), level)
                });
                let mut ends: Vec<(usize, u8)> =
                    fragments.into_iter().map(|(end, control)| (end.index(payload.len() + 1), control)).collect();
                ends.push((payload.len(), 3));
                ends.sort_unstable_by_key(|(end, _)| *end);
                let mut opcode = if format == Format::Json { OpCode::Text } else { OpCode::Binary };
                let mut start = 0;
                let last = ends.len() - 1;
                for (index, (end, control)) in ends.into_iter().enumerate() {
                    let mut frame = independent_frame(index == last, opcode, &payload[start..end], key);
                    frame[0] |= if index == 0 && level.is_some() { 0x40 } else { 0 };
                    stream.extend(frame);
                    (opcode, start) = (OpCode::Continuation, end);
                    match control {
                        _ if index == last => {}
                        0 => {
                            stream.extend(independent_frame(true, OpCode::Ping, b"between", key));
                            expected.push(Seen::Ping(b"between".to_vec()));
                        }
                        1 => {
                            stream.extend(independent_frame(true, OpCode::Pong, &[7; 125], key));
                            expected.push(Seen::Pong);
                        }
                        _ => {}
                    }
                }
                expected.push(match format {
                    Format::Json => Seen::Text(text),
                    Format::Binary => Seen::Binary(text.into_bytes()),
                });
            }
            let mut session = open_deflated(format);
            prop_assert_eq!(receive_split(&mut session, &limits, &stream, &splits), expected);
            prop_assert_eq!(session.assembly.capacity(), 0);
        }
    }
}
