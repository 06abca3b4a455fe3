//! What the broker tells one connection: answers to its commands, and events.

use super::{
    Format,
    command::{CommandError, RequestId},
};

/// One reply or event.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<'a> {
    /// The first message of every connection.
    Hello {
        /// 64 random bits per process start; 16 hex digits on the wire.
        epoch: u64,
        /// Names the connection in logs; 16 hex digits on the wire.
        connection: u64,
        /// The longest message that the broker takes, in bytes.
        message_bytes_max: usize,
        /// How often the broker pings, in seconds.
        ping_s: u64,
    },
    /// A command was carried out.
    Ok {
        /// The command's id.
        id: Option<RequestId<'a>>,
        /// The topic or filter as the command named it.
        topic: &'a str,
        /// The topic's `seq`: of the publication, or where a subscription starts. None for a filter
        /// with wildcards and for an unsubscribe.
        seq: Option<u64>,
        /// How many subscribers had the publication to come, if that was asked.
        receivers: Option<u64>,
    },
    /// A command was refused.
    Error(&'a CommandError<'a>),
    /// Answers a ping command.
    Pong {
        /// The command's id.
        id: Option<RequestId<'a>>,
    },
    /// The subscriber will not get `from..=to`.
    Gap {
        /// The topic's name.
        topic: &'a str,
        /// First missing `seq`.
        from: u64,
        /// Last missing `seq`.
        to: u64,
        /// Why, as it stands on the wire: `slow_consumer`.
        reason: &'static str,
    },
    /// More topics under `filter` lost publications than can be listed: resynchronise.
    GapMany {
        /// The filter whose topics lost publications.
        filter: &'a str,
        /// Why.
        reason: &'static str,
    },
}

/// Appends `reply` to `out` as one whole unmasked WebSocket frame in `format`.
pub fn write(format: Format, reply: &Reply<'_>, out: &mut Vec<u8>) {
    let _ = (format, reply, out);
    todo!("see json::write_reply and binary::write_reply")
}
