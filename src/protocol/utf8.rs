//! UTF-8 validation (RFC 3629): of a whole buffer, and of a message that grows piece by piece.
//!
//! A growing message lies contiguous in the session's assembly, so what a split leaves unfinished needs
//! no carry of its own: the few bytes of an unfinished character are read again where they lie.

/// The bytes are not UTF-8, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// How far a growing text is validated: all but the start of a character at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes at the end that begin a character and do not finish it: 0 to 3.
    unfinished: u8,
}

impl Progress {
    /// Validates what was appended to `text` since it was `old_len` long.
    ///
    /// Fails as soon as no continuation can make the text valid, even within a character, so that a peer
    /// hears of its mistake at once and not at the end of a long message. After an error the progress is
    /// meaningless.
    pub fn extend(&mut self, text: &[u8], old_len: usize) -> Result<(), InvalidUtf8> {
        let unchecked = &text[old_len - usize::from(self.unfinished)..];
        self.unfinished = match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => 0,
            // No `error_len`: the end came too early; there are at most 3 such bytes.
            Err(error) if error.error_len().is_none() => (unchecked.len() - error.valid_up_to()) as u8,
            Err(_) => return Err(InvalidUtf8),
        };
        Ok(())
    }

    /// Whether the text ends with a whole character: if so, all of it is valid UTF-8.
    pub fn is_complete(self) -> bool {
        self.unfinished == 0
    }
}

/// Validates a whole text in one buffer.
pub fn validate(text: &[u8]) -> Result<&str, InvalidUtf8> {
    simdutf8::basic::from_utf8(text).map_err(|_| InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::RngSeed};

    /// What the standard library says of a prefix: how many bytes are unfinished, or that it is invalid.
    fn naive(prefix: &[u8]) -> Result<usize, InvalidUtf8> {
        match std::str::from_utf8(prefix) {
            Ok(_) => Ok(0),
            Err(error) if error.error_len().is_none() => Ok(prefix.len() - error.valid_up_to()),
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// Feeds `text` in pieces that end at `splits` and compares with [`naive`] after each.
    fn check_splits(text: &[u8], splits: &[usize]) {
        let mut progress = Progress::default();
        let mut len = 0;
        for end in splits.iter().copied().chain([text.len()]) {
            let result = progress.extend(&text[..end], len);
            len = end;
            match naive(&text[..end]) {
                Ok(unfinished) => {
                    assert_eq!(result, Ok(()), "{text:x?} to {end}");
                    assert_eq!(usize::from(progress.unfinished), unfinished, "{text:x?} to {end}");
                    assert_eq!(progress.is_complete(), unfinished == 0);
                }
                Err(InvalidUtf8) => return assert_eq!(result, Err(InvalidUtf8), "{text:x?} to {end}"),
            }
        }
        assert_eq!(validate(text).is_ok(), progress.is_complete());
    }

    /// Sequences at the edges of RFC 3629's table, valid and not.
    const EDGES: [&[u8]; 22] = [
        b"",
        b"\x00\x7f",
        b"\xc2\x80",
        b"\xdf\xbf",
        b"\xc1\xbf",
        b"\xe0\xa0\x80",
        b"\xe0\x9f\xbf",
        b"\xed\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xef\xbf\xbf",
        b"\xf0\x90\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\x80",
        b"\xff",
        b"\xce",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xe2\x28\xa1",
        b"\xf0\x28\x8c\xbc",
    ];

    #[test]
    fn edges_of_the_table_are_judged_alike_byte_by_byte_after_any_prefix() {
        for edge in EDGES {
            for prefix_len in [0, 1, 15, 16, 31, 63, 64, 127, 200] {
                let mut text = vec![b'a'; prefix_len];
                text.extend_from_slice(edge);
                text.extend_from_slice("κόσμε".as_bytes());
                let every_byte: Vec<usize> = (0..text.len()).collect();
                check_splits(&text, &every_byte);
                check_splits(&text, &[]);
            }
        }
    }

    #[test]
    fn an_impossible_second_byte_fails_before_the_character_is_whole() {
        let mut progress = Progress::default();
        assert_eq!(progress.extend(b"\xf4", 0), Ok(()));
        assert!(!progress.is_complete());
        assert_eq!(progress.extend(b"\xf4\x90", 1), Err(InvalidUtf8));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            rng_seed: RngSeed::Fixed(0x7574_6638),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_split_is_judged_as_the_standard_library_judges_its_prefixes(
            pieces in prop::collection::vec(
                prop_oneof![
                    8 => "\\PC{0,24}".prop_map(String::into_bytes),
                    1 => prop::collection::vec(any::<u8>(), 0..4),
                    1 => prop::sample::select(EDGES.as_slice()).prop_map(<[u8]>::to_vec),
                ],
                0..8,
            ),
            splits in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let text = pieces.concat();
            let mut splits: Vec<usize> = splits.iter().map(|split| split.index(text.len() + 1)).collect();
            splits.sort_unstable();
            check_splits(&text, &splits);
        }
    }
}
