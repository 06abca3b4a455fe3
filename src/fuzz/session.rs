//! A whole connection's bytes, however receives split them.

use crate::protocol::{
    Format, Speech,
    session::{
        Limits, Session,
        naive::{self, Seen},
    },
    site::Site,
    upgrade::{self, Scan, Terms},
};

const LIMITS: Limits = Limits {
    header_bytes_max: 512,
    message_bytes_max: 600,
    frame_bytes_max: 500,
    terms: Terms {
        is_echo_served: true,
        deflate_window_bits: Some(15),
        site: Site::OPEN,
        credentials: None,
        forwarded_for: None,
    },
    inflate_ratio_max: 100,
};

/// Feeds a session with `bytes`. The first says what it speaks, or that a request is to open it, and whether
/// messages may be compressed; the next two how the others are split into receives.
pub fn session(bytes: &[u8]) {
    let [kind, seed_high, seed_low, stream @ ..] = bytes else { return };
    let speech = [
        Some(Speech::Commands(Format::Json)),
        Some(Speech::Commands(Format::Binary)),
        Some(Speech::Echo),
        None,
    ][usize::from(kind % 4)];
    let is_deflate_agreed = kind & 0x80 != 0;
    let open = if is_deflate_agreed { naive::open_deflated } else { naive::open };
    let start = || speech.map_or_else(Session::default, open);

    let whole = naive::receive(&mut start(), &LIMITS, stream);
    match speech {
        Some(speech) => assert_eq!(whole, naive::decode(speech, is_deflate_agreed, &LIMITS, stream)),
        None => check_from_request(&whole, stream),
    }
    let ends = receive_ends(u16::from_be_bytes([*seed_high, *seed_low]), stream.len());
    assert_eq!(naive::receive_to(&mut start(), &LIMITS, stream, ends), whole);
    assert_eq!(naive::receive_to(&mut start(), &LIMITS, stream, 1..stream.len()), whole);
}

/// Before an upgrade there is at most one answer; after it, what a session that began there sees.
fn check_from_request(seen: &[Seen], stream: &[u8]) {
    match seen {
        [] | [Seen::Answered(_)] => {}
        [Seen::Upgraded(speech, is_deflate_agreed), after @ ..] => {
            let Scan::Complete(len) = upgrade::scan(stream, 0) else { panic!("upgraded without a request") };
            assert!(len <= LIMITS.header_bytes_max);
            assert_eq!(after, naive::decode(*speech, *is_deflate_agreed, &LIMITS, &stream[len..]));
        }
        _ => panic!("{seen:?} before an upgrade"),
    }
}

/// Where receives of `len` bytes in all end: different for each seed.
fn receive_ends(seed: u16, len: usize) -> impl Iterator<Item = usize> {
    let mut state = u32::from(seed);
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 27) as usize
    })
    .scan(0, |end, more| {
        *end += more;
        Some(*end)
    })
    .take_while(move |end| *end < len)
}
