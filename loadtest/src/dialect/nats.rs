//! NATS, the client's part of it.

use std::borrow::Cow;

use super::Message;

/// What a client says first; the `PONG` says that it was understood.
pub const CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true,\"lang\":\"fanfare-loadtest\",\
      \"version\":\"1\",\"protocol\":1}\r\nPING\r\n";
/// The answer to a ping.
pub const PONG: &[u8] = b"PONG\r\n";
/// More than the longest line that is not a delivery (the server's INFO).
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A subscription; the `PONG` says that it is in force.
pub fn subscribe(topic: &str) -> Vec<u8> {
    format!("SUB {topic} 1\r\nPING\r\n").into()
}

/// The first message in `bytes` and its length; `None` if it is not all there.
///
/// # Errors
/// What the broker did wrong.
pub fn read(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, String> {
    let Some(end) = bytes.iter().position(|it| *it == b'\n') else {
        if bytes.len() > LINE_BYTES_MAX {
            return Err("a NATS line does not end".to_owned());
        }
        return Ok(None);
    };
    let line = bytes[..end].trim_ascii_end();
    let len = end + 1;
    if let Some(arguments) = line.strip_prefix(b"MSG ") {
        return read_delivery(bytes, arguments, len);
    }
    let message = if line == b"PONG" {
        Message::Ok { seq: 0, start: None }
    } else if let Some(error) = line.strip_prefix(b"-ERR") {
        Message::Error(String::from_utf8_lossy(error).trim().to_owned())
    } else if line == b"PING" || line == b"+OK" || line.starts_with(b"INFO ") {
        Message::Other
    } else {
        return Err(format!("not a NATS message: {}", String::from_utf8_lossy(line)));
    };
    Ok(Some((message, len)))
}

/// `MSG subject sid [reply-to] size`, and the payload with a line's end.
fn read_delivery<'a>(
    bytes: &'a [u8],
    arguments: &[u8],
    header: usize,
) -> Result<Option<(Message<'a>, usize)>, String> {
    let size = arguments.rsplit(|it| *it == b' ').next().unwrap_or_default();
    let size = std::str::from_utf8(size).ok().and_then(|it| it.parse::<u32>().ok());
    let size = size.ok_or("a NATS delivery without a size")? as usize;
    let len = header + size + 2;
    let Some(data) = bytes.get(header..len) else { return Ok(None) };
    let data = data.strip_suffix(b"\r\n").ok_or("a NATS delivery of another size than it says")?;
    Ok(Some((
        Message::Delivery {
            topic: Cow::Borrowed(&[]),
            seq: None,
            data: Cow::Borrowed(data),
            wire_bytes: len,
        },
        len,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_has_the_size_that_it_says() {
        for text in ["MSG load/1 1 5\r\nab\r\nc\r\n", "MSG load/1 1 reply 5\r\nab\r\nc\r\n"] {
            let delivery = Message::Delivery {
                topic: Cow::Borrowed(&[]),
                seq: None,
                data: Cow::Borrowed(b"ab\r\nc"),
                wire_bytes: text.len(),
            };
            let more = format!("{text}PING\r\n");
            assert_eq!(read(more.as_bytes()).unwrap(), Some((delivery, text.len())));
            for cut in 0..text.len() {
                assert_eq!(read(&text.as_bytes()[..cut]).unwrap(), None, "{cut}");
            }
        }
        assert!(read(b"MSG load/1 1 2\r\nabcdef\r\n").is_err());
        assert!(read(b"MSG load/1 1 x\r\n").is_err());
    }

    #[test]
    fn other_lines_are_told_apart() {
        for (line, expected) in [
            ("PONG\r\n", Message::Ok { seq: 0, start: None }),
            ("PING\r\n", Message::Other),
            ("INFO {\"server_id\":\"x\"}\r\n", Message::Other),
            ("-ERR 'Slow Consumer'\r\n", Message::Error("'Slow Consumer'".to_owned())),
        ] {
            assert_eq!(read(line.as_bytes()).unwrap(), Some((expected, line.len())), "{line}");
        }
        assert!(read(b"HELLO\r\n").is_err());
        assert!(read(&[b'x'; LINE_BYTES_MAX + 1]).is_err());
    }
}
