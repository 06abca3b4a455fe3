//! From a connection's bytes to the broker's messages, however the bytes are cut.

use std::borrow::Cow;

use super::{Dialect, Message, fanfare, mqtt, nats};
use crate::{
    codec::{Deframer, opcode},
    connect::describe_close,
};

/// Reads one connection.
#[derive(Debug, Default)]
pub struct Reader {
    deframer: Deframer,
    /// The beginning of a packet whose rest has not come; only of protocols that are streams.
    partial: Vec<u8>,
}

impl Reader {
    /// Calls `on_message` with every message that `bytes` completes.
    ///
    /// # Errors
    /// That the broker closed, what it did wrong, or what `on_message` says.
    pub fn feed(
        &mut self,
        dialect: Dialect,
        bytes: &[u8],
        on_message: &mut impl FnMut(Message<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let Reader { deframer, partial } = self;
        deframer.feed(bytes, |frame| match frame.opcode {
            opcode::TEXT | opcode::BINARY => match dialect {
                Dialect::Json => on_message(fanfare::read_json(frame.payload, frame.wire_bytes)?),
                Dialect::Binary => fanfare::read_binary(frame.payload, frame.wire_bytes, on_message),
                Dialect::Mqtt => read_stream(partial, frame.payload, mqtt::read, on_message),
                Dialect::Nats => read_stream(partial, frame.payload, nats::read, on_message),
                Dialect::Nchan | Dialect::Plain => on_message(Message::Delivery {
                    topic: Cow::Borrowed(&[]),
                    seq: None,
                    data: Cow::Borrowed(frame.payload),
                    wire_bytes: frame.wire_bytes,
                }),
            },
            opcode::PONG if matches!(dialect, Dialect::Nchan | Dialect::Plain) => {
                on_message(Message::Ok { seq: 0, start: None })
            }
            opcode::CLOSE => Err(describe_close(frame.payload)),
            _ => Ok(()),
        })
    }
}

/// Reads the first packet of some bytes and says how long it is; `None` if it is not all there.
type ReadPacket = for<'a> fn(&'a [u8]) -> Result<Option<(Message<'a>, usize)>, String>;

fn read_stream(
    partial: &mut Vec<u8>,
    payload: &[u8],
    read: ReadPacket,
    on_message: &mut impl FnMut(Message<'_>) -> Result<(), String>,
) -> Result<(), String> {
    // Copied only after a packet was cut in two: most frames end with a packet.
    let had_partial = !partial.is_empty();
    if had_partial {
        partial.extend_from_slice(payload);
    }
    let bytes: &[u8] = if had_partial { partial } else { payload };
    let mut taken = 0;
    while let Some((message, len)) = read(&bytes[taken..])? {
        on_message(message)?;
        taken += len;
    }
    if had_partial {
        partial.drain(..taken);
    } else {
        partial.extend_from_slice(&payload[taken..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode::BINARY];
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len => {
                frame.push(126);
                frame.extend((len as u16).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn collect(dialect: Dialect, parts: &[&[u8]]) -> Vec<String> {
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for part in parts {
            let mut on_message = |it: Message<'_>| {
                seen.push(format!("{it:?}"));
                Ok(())
            };
            reader.feed(dialect, part, &mut on_message).unwrap();
        }
        seen
    }

    /// A stream of packets in frames that end anywhere, and bytes that are cut anywhere: the same
    /// messages.
    fn check_stream(dialect: Dialect, stream: &[u8], expected: usize) {
        let whole = collect(dialect, &[&frame(stream)]);
        assert_eq!(whole.len(), expected);
        for cut in 0..=stream.len() {
            // Two frames, split at `cut`.
            let (one, other) = stream.split_at(cut);
            assert_eq!(collect(dialect, &[&frame(one), &frame(other)]), whole, "framed at {cut}");
            // One frame whose bytes come in two parts, and then frames of one byte.
            let bytes = frame(stream);
            let (one, other) = bytes.split_at(cut);
            assert_eq!(collect(dialect, &[one, other]), whole, "received at {cut}");
        }
        for size in 1..20 {
            let frames: Vec<u8> = stream.chunks(size).flat_map(frame).collect();
            for part in [1, 2, 3, 7, 50] {
                let parts: Vec<&[u8]> = frames.chunks(part).collect();
                assert_eq!(collect(dialect, &parts), whole, "frames of {size}, parts of {part}");
            }
        }
    }

    #[test]
    fn mqtt_survives_any_cut() {
        let mut stream = vec![0x20, 2, 0, 0, 0x90, 3, 0, 1, 0];
        for size in [0, 1, 120, 300] {
            stream.extend(mqtt::publish("load/1", size));
            stream.extend(vec![b'x'; size]);
        }
        check_stream(Dialect::Mqtt, &stream, 6);
    }

    #[test]
    fn nats_survives_any_cut() {
        let stream =
            b"INFO {\"a\":1}\r\nPONG\r\nMSG load/1 1 6\r\nab\r\ncd\r\nMSG load/1 1 0\r\n\r\nPING\r\n\
                       MSG load/1 1 12\r\nabcdefghijkl\r\n";
        check_stream(Dialect::Nats, stream, 6);
    }

    #[test]
    fn a_frame_is_a_delivery_where_there_is_nothing_else() {
        for dialect in [Dialect::Plain, Dialect::Nchan] {
            let bytes = [frame(b"abc"), vec![0x80 | opcode::PONG, 0]].concat();
            let delivery = Message::Delivery {
                topic: Cow::Borrowed(&[]),
                seq: None,
                data: Cow::Borrowed(b"abc"),
                wire_bytes: 5,
            };
            assert_eq!(
                collect(dialect, &[&bytes]),
                [format!("{delivery:?}"), format!("{:?}", Message::Ok { seq: 0, start: None })]
            );
        }
    }

    #[test]
    fn a_close_is_told_in_the_brokers_words() {
        let close = [0x80 | opcode::CLOSE, 5, 0x0f, 0xa0, b'a', b'b', b'c'];
        let error = Reader::default().feed(Dialect::Nats, &close, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error, "closed by the broker: 4000 abc");
    }
}
