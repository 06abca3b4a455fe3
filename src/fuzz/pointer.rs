//! Which part of a payload is the key of a topic's value.

use crate::protocol::json::{Pointer, naive::is_i_json, pointer::naive};

/// Takes the first line of `bytes` as a pointer, and looks for what it points to in the rest: anything may be there, and in what is
/// I-JSON it is what whoever reads all of it finds.
pub fn pointer(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (line, text) = (&bytes[..end], &bytes[end + 1..]);
    let Ok(line) = str::from_utf8(line) else { return };
    let Some(pointer) = Pointer::parse(line) else { return };
    assert_eq!(pointer.as_str(), line);
    let found = pointer.find(text);
    if str::from_utf8(text).is_ok_and(|text| is_i_json(text, 64)) {
        let read = found.map(|found| serde_json::from_slice(found).expect("a value"));
        assert_eq!(read, naive::find(line, text), "{line} in {}", text.escape_ascii());
    }
}
