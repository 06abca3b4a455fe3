//! A connection: a socket, its slot, and what the kernel holds of it.

use std::os::fd::RawFd;

use super::{share, transport::Flight};
use crate::protocol::{
    Format, Speech, close::CloseReason, command::Rest, deflate::Agreement, session::Session,
};

/// A slot of the connection table.
///
/// Life: `Free → Upgrading → Authenticating → Open → Closing → Flushing → Lingering → Finishing → Ending → Free`, where any phase may
/// go straight to `Ending`, and the slot is freed, and its socket closed, only when neither a receive
/// nor a send is in flight: until then the kernel may still write to our buffers or read from them.
#[derive(Debug)]
pub struct Connection {
    /// The socket; meaningless in `Free`.
    pub socket: RawFd,
    /// Which life of the slot this is.
    pub generation: u32,
    /// Where in its life it is.
    pub phase: Phase,
    /// What was negotiated.
    pub speech: Speech,
    /// What was negotiated of permessage-deflate.
    pub agreement: Option<Agreement>,
    /// True exactly when a receive is in flight.
    pub is_receiving: bool,
    /// Whether its commands are taken, and what they wait for.
    pub pause: Pause,
    /// It is on the list of connections with replies to send.
    pub is_listed: bool,
    /// A ping went out and nothing came since; or it lingers and nothing came since it was looked at.
    pub is_pinged: bool,
    /// When a byte last came, or the last ping went out, or what stood before it was seen to be taken, in milliseconds
    /// (wrapping). That something is taken says little else: a proxy or a kernel takes what is sent to the dead.
    pub active_ms: u32,
    /// How much the peer had taken when its deadline last passed, in bytes (wrapping).
    pub acked_bytes: u32,
    /// The protocol's state machine.
    pub session: Session,
    /// Replies, events and control frames that wait: whole frames.
    pub replies: Vec<u8>,
    /// Received and not yet taken.
    pub unread: Option<Box<Unread>>,
    /// The send that is in flight.
    pub flight: Flight,
}

// Every connection has one, and 512 bytes are what it may cost with all that belongs to it.
const _: () = assert!(size_of::<Connection>() <= 136);

/// What a connection's commands wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Nothing: they are taken as they come.
    None,
    /// Its turn, and room at homes: it is in the queue for that.
    Turn,
    /// The same, with little to be taken: it is in the queue that is served first.
    LittleTurn,
    /// That its replies are sent.
    Replies,
    /// That a task has done what an earlier command asked.
    Task,
    /// That all connections have less under way: it has much.
    Memory,
    /// That its last message, which is long, is checked.
    Check,
    /// That its credential is looked at.
    Gate,
    /// That it is told that its credential is not accepted.
    Refusal,
}

/// What was received of a connection that waits.
#[derive(Debug, Default)]
pub struct Unread {
    /// The commands that are left of the message that came before.
    pub rest: Option<Box<Rest>>,
    /// How long the message is that is being checked, if one is.
    pub checked_bytes: usize,
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The slot is nobody's.
    Free,
    /// The upgrade request has not come whole.
    Upgrading,
    /// It is not known who it is.
    Authenticating,
    /// Commands and messages flow.
    Open,
    /// Our close frame is on its way or sent; the peer's is awaited.
    Closing(CloseReason),
    /// Nothing more is to be said once what waits is sent.
    Flushing(CloseReason),
    /// All is sent to a peer whose bytes mean nothing any more, and which may be in the middle of them. They are taken and
    /// forgotten until it falls silent: whoever it is reached by would else see our end of stream before it has read what
    /// was sent, and pass on a broken connection.
    Lingering(CloseReason),
    /// All is sent and our direction shut down; the peer's end of stream is awaited.
    Finishing(CloseReason),
    /// Shut down; the kernel's last completions are awaited.
    Ending(CloseReason),
}

impl Phase {
    /// Whether the connection is nobody's yet whom the broker knows.
    pub fn is_stranger(self) -> bool {
        matches!(self, Phase::Upgrading | Phase::Authenticating)
    }

    /// Whether what it sends are messages, and it may be closed with a frame.
    pub fn is_served(self) -> bool {
        matches!(self, Phase::Authenticating | Phase::Open)
    }

    /// Why the connection is being closed, if it is.
    pub fn reason(self) -> Option<CloseReason> {
        match self {
            Phase::Free | Phase::Upgrading | Phase::Authenticating | Phase::Open => None,
            Phase::Closing(reason)
            | Phase::Flushing(reason)
            | Phase::Lingering(reason)
            | Phase::Finishing(reason)
            | Phase::Ending(reason) => Some(reason),
        }
    }
}

/// Of a slot that nobody has had. Generations wrap, in tests soon: also those of a token, which are shorter.
const GENERATION_FIRST: u32 = if cfg!(test) { u32::MAX - 1 } else { 0 };

impl Connection {
    /// A slot that nobody has had.
    pub fn free() -> Connection {
        Connection {
            socket: -1,
            generation: GENERATION_FIRST,
            phase: Phase::Free,
            speech: Speech::Commands(Format::Json),
            agreement: None,
            is_receiving: false,
            pause: Pause::None,
            is_listed: false,
            is_pinged: false,
            active_ms: 0,
            acked_bytes: 0,
            session: Session::default(),
            replies: Vec::new(),
            unread: None,
            flight: Flight::None,
        }
    }

    /// The language of its commands and of what it is told.
    pub fn format(&self) -> Format {
        match self.speech {
            Speech::Commands(format) => format,
            Speech::Echo => unreachable!("a connection that echoes has no commands and is told nothing"),
        }
    }

    /// Whether its commands wait.
    pub fn is_paused(&self) -> bool {
        self.pause != Pause::None
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self) -> bool {
        !self.flight.is_none()
    }

    /// Whether the kernel holds anything of it.
    pub fn is_held(&self) -> bool {
        self.is_receiving || self.is_sending()
    }

    /// Whether bytes from the peer still mean something.
    pub fn is_reading(&self) -> bool {
        self.phase.is_served() || matches!(self.phase, Phase::Upgrading | Phase::Closing(_))
    }
}

impl Unread {
    /// The commands and the bytes that are left.
    pub fn new(rest: Option<Box<Rest>>, bytes: &[u8]) -> Unread {
        Unread { rest, checked_bytes: 0, bytes: bytes.to_vec(), taken: 0 }
    }

    /// Adds what came.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What has not been taken: commands of a message, and bytes behind it.
    pub fn parts(&mut self) -> (&mut Option<Box<Rest>>, &mut [u8]) {
        (&mut self.rest, &mut self.bytes[self.taken..])
    }

    /// All but the last `left` bytes have been taken.
    pub fn keep(&mut self, left: usize) {
        self.taken = self.bytes.len() - left;
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_none() && self.bytes.len() == self.taken
    }

    /// Whether little is left: whoever waits with it need not wait for those with much.
    pub fn is_little(&self) -> bool {
        self.rest.is_none() && self.bytes.len() - self.taken <= share::LITTLE_BYTES
    }

    /// The memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.checked_bytes + self.rest.as_ref().map_or(0, |rest| rest.len_bytes())
    }
}
