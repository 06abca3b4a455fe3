//! Bytes ↔ meaning, pure: RFC 6455 frames and the upgrade, and the two command languages.
//!
//! Nothing here has a descriptor, a clock or a thread. Bytes come in as slices, events come out as
//! borrowed views of them, and everything that a peer can get wrong is a value, never a panic.

pub mod binary;
pub mod close;
pub mod command;
pub mod frame;
pub mod json;
pub mod mask;
pub mod publication;
pub mod reply;
pub mod session;
pub mod upgrade;
pub mod utf8;

/// The wire language that a connection chose by its subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// `fanfare.json.v1`: text messages.
    Json = 0,
    /// `fanfare.bin.v1`: binary messages.
    Binary = 1,
}

impl Format {
    /// Every format, in the order of its index.
    pub const ALL: [Format; 2] = [Format::Json, Format::Binary];
    /// How many formats there are: the length of a table indexed by [`Format::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// This format's place in a table of [`Format::COUNT`] entries.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What an open connection does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// They are commands, in this language.
    Commands(Format),
    /// `/echo`, a diagnosis: messages of both kinds are sent back as they are.
    Echo,
}

impl From<Format> for Speech {
    fn from(format: Format) -> Speech {
        Speech::Commands(format)
    }
}
