//! What is inside the frames: the protocols of fanfare and its peers, as a client speaks them.
//!
//! A [`Dialect`] says what to send, a [`Reader`] reads what comes, one per connection: MQTT and NATS
//! are byte streams that pay no heed to WebSocket frames, so a packet may begin in one frame and end
//! in another.

mod fanfare;
mod mqtt;
mod nats;
mod reader;

use std::borrow::Cow;

use crate::codec::{self, opcode};

pub use reader::Reader;

/// Any mask does: what it protects from (a proxy that is fooled by a script) is not here.
const MASK: u32 = 0x9ac3_51e7;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `fanfare.json.v1`.
    #[value(name = "fanfare-json", alias = "json")]
    #[serde(rename = "fanfare-json", alias = "json")]
    Json,
    /// `fanfare.bin.v1`.
    #[value(name = "fanfare-bin", alias = "bin")]
    #[serde(rename = "fanfare-bin", alias = "bin")]
    Binary,
    /// MQTT 3.1.1 at QoS 0 over WebSocket.
    Mqtt,
    /// NATS over WebSocket.
    Nats,
    /// nginx with nchan: subscribers at `sub/TOPIC` below the URL, publishers at `pub/TOPIC`.
    Nchan,
    /// Text: `sub TOPIC`, `pub TOPIC PAYLOAD`; a delivery is the payload. For a server made by hand.
    Plain,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// Subscribes to this topic.
    Subscriber(&'a str),
    /// Publishes to this topic.
    Publisher(&'a str),
}

/// One message from the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A publication.
    Delivery {
        /// Its topic's name, where it is fanfare's; empty elsewhere, since nobody asks for it.
        topic: Cow<'a, [u8]>,
        /// Its place in the topic's order; `None` where the protocol has no such thing.
        seq: Option<u64>,
        /// What was published.
        data: Cow<'a, [u8]>,
        /// Its bytes on the wire: its frame's, and where packets and frames are independent of each
        /// other ([`Dialect::is_stream`]), its packet's.
        wire_bytes: usize,
    },
    /// What was asked for was done; `seq` is where a subscription starts.
    Ok {
        /// The topic's `seq`, or 0.
        seq: u64,
        /// Of a subscription to a topic, how it begins, where the broker says so.
        start: Option<Start<'a>>,
    },
    /// Publications that the broker says it will not deliver.
    Gap {
        /// Of this topic, or of what matches this filter.
        topic: Cow<'a, str>,
        /// The first and the last; `None`: whatever is missing.
        range: Option<(u64, u64)>,
    },
    /// What was published before to the topics of one of fanfare's filters has come.
    Replayed {
        /// So many publications came.
        count: u64,
        /// Whether nothing is missing of what was asked for.
        recovered: bool,
        /// The moment to come back to.
        at: Cow<'a, str>,
    },
    /// The broker refused something, in its own words.
    Error(String),
    /// Anything else: a greeting, something newer than this program.
    Other,
}

/// How a subscription to one of fanfare's topics begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// In whose numbering `seq`s are.
    pub epoch: Cow<'a, str>,
    /// Whether all that came after the position that was asked for is replayed, if one was.
    pub recovered: Option<bool>,
    /// How much of the past comes first, if it was asked for.
    pub replayed: Option<u64>,
}

/// What of the past a subscription of fanfare's begins with.
#[derive(Clone, Copy, Debug)]
pub enum Beginning<'a> {
    /// Of a topic, what came after this.
    After(&'a Position),
    /// So many of the newest of each topic.
    Newest(u32),
    /// Of a filter, what came after the moment that a [`Message::Replayed`] told.
    At(&'a str),
}

/// How far a subscriber has come in one of fanfare's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// In whose numbering.
    pub epoch: String,
    /// The last publication that it has, or 0.
    pub seq: u64,
}

