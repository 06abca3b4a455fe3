//! What publications carry: the number that they are known by.

/// A payload that carries `number`, padded to about `len` bytes.
pub fn payload_of(number: usize, len: usize, is_json: bool) -> Vec<u8> {
    let pad = len.saturating_sub(12);
    if is_json {
        return format!(r#"[{number},"{}"]"#, "x".repeat(pad)).into_bytes();
    }
    let mut payload = format!("[{number},").into_bytes();
    payload.extend((0..pad).map(|place| (place * 7 + number) as u8));
    payload
}

pub fn number_of(payload: &[u8]) -> usize {
    let end = payload.iter().position(|byte| *byte == b',').expect("a payload has its number");
    std::str::from_utf8(&payload[1..end]).expect("digits").parse().expect("a number")
}

/// What stands behind the number: the key of values by key, in worlds that have such.
pub fn key_of(payload: &[u8], is_json: bool) -> Option<&[u8]> {
    let comma = payload.iter().position(|byte| *byte == b',').filter(|_| is_json)?;
    Some(&payload[comma + 1..payload.len() - 1])
}
