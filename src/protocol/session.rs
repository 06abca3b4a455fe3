//! One connection's WebSocket state machine, without its socket.
//!
//! Call [`Session::poll`] with what was received until it returns `None`; then everything has been
//! taken. Payloads are unmasked in place; a message that fits in one receive is never copied.

use super::{Format, close::CloseReason};

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

/// A connection's state between receives.
#[derive(Debug, Default)]
pub struct Session {}

impl Session {
    /// Takes from the front of `input` up to the end of one event. `None`: all of `input` was taken
    /// and nothing is complete yet. After `Answered`, `Closed` or `Failed` it returns only `None`.
    pub fn poll<'event, 'input: 'event>(
        &'event mut self,
        input: &mut &'input mut [u8],
        limits: &Limits,
    ) -> Option<Event<'event>> {
        let _ = (input, limits);
        todo!()
    }
}
