//! MQTT 3.1.1 at QoS 0, the client's part of it.

use std::borrow::Cow;

use super::Message;

/// Packet types, in the upper half of a packet's first byte.
mod packet {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
}
const CLEAN_SESSION: u8 = 0x02;
/// The longest that there is, 18 hours: no pings are due in a test. 0 would be none at all, which
/// some brokers refuse.
const KEEP_ALIVE_S: u16 = u16::MAX;
const SUBACK_FAILURE: u8 = 0x80;

/// A CONNECT for client `name`.
pub fn connect(name: usize) -> Vec<u8> {
    let client_id = format!("load-{}-{name}", std::process::id());
    let mut body = Vec::new();
    write_string("MQTT", &mut body);
    body.extend([4, CLEAN_SESSION]);
    body.extend(KEEP_ALIVE_S.to_be_bytes());
    write_string(&client_id, &mut body);
    packet(packet::CONNECT << 4, &body, 0)
}

/// A SUBSCRIBE at QoS 0.
pub fn subscribe(topic: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    write_string(topic, &mut body);
    body.push(0);
    packet(packet::SUBSCRIBE << 4 | 2, &body, 0)
}

/// A PUBLISH at QoS 0, up to its payload of `size` bytes.
pub fn publish(topic: &str, size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    write_string(topic, &mut body);
    packet(packet::PUBLISH << 4, &body, size)
}

/// A packet of `body` and `more` bytes that come after it.
fn packet(first: u8, body: &[u8], more: usize) -> Vec<u8> {
    let mut packet = vec![first];
    let mut rest = body.len() + more;
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// The first packet in `bytes` and its length; `None` if it is not all there.
///
/// # Errors
/// What the broker did wrong.
pub fn read(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, String> {
    let Some((header, body_len)) = read_length(bytes)? else { return Ok(None) };
    let len = header + body_len;
    let Some(body) = bytes.get(header..len) else { return Ok(None) };
    let too_short = || "an MQTT packet ends too early".to_owned();
    let message = match (bytes[0] >> 4, body) {
        (packet::PUBLISH, [high, low, rest @ ..]) => {
            let topic_len = u16::from_be_bytes([*high, *low]) as usize;
            // Above QoS 0, which nobody asked for, a packet identifier follows the topic.
            let id_len = if bytes[0] & 0x06 != 0 { 2 } else { 0 };
            let data = rest.get(topic_len + id_len..).ok_or_else(too_short)?;
            Message::Delivery {
                topic: Cow::Borrowed(&[]),
                seq: None,
                data: Cow::Borrowed(data),
                wire_bytes: len,
            }
        }
        (packet::CONNACK, [_, 0]) | (packet::SUBACK, [_, _, 0..=2]) => Message::Ok { seq: 0, start: None },
        (packet::CONNACK, [_, code]) => Message::Error(format!("MQTT connection refused: code {code}")),
        (packet::SUBACK, [_, _, SUBACK_FAILURE]) => Message::Error("MQTT subscription refused".to_owned()),
        (packet::PUBLISH | packet::CONNACK | packet::SUBACK, _) => return Err(too_short()),
        _ => Message::Other,
    };
    Ok(Some((message, len)))
}

/// The length of the fixed header and of what follows it.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut len = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        len |= ((byte & 0x7f) as usize) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + index, len)));
        }
    }
    if bytes.len() > 4 { Err("an MQTT packet's length has five digits".to_owned()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_packet_reads_as_its_delivery() {
        for size in [0, 32, 116, 117, 118, 128, 16_375, 16_376, 70_000] {
            let data = vec![b'x'; size];
            let packet = [publish("load/1", size), data.clone()].concat();
            let expected = Message::Delivery {
                topic: Cow::Borrowed(&[]),
                seq: None,
                data: Cow::Borrowed(&data),
                wire_bytes: packet.len(),
            };
            assert_eq!(read(&packet).unwrap(), Some((expected, packet.len())), "{size}");
            for cut in (0..packet.len().min(20)).chain(packet.len().saturating_sub(2)..packet.len()) {
                assert_eq!(read(&packet[..cut]).unwrap(), None, "{size} at {cut}");
            }
        }
    }

    #[test]
    fn replies_are_told_apart() {
        let ok = |bytes| read(bytes).unwrap().unwrap().0;
        assert_eq!(ok(&[0x20, 2, 0, 0]), Message::Ok { seq: 0, start: None });
        assert_eq!(ok(&[0x90, 3, 0, 1, 0]), Message::Ok { seq: 0, start: None });
        assert!(matches!(ok(&[0x20, 2, 0, 5]), Message::Error(_)));
        assert!(matches!(ok(&[0x90, 3, 0, 1, 0x80]), Message::Error(_)));
        assert_eq!(ok(&[0xd0, 0]), Message::Other);
        assert!(read(&[0x30, 1, 0]).is_err());
        assert!(read(&[0x30, 3, 0, 9, 1]).is_err());
        assert!(read(&[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    /// By the tables of the standard, byte for byte.
    #[test]
    fn what_is_sent_is_as_the_standard_has_it() {
        assert_eq!(subscribe("a/b"), [0x82, 8, 0, 1, 0, 3, b'a', b'/', b'b', 0]);
        let connect = connect(7);
        assert_eq!(connect[1] as usize, connect.len() - 2);
        assert_eq!(connect[2..12], [0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0xff, 0xff]);
    }
}
