//! The twin of [`Session`]: a whole stream at once, byte by byte, with copies everywhere.

use super::{Event, Limits, Phase, Session};
use crate::protocol::{
    Format, Speech,
    close::{self, BrokenRule, CloseReason},
    deflate::{Bounds, Inflater},
    frame::{
        Context, Opcode,
        naive::{self, Stop},
    },
};

/// An [`Event`] that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What they speak, and whether permessage-deflate was agreed on.
    Upgraded(Speech, bool),
    Answered(Vec<u8>),
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Closed(Option<u16>),
    Failed(CloseReason, &'static str),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Upgraded { speech, agreement, .. } => Seen::Upgraded(speech, agreement.is_some()),
            Event::Answered { response, .. } => Seen::Answered(response),
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_owned()),
            Event::Ping(payload) => Seen::Ping(payload.to_owned()),
            Event::Pong => Seen::Pong,
            Event::Closed { code } => Seen::Closed(code),
            Event::Failed { reason, rule } => Seen::Failed(reason, rule),
        }
    }
}

impl From<BrokenRule> for Seen {
    fn from(rule: BrokenRule) -> Self {
        Seen::Failed(rule.reason(), rule.sentence())
    }
}

/// A session that is past its upgrade.
pub(crate) fn open(speech: impl Into<Speech>) -> Session {
    Session { phase: Phase::Open(speech.into()), ..Session::default() }
}

/// A session that is past an upgrade with which permessage-deflate was agreed on.
pub(crate) fn open_deflated(speech: impl Into<Speech>) -> Session {
    Session { is_deflate_agreed: true, ..open(speech) }
}

/// One receive: polls until everything is taken.
pub(crate) fn receive(session: &mut Session, limits: &Limits, bytes: &[u8]) -> Vec<Seen> {
    let mut bytes = bytes.to_vec();
    let mut input = bytes.as_mut_slice();
    let mut seen = Vec::new();
    let mut inflater = Inflater::default();
    while let Some(event) = session.poll(&mut input, limits, &mut inflater) {
        seen.push(event.into());
    }
    assert!(input.is_empty(), "None means that everything was taken");
    seen
}

/// Several receives, which end at `ends`, in order, and at the end of `bytes`.
pub(crate) fn receive_to(
    session: &mut Session,
    limits: &Limits,
    bytes: &[u8],
    ends: impl IntoIterator<Item = usize>,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut start = 0;
    for end in ends.into_iter().chain([bytes.len()]) {
        seen.extend(receive(session, limits, &bytes[start..end]));
        start = end;
    }
    seen
}

/// What a session that is past its upgrade makes of `stream`.
pub(crate) fn decode(
    speech: impl Into<Speech>,
    is_deflate_agreed: bool,
    limits: &Limits,
    stream: &[u8],
) -> Vec<Seen> {
    let mut naive = Naive {
        speech: speech.into(),
        is_deflate_agreed,
        limit: limits.message_bytes_max,
        frame_limit: limits.frame_bytes_max,
        inflate_bounds: limits.inflate_bounds(),
        left: stream,
        seen: Vec::new(),
        message: None,
        is_text: false,
        is_deflated: false,
    };
    loop {
        match naive.frame() {
            Ok(()) => {}
            Err(Stop::BytesEnd) => break,
            Err(Stop::Broken(rule)) => {
                naive.seen.push(rule.into());
                break;
            }
        }
        if matches!(naive.seen.last(), Some(Seen::Closed(_))) {
            break;
        }
    }
    naive.seen
}

struct Naive<'a> {
    speech: Speech,
    is_deflate_agreed: bool,
    limit: usize,
    frame_limit: usize,
    inflate_bounds: Bounds,
    left: &'a [u8],
    seen: Vec<Seen>,
    message: Option<Vec<u8>>,
    is_text: bool,
    is_deflated: bool,
}

impl Naive<'_> {
    fn frame(&mut self) -> Result<(), Stop> {
        let deflated_limit = self.limit + self.limit.div_ceil(8) + self.limit.div_ceil(64) + 5;
        let limit = if self.message.is_some() && self.is_deflated { deflated_limit } else { self.limit };
        let context = Context {
            message_opcode: match self.speech {
                Speech::Commands(Format::Json) => Some(Opcode::Text),
                Speech::Commands(Format::Binary) => Some(Opcode::Binary),
                Speech::Echo => None,
            },
            is_inside_message: self.message.is_some(),
            message_bytes_left: limit - self.message.as_ref().map_or(0, Vec::len),
            deflated_bytes_max: self.is_deflate_agreed.then_some(deflated_limit),
            frame_bytes_max: self.frame_limit,
        };
        let header = naive::header(&mut self.left, &context)?;
        let mut payload = Vec::new();
        let mut ended = Ok(());
        for index in 0..header.payload_len {
            match naive::byte(&mut self.left) {
                Ok(byte) => payload.push(byte ^ header.key[index % 4]),
                Err(stop) => {
                    ended = Err(stop);
                    break;
                }
            }
        }
        match header.opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                ended?;
                return self.control(header.opcode, payload);
            }
            Opcode::Text | Opcode::Binary => {
                (self.is_text, self.is_deflated) = (header.opcode == Opcode::Text, header.is_deflated);
            }
            Opcode::Continuation => {}
        }
        let mut message = self.message.take().unwrap_or_default();
        message.extend(payload);
        if self.is_text && !self.is_deflated {
            let is_hopeless = str::from_utf8(&message).is_err_and(|error| error.error_len().is_some());
            require(!is_hopeless, BrokenRule::TextNotUtf8)?;
        }
        ended?;
        if !header.is_final {
            self.message = Some(message);
            return Ok(());
        }
        if self.is_deflated {
            // Whose own twin is in its own tests.
            let mut inflater = Inflater::default();
            message = inflater.inflate(&message, &self.inflate_bounds).map_err(Stop::Broken)?.to_vec();
        }
        self.seen.push(match self.is_text {
            false => Seen::Binary(message),
            true => match String::from_utf8(message) {
                Ok(text) => Seen::Text(text),
                Err(_) => return Err(Stop::Broken(BrokenRule::TextNotUtf8)),
            },
        });
        Ok(())
    }

    fn control(&mut self, opcode: Opcode, payload: Vec<u8>) -> Result<(), Stop> {
        self.seen.push(match opcode {
            Opcode::Ping => Seen::Ping(payload),
            Opcode::Pong => Seen::Pong,
            _ if payload.is_empty() => Seen::Closed(None),
            _ => {
                require(payload.len() > 1, BrokenRule::CloseCodeCut)?;
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                require(close::is_allowed_from_peer(code), BrokenRule::CloseCodeForbidden)?;
                require(str::from_utf8(&payload[2..]).is_ok(), BrokenRule::CloseReasonNotUtf8)?;
                Seen::Closed(Some(code))
            }
        });
        Ok(())
    }
}

fn require(holds: bool, rule: BrokenRule) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Broken(rule)) }
}
