//! The header that a trusted proxy sends first.

use crate::protocol::proxy::{self, HEADER_BYTES_MAX, naive};

/// Reads `bytes` as a header at once and byte by byte.
pub fn proxy(bytes: &[u8]) {
    let read = proxy::read(bytes);
    let found = read.ok().flatten();
    assert_eq!(found, naive::read(bytes), "{}", bytes.escape_ascii());
    // It is told as early as can be, and once: nothing that comes later changes it.
    let mut told = None;
    for len in 0..=bytes.len().min(HEADER_BYTES_MAX) {
        match (proxy::read(&bytes[..len]), told) {
            (Ok(None), None) => {}
            (said, None) => told = Some(said),
            (said, Some(before)) => assert_eq!(said, before, "{} of {}", len, bytes.escape_ascii()),
        }
    }
    assert_eq!(read, told.unwrap_or(Ok(None)), "{}", bytes.escape_ascii());
    assert!(read != Ok(None) || bytes.len() < HEADER_BYTES_MAX, "a header that does not end is refused");
    if let Some((len, _)) = found {
        assert!((16..=HEADER_BYTES_MAX.min(bytes.len())).contains(&len));
    }
}