impl Dialect {
    /// Its name in `Sec-WebSocket-Protocol`, if it has one.
    pub fn subprotocol(self) -> Option<&'static str> {
        match self {
            Dialect::Json => Some("fanfare.json.v1"),
            Dialect::Binary => Some("fanfare.bin.v1"),
            Dialect::Mqtt => Some("mqtt"),
            Dialect::Nats | Dialect::Nchan | Dialect::Plain => None,
        }
    }

    /// Whether its packets are a stream that frames cut up as they please. Then two subscribers that
    /// got the same may have different numbers of bytes, by as much as the frames' headers differ.
    pub fn is_stream(self) -> bool {
        matches!(self, Dialect::Mqtt | Dialect::Nats)
    }

    /// Whether its deliveries are numbered. Where they are not, the payloads' stamps must do.
    pub fn has_seqs(self) -> bool {
        matches!(self, Dialect::Json | Dialect::Binary)
    }

    /// The path to upgrade at, below `base`.
    pub fn path<'a>(self, base: &'a str, role: Role<'_>) -> Cow<'a, str> {
        let below = |name, topic| Cow::Owned(format!("{}/{name}/{topic}", base.trim_end_matches('/')));
        match (self, role) {
            (Dialect::Nchan, Role::Subscriber(topic)) => below("sub", topic),
            (Dialect::Nchan, Role::Publisher(topic)) => below("pub", topic),
            _ => Cow::Borrowed(base),
        }
    }

    /// Appends what a client says first, if it must say anything. `name` is its own. Whether a
    /// [`Message::Ok`] is to be awaited.
    pub fn write_greeting(self, name: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Dialect::Mqtt => self.frame(&[&mqtt::connect(name)], out),
            Dialect::Nats => self.frame(&[nats::CONNECT], out),
            _ => return false,
        }
        true
    }

    /// Appends what subscribes to `topic`; a [`Message::Ok`] answers it.
    pub fn write_subscribe(self, topic: &str, out: &mut Vec<u8>) {
        match self {
            Dialect::Json => self.frame(&[&fanfare::json_subscribe(topic)], out),
            Dialect::Binary => self.frame(&[&fanfare::binary_subscribe(topic)], out),
            Dialect::Mqtt => self.frame(&[&mqtt::subscribe(topic)], out),
            Dialect::Nats => self.frame(&[&nats::subscribe(topic)], out),
            // The upgrade was the subscription. The pong comes after whatever it takes.
            Dialect::Nchan => codec::write_frame(opcode::PING, MASK, &[], out),
            // Nothing answers this. Messages are handled in order, so a pong says that it was.
            Dialect::Plain => {
                self.frame(&[b"sub ", topic.as_bytes()], out);
                codec::write_frame(opcode::PING, MASK, &[], out);
            }
        }
    }

    /// Appends what subscribes to one of fanfare's topics or filters beginning with some of its past; a [`Message::Ok`]
    /// answers it.
    pub fn write_subscribe_from(self, topic: &str, beginning: Beginning<'_>, out: &mut Vec<u8>) {
        match self {
            Dialect::Binary => self.frame(&[&fanfare::binary_subscribe_from(topic, beginning)], out),
            _ => self.frame(&[&fanfare::json_subscribe_from(topic, beginning)], out),
        }
    }

    /// Appends what ends a subscription of fanfare's; a [`Message::Ok`] answers it.
    pub fn write_unsubscribe(self, topic: &str, out: &mut Vec<u8>) {
        match self {
            Dialect::Binary => self.frame(&[&fanfare::binary_unsubscribe(topic)], out),
            _ => self.frame(&[&fanfare::json_unsubscribe(topic)], out),
        }
    }

    /// Appends a publication of fanfare's whose `id` is echoed in a [`Message::Ok`] with its `seq`.
    pub fn write_publish_with_id(self, topic: &str, data: &[u8], id: u64, out: &mut Vec<u8>) {
        match self {
            Dialect::Binary => self.frame(&[&fanfare::binary_publish_with_id(topic, id), data], out),
            _ => {
                let (before, _) = fanfare::json_publish(topic);
                self.frame(&[&before, data, format!(r#"","id":{id}}}"#).as_bytes()], out);
            }
        }
    }

    /// Everything before the data in a publication of `size` bytes to `topic`, and everything after.
    pub fn publish_envelope(self, topic: &str, size: usize) -> (Vec<u8>, Vec<u8>) {
        match self {
            Dialect::Json => fanfare::json_publish(topic),
            Dialect::Binary => (fanfare::binary_publish(topic), Vec::new()),
            Dialect::Mqtt => (mqtt::publish(topic, size), Vec::new()),
            Dialect::Nats => (format!("PUB {topic} {size}\r\n").into(), b"\r\n".to_vec()),
            Dialect::Nchan => (Vec::new(), Vec::new()),
            Dialect::Plain => (format!("pub {topic} ").into(), Vec::new()),
        }
    }

    /// Appends something that the broker takes as a sign of life and does not answer.
    pub fn write_keepalive(self, out: &mut Vec<u8>) {
        match self {
            // NATS has pings of its own, and gives up on a client that leaves two unanswered.
            Dialect::Nats => self.frame(&[nats::PONG], out),
            _ => codec::write_frame(opcode::PONG, MASK, &[], out),
        }
    }

    /// Appends one message of these parts.
    pub fn frame(self, parts: &[&[u8]], out: &mut Vec<u8>) {
        let opcode = match self {
            Dialect::Json | Dialect::Nchan | Dialect::Plain => opcode::TEXT,
            Dialect::Binary | Dialect::Mqtt | Dialect::Nats => opcode::BINARY,
        };
        codec::write_frame(opcode, MASK, parts, out);
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_old_names_and_the_new_are_the_same() {
        for (name, dialect) in [
            ("json", Dialect::Json),
            ("fanfare-json", Dialect::Json),
            ("bin", Dialect::Binary),
            ("fanfare-bin", Dialect::Binary),
            ("mqtt", Dialect::Mqtt),
            ("nats", Dialect::Nats),
            ("nchan", Dialect::Nchan),
            ("plain", Dialect::Plain),
        ] {
            assert_eq!(Dialect::from_str(name, false), Ok(dialect));
            assert_eq!(serde_json::from_str::<Dialect>(&format!("\"{name}\"")).unwrap(), dialect);
        }
    }

    #[test]
    fn nchan_has_its_topics_in_the_path() {
        let path = |base| Dialect::Nchan.path(base, Role::Publisher("load/1")).into_owned();
        assert_eq!((path("/"), path("/x")), ("/pub/load/1".to_owned(), "/x/pub/load/1".to_owned()));
        assert_eq!(Dialect::Nchan.path("/", Role::Subscriber("t")), "/sub/t");
        assert_eq!(Dialect::Plain.path("/ws", Role::Subscriber("t")), "/ws");
    }
}
