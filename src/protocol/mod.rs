//! Bytes ↔ meaning, pure: RFC 6455 frames and the upgrade, and the two command languages.
//!
//! Nothing here has a descriptor, a clock or a thread. Bytes come in as slices, events come out as
//! borrowed views of them, and everything that a peer can get wrong is a value, never a panic.

pub mod binary;
pub mod close;
pub mod command;
pub mod credential;
pub mod deflate;
pub mod forwarded;
pub mod frame;
pub mod json;
pub mod mask;
pub mod proxy;
pub mod publication;
pub mod ranges;
pub mod record;
pub mod reply;
pub mod rest;
pub mod secret;
pub mod session;
pub mod site;
pub mod tenant;
pub mod topic;
pub mod transcode;
pub mod upgrade;
pub mod utf8;
pub mod veil;

use frame::Opcode;

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

    /// The kind of message that carries it.
    pub fn opcode(self) -> Opcode {
        match self {
            Format::Json => Opcode::Text,
            Format::Binary => Opcode::Binary,
        }
    }
}

/// What the bytes of a publication are for a subscriber: its language, and whether it takes them compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// [`Format::Json`].
    Json = 0,
    /// [`Format::Binary`].
    Binary = 1,
    /// [`Format::Json`] over permessage-deflate.
    DeflatedJson = 2,
    /// [`Format::Binary`] over permessage-deflate.
    DeflatedBinary = 3,
}

impl Encoding {
    /// Every encoding, in the order of its index: those that need no compression first.
    pub const ALL: [Encoding; 4] =
        [Encoding::Json, Encoding::Binary, Encoding::DeflatedJson, Encoding::DeflatedBinary];
    /// How many encodings there are: the length of a table indexed by [`Encoding::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// The encoding of this language.
    pub fn new(format: Format, is_deflated: bool) -> Encoding {
        match (format, is_deflated) {
            (Format::Json, false) => Encoding::Json,
            (Format::Binary, false) => Encoding::Binary,
            (Format::Json, true) => Encoding::DeflatedJson,
            (Format::Binary, true) => Encoding::DeflatedBinary,
        }
    }

    /// This encoding's place in a table of [`Encoding::COUNT`] entries.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its language.
    pub fn format(self) -> Format {
        match self {
            Encoding::Json | Encoding::DeflatedJson => Format::Json,
            Encoding::Binary | Encoding::DeflatedBinary => Format::Binary,
        }
    }

    /// The length of the record at the front of `bytes`: a publication in this encoding, as a log has it.
    ///
    /// # Panics
    /// If `bytes` end before it says so: a log has whole records.
    #[inline]
    pub fn record_len(self, bytes: &[u8]) -> u32 {
        let len = match self {
            Encoding::Json | Encoding::Binary | Encoding::DeflatedJson | Encoding::DeflatedBinary => {
                frame::server_frame_len(bytes)
            }
        };
        len.expect("a log has whole records") as u32
    }

    /// Whether messages in it are compressed if they are long enough.
    pub fn is_deflated(self) -> bool {
        matches!(self, Encoding::DeflatedJson | Encoding::DeflatedBinary)
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

#[cfg(test)]
mod tests {
    use super::{
        Encoding,
        command::PayloadKind,
        deflate::{Deflater, Settings},
        publication::Publication,
    };

    /// Of every length of header, and followed by another.
    #[test]
    fn an_encoding_knows_how_long_its_records_are() {
        let mut deflater = Deflater::new(Settings { level: 1, bytes_min: 100, window_bits: 15 });
        for encoding in Encoding::ALL {
            let format = encoding.format();
            for len in [1, 99, 100, 101, 1_000, 70_000] {
                let payload = vec![b'1'; len];
                let publication = Publication {
                    topic: "t",
                    seq: 1,
                    user: None,
                    time_ms: None,
                    payload: &payload,
                    kind: PayloadKind::Json,
                };
                let mut plain = vec![0; publication.encoded_len(format)];
                publication.encode(format, &mut plain);
                let deflated = deflater.publication(&publication, format).filter(|_| encoding.is_deflated());
                let record = deflated.unwrap_or(&plain);
                assert_eq!(encoding.record_len(&[record, b"\x81\x01x"].concat()) as usize, record.len());
            }
        }
    }
}
