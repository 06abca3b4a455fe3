//! What a client's `Sec-WebSocket-Extensions` offers, and what is answered (RFC 7692 section 7.1).

use std::num::NonZeroU8;

const EXTENSION: &str = "permessage-deflate";
/// The largest window, and that of a side which nobody asked for a smaller one.
const WINDOW_BITS_MAX: u8 = 15;

/// What both sides keep to, beyond having no context takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The client keeps so many bits of window: 8 to 15.
    window_bits: NonZeroU8,
}

impl Agreement {
    /// Whether the client inflates a message of `message_len` bytes, in whatever window it was compressed: a
    /// message that is no longer than the client's window cannot refer further back.
    pub fn covers(self, message_len: usize) -> bool {
        message_len <= 1 << self.window_bits.get()
    }

    /// Whether the client inflates every message that was compressed in a window of so many bits.
    pub fn covers_window(self, window_bits: u8) -> bool {
        window_bits <= self.window_bits.get()
    }
}

/// One offer of the extension, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offer {
    server_max_window_bits: Option<u8>,
}

/// Picks the first of the client's `offers`, items of the header's list, that is a valid offer of the
/// extension; tells what was agreed on, and the item that answers it. The broker compresses in a window of
/// `window_bits`.
pub fn negotiate<'a>(
    offers: impl IntoIterator<Item = &'a [u8]>,
    window_bits: u8,
) -> Option<(Agreement, String)> {
    let offer = offers.into_iter().find_map(read_offer)?;
    let window_bits = offer.server_max_window_bits.map_or(window_bits, |asked| asked.min(window_bits));
    let mut answer = format!("{EXTENSION}; server_no_context_takeover; client_no_context_takeover");
    if offer.server_max_window_bits.is_some() || window_bits < WINDOW_BITS_MAX {
        answer.push_str(&format!("; server_max_window_bits={window_bits}"));
    }
    let window_bits = NonZeroU8::new(window_bits).expect("a window has 8 to 15 bits");
    Some((Agreement { window_bits }, answer))
}

/// Reads an offer. `None`: it is another extension's, or has a parameter that is unknown, ill-valued or there
/// twice, for which it must be declined (section 7.1).
fn read_offer(offer: &[u8]) -> Option<Offer> {
    let mut parts = str::from_utf8(offer).ok()?.split(';').map(|part| part.trim_ascii());
    if !parts.next()?.eq_ignore_ascii_case(EXTENSION) {
        return None;
    }
    let mut offer = Offer::default();
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_ascii_end(), Some(unquoted(value.trim_ascii_start()))),
            None => (part, None),
        };
        match (name.to_ascii_lowercase().as_str(), value) {
            // That is what we do anyway.
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            ("server_max_window_bits", Some(value)) => offer.server_max_window_bits = Some(window(value)?),
            // Its messages are inflated whatever its window.
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => drop(window(value)?),
            _ => return None,
        }
        if seen.iter().any(|other: &&str| other.eq_ignore_ascii_case(name)) {
            return None;
        }
        seen.push(name);
    }
    Some(offer)
}

/// A window's bits: 8 to 15, without leading zeros (sections 7.1.2.1 and 7.1.2.2).
fn window(value: &str) -> Option<u8> {
    match value {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _ => None,
    }
}

/// A value without its quotes, if it has some (RFC 6455 section 9.1).
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to a header with this value, and the client's window.
    fn answer(header: &str, window_bits: u8) -> Option<(u8, String)> {
        let items = header.split(',').map(|item| item.trim().as_bytes());
        negotiate(items, window_bits).map(|(agreement, answer)| (agreement.window_bits.get(), answer))
    }

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn the_offers_of_rfc_7692_are_accepted_without_context_takeover() {
        for offer in [
            // Section 7: the simplest, with the client's window, and with a fallback.
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits=\"10\"",
            "permessage-deflate ;  client_max_window_bits ; server_no_context_takeover",
            "Permessage-Deflate; Client_Max_Window_Bits",
        ] {
            assert_eq!(answer(offer, 15), Some((15, BOTH.to_owned())), "{offer}");
        }
    }

    #[test]
    fn a_window_is_answered_when_it_was_asked_for_or_is_not_the_largest() {
        for (offer, ours, agreed, is_told) in [
            ("permessage-deflate; server_max_window_bits=15", 15, 15, true),
            ("permessage-deflate; server_max_window_bits=10", 15, 10, true),
            ("permessage-deflate; server_max_window_bits=\"8\"", 15, 8, true),
            ("permessage-deflate; client_max_window_bits; server_max_window_bits=14", 12, 12, true),
            ("permessage-deflate; server_max_window_bits=9", 12, 9, true),
            ("permessage-deflate", 12, 12, true),
            ("permessage-deflate", 15, 15, false),
        ] {
            let told = if is_told { format!("; server_max_window_bits={agreed}") } else { String::new() };
            assert_eq!(answer(offer, ours), Some((agreed, format!("{BOTH}{told}"))), "{offer}");
        }
    }

    #[test]
    fn an_offer_that_breaks_a_rule_is_declined_and_the_next_is_looked_at() {
        for offer in [
            "",
            "x-webkit-deflate-frame",
            "permessage-bzip2",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate;",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; SERVER_MAX_WINDOW_BITS=10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover=true",
        ] {
            assert_eq!(answer(offer, 15), None, "{offer}");
            let with_fallback = format!("{offer}, permessage-deflate; server_max_window_bits=11");
            assert_eq!(answer(&with_fallback, 15).map(|(window_bits, _)| window_bits), Some(11), "{offer}");
        }
        let first_wins = "permessage-deflate; server_max_window_bits=10, permessage-deflate";
        assert_eq!(answer(first_wins, 15).map(|(window_bits, _)| window_bits), Some(10));
        assert_eq!(negotiate([b"permessage-deflate; \xff".as_slice()], 15), None);
    }

    #[test]
    fn a_small_window_takes_every_message_that_fits_into_it() {
        let (agreement, _) =
            negotiate([b"permessage-deflate; server_max_window_bits=9".as_slice()], 15).unwrap();
        assert!(agreement.covers(512) && !agreement.covers(513));
        assert!(agreement.covers_window(9) && !agreement.covers_window(10));
    }
}
