//! What may stand before a body's topic: rows of `type u8 · length u16 · bytes`, one behind the other.
//!
//! Each reader takes the rows that it knows and passes over the others, so that either side may learn a new one first.
//! Of a publisher's rows nothing is passed on: what subscribers get is written by the broker.

/// A key, by which a publish that is repeated is known again; in `publish`.
pub const KEY: u8 = 1;
/// Where to answer to; in `publish` and `message`. Not used by this version.
pub const REPLY_TO: u8 = 2;
/// Who published it; in `message`. Not used by this version.
pub const USER: u8 = 3;
/// When it got its place in the topic's order, in milliseconds since the Unix epoch, 8 bytes; in `message`.
pub const TIME: u8 = 4;

/// What stands before the bytes of a row.
const ROW_HEADER_LEN: usize = 3;
/// What stands before the number in an `ext` that is a row with a time and nothing else: its length, and that row's
/// type and length.
const TIME_HEADER: [u8; 5] = [0, 11, TIME, 0, 8];
/// The length of such an `ext`, behind its own length.
pub(in crate::protocol) const TIME_LEN: usize = TIME_HEADER.len() + 8;

/// The rows of an `ext` as far as they fit, each with its type.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    rest: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Those in `ext`.
    pub fn new(ext: &'a [u8]) -> Self {
        Rows { rest: ext }
    }

    /// The rule that a row breaks which does not fit.
    pub(super) fn check(mut self) -> Result<(), String> {
        let count = self.by_ref().count();
        match *self.rest {
            [] => Ok(()),
            [_, high, low, ref bytes @ ..] => Err(format!(
                "row {count} of ext: {} bytes are due, {} are left of ext",
                u16::from_be_bytes([high, low]),
                bytes.len()
            )),
            ref header => Err(format!(
                "row {count} of ext: {ROW_HEADER_LEN} bytes are due for its type and length, {} are left of ext",
                header.len()
            )),
        }
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.rest.split_first_chunk::<ROW_HEADER_LEN>()?;
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.rest = rest;
        Some((kind, bytes))
    }
}

/// The `ext` of a publication that is stamped with its time, behind its length.
pub(in crate::protocol) fn of_time(time_ms: u64) -> [u8; TIME_LEN] {
    let mut ext = [0; TIME_LEN];
    ext[..TIME_HEADER.len()].copy_from_slice(&TIME_HEADER);
    ext[TIME_HEADER.len()..].copy_from_slice(&time_ms.to_be_bytes());
    ext
}

/// What [`of_time`] was given.
///
/// # Panics
/// If `ext` is something else.
pub(in crate::protocol) fn time_of(ext: &[u8; TIME_LEN]) -> u64 {
    let time_ms = ext.strip_prefix(&TIME_HEADER).expect("a publication's ext is its time");
    u64::from_be_bytes(time_ms.try_into().expect("as long as the array says"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

    use super::*;

    /// The definition, one byte after the other: the rows, if they take up all of `ext`.
    fn naive(ext: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
        let mut bytes = ext.iter().copied();
        let mut rows = Vec::new();
        while let Some(kind) = bytes.next() {
            let len = usize::from(bytes.next()?) * 256 + usize::from(bytes.next()?);
            let row: Vec<u8> = bytes.by_ref().take(len).collect();
            if row.len() < len {
                return None;
            }
            rows.push((kind, row));
        }
        Some(rows)
    }

    fn written(rows: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut ext = Vec::new();
        for (kind, bytes) in rows {
            ext.push(*kind);
            ext.extend((bytes.len() as u16).to_be_bytes());
            ext.extend(bytes);
        }
        ext
    }

    fn read(ext: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
        let rows = Rows::new(ext);
        rows.check().ok()?;
        Some(rows.map(|(kind, bytes)| (kind, bytes.to_vec())).collect())
    }

    #[test]
    fn a_row_that_does_not_fit_is_named_with_what_is_due_and_what_is_left() {
        for (ext, expected) in [
            (&[][..], Ok(())),
            (&[9, 0, 0], Ok(())),
            (&[9, 0, 2, 1], Err("row 0 of ext: 2 bytes are due, 1 are left of ext")),
            (&[9, 0, 0, 4, 1, 0, 7], Err("row 1 of ext: 256 bytes are due, 1 are left of ext")),
            (
                &[9, 0, 0, 4, 0],
                Err("row 1 of ext: 3 bytes are due for its type and length, 2 are left of ext"),
            ),
        ] {
            assert_eq!(Rows::new(ext).check(), expected.map_err(str::to_owned), "{ext:?}");
        }
    }

    #[test]
    fn a_time_is_a_row_of_eight_bytes() {
        let time_ms = 0x0102_0304_0506_0708;
        let ext = of_time(time_ms);
        assert_eq!(ext, [0, 11, 4, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(read(&ext[2..]), Some(vec![(TIME, time_ms.to_be_bytes().to_vec())]));
        assert_eq!(time_of(&ext), time_ms);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x66616e66617265),
            ..ProptestConfig::default()
        })]

        #[test]
        fn rows_come_out_as_they_went_in(
            rows in vec((any::<u8>(), prop_oneof![vec(any::<u8>(), 0..9), vec(any::<u8>(), 250..300)]), 0..6),
        ) {
            let ext = written(&rows);
            for len in 0..=ext.len() {
                prop_assert_eq!(read(&ext[..len]), naive(&ext[..len]));
            }
            prop_assert_eq!(read(&ext), Some(rows));
        }

        #[test]
        fn whatever_stands_there_is_read_as_the_twin_reads_it(ext in vec(prop_oneof![Just(0u8), any::<u8>()], 0..40)) {
            prop_assert_eq!(read(&ext), naive(&ext));
        }
    }
}
