//! One connection's WebSocket state machine, without its socket.
//!
//! Call [`Session::poll`] with what was received until it returns `None`; then everything has been
//! taken. Payloads are unmasked in place; a message that fits in one receive is never copied.

use super::{
    Format,
    close::{self, BrokenRule, CloseReason},
    frame::{CONTROL_PAYLOAD_BYTES_MAX, Context, Header, HeaderDecoder, Opcode},
    mask,
    upgrade::{self, Answer, Scan},
    utf8,
};

/// What a session refuses to exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest upgrade request, in bytes.
    pub header_bytes_max: usize,
    /// The longest message, all fragments together, in bytes.
    pub message_bytes_max: usize,
}

/// What the bytes meant.
#[derive(Debug)]
pub enum Event<'a> {
    /// The upgrade is accepted: send `response`, then speak `format`.
    Upgraded {
        /// The language that both speak from now on.
        format: Format,
        /// The whole `101` response.
        response: Vec<u8>,
    },
    /// The request is answered and the connection over: send `response`, then close.
    Answered {
        /// A whole HTTP response with `Connection: close`.
        response: Vec<u8>,
    },
    /// A whole text message (the session speaks JSON); valid UTF-8.
    Text(&'a str),
    /// A whole binary message (the session speaks binary).
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
    /// How far the message in `assembly` is known to be UTF-8, if it is text.
    text: utf8::Progress,
    /// How many bytes at the end of `assembly` belong to a control frame.
    control_len: u8,
}

// Every connection has one: with a million of them a byte here is a megabyte.
const _: () = assert!(size_of::<Session>() <= 64);

/// Where in its life a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Upgrading,
    Open(Format),
    Ended,
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
    /// The assembly ends with the payload of a ping, `control_len` bytes.
    AssembledPing,
    Pong,
    Closed(Option<u16>),
}

impl Session {
    /// Takes from the front of `input` up to the end of one event. `None`: all of `input` was taken
    /// and nothing is complete yet. After `Answered`, `Closed` or `Failed` it returns only `None`.
    pub fn poll<'event, 'input: 'event>(
        &'event mut self,
        input: &mut &'input mut [u8],
        limits: &Limits,
    ) -> Option<Event<'event>> {
        let format = match self.phase {
            Phase::Open(format) => format,
            Phase::Upgrading => return self.poll_upgrade(input, limits),
            Phase::Ended => {
                *input = &mut [];
                return None;
            }
        };
        self.release();
        let found = match self.next_frame_event(format, input, limits) {
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

    fn poll_upgrade(&mut self, input: &mut &mut [u8], limits: &Limits) -> Option<Event<'static>> {
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
                match upgrade::answer(request) {
                    Answer::Upgraded { format, response } => {
                        self.phase = Phase::Open(format);
                        self.assembly = Vec::new();
                        take_front(input, taken);
                        Some(Event::Upgraded { format, response })
                    }
                    Answer::Answered { response } => {
                        self.end(input);
                        Some(Event::Answered { response })
                    }
                }
            }
            Scan::Refused(response) => {
                self.end(input);
                Some(Event::Answered { response })
            }
            Scan::Incomplete if window.len() == room => {
                self.end(input);
                Some(Event::Answered { response: upgrade::header_too_long(limits.header_bytes_max) })
            }
            Scan::Incomplete => {
                if kept_len == 0 {
                    self.assembly.extend_from_slice(window);
                }
                *input = &mut [];
                None
            }
        }
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
        format: Format,
        input: &mut &'input mut [u8],
        limits: &Limits,
    ) -> Result<Option<Found<'input>>, BrokenRule> {
        loop {
            if self.frame.is_none() {
                let Some(header) = self.take_header(format, input, limits)? else { return Ok(None) };
                let is_control = header.opcode.is_control();
                let is_whole_message = header.is_final && self.fragment_count == 0;
                if (is_control || is_whole_message) && header.payload_len <= input.len() {
                    let payload = take_front(input, header.payload_len);
                    mask::unmask(payload, header.key, 0);
                    return found_in_input(header.opcode, payload).map(Some);
                }
                if !is_control {
                    if self.fragment_count == FRAGMENT_COUNT_MAX {
                        return Err(BrokenRule::TooManyFragments);
                    }
                    self.fragment_count += 1;
                }
                self.frame = Some(Frame { opcode: header.opcode, is_final: header.is_final });
                self.frame_bytes_left = header.payload_len;
                self.key = header.key;
            }
            let Some(frame) = self.frame else { unreachable!("it was there or has just been set") };
            self.take_payload(frame, format, input, limits)?;
            if self.frame_bytes_left > 0 {
                return Ok(None);
            }
            self.frame = None;
            if frame.opcode.is_control() {
                return self.take_control_end(frame.opcode).map(Some);
            }
            if frame.is_final {
                return self.take_message_end(format).map(Some);
            }
        }
    }

    #[inline]
    fn take_header(
        &mut self,
        format: Format,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<Option<Header>, BrokenRule> {
        let context = Context {
            message_opcode: message_opcode(format),
            is_inside_message: self.fragment_count > 0,
            // Saturating, because a reload may have lowered the limit within a message.
            message_bytes_left: limits.message_bytes_max.saturating_sub(self.assembly.len()),
        };
        let (taken, header) = self.header.take(input, &context)?;
        take_front(input, taken);
        Ok(header)
    }

    /// Moves what `input` has of the frame's payload to the assembly.
    fn take_payload(
        &mut self,
        frame: Frame,
        format: Format,
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
            limits.message_bytes_max.saturating_add(CONTROL_PAYLOAD_BYTES_MAX)
        };
        reserve(&mut self.assembly, taken, len_max);
        mask::append_unmasked(chunk, self.key, 0, &mut self.assembly);
        self.key.rotate_left(taken % 4);
        self.frame_bytes_left -= taken;
        if frame.opcode.is_control() {
            self.control_len += taken as u8;
        } else if format == Format::Json {
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

    fn take_message_end(&mut self, format: Format) -> Result<Found<'static>, BrokenRule> {
        self.fragment_count = 0;
        match format {
            Format::Binary => Ok(Found::AssembledBinary),
            Format::Json if self.text.is_complete() => Ok(Found::AssembledText),
            Format::Json => Err(BrokenRule::TextNotUtf8),
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

/// The one kind of message that a connection of this format takes.
fn message_opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::Binary => Opcode::Binary,
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
