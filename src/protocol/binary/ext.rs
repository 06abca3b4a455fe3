//! What may stand before a body's topic: rows of `type u8 · length u16 · bytes`, one behind the other.
//!
//! Each reader takes the rows that it knows and passes over the others, so that either side may learn a new one first.
//! Of a publisher's rows nothing is passed on: what subscribers get is written by the broker.

/// A key, by which a publish that is repeated is known again; in `publish`.
pub const KEY: u8 = 1;
/// Where to answer to; in `publish` and `message`. Not used by this version.
pub const REPLY_TO: u8 = 2;
/// Who published it, 1 to 128 bytes of UTF-8; in `message`.
pub const USER: u8 = 3;
/// When it got its place in the topic's order, in milliseconds since the Unix epoch, 8 bytes; in `message`.
pub const TIME: u8 = 4;

/// What stands before the bytes of a row.
const ROW_HEADER_LEN: usize = 3;
/// What stands before the rows: how many bytes they have.
const LEN_LEN: usize = 2;
/// How many bytes the number of a row with a time has.
const TIME_LEN: usize = 8;

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

/// How many bytes the `ext` has of a publication that is stamped with its publisher's name, of so many bytes, and its time,
/// its length included; 0 where there is none.
pub(in crate::protocol) fn stamps_len(user_len: Option<usize>, time_ms: Option<u64>) -> usize {
    let user_len = user_len.map_or(0, |len| ROW_HEADER_LEN + len);
    let rows_len = user_len + time_ms.map_or(0, |_| ROW_HEADER_LEN + TIME_LEN);
    if rows_len == 0 { 0 } else { LEN_LEN + rows_len }
}

/// Writes that `ext`, which has one row at least, to the front of `out` and returns the rest; `write_user` writes the name.
pub(in crate::protocol) fn put_stamps(
    user_len: Option<usize>,
    write_user: impl FnOnce(&mut [u8]),
    time_ms: Option<u64>,
    out: &mut [u8],
) -> &mut [u8] {
    let rows_len = stamps_len(user_len, time_ms) - LEN_LEN;
    let (len, mut out) = out.split_at_mut(LEN_LEN);
    len.copy_from_slice(&(rows_len as u16).to_be_bytes());
    if let Some(user_len) = user_len {
        let row = put_row_header(USER, user_len, out);
        let (room, rest) = row.split_at_mut(user_len);
        write_user(room);
        out = rest;
    }
    if let Some(time_ms) = time_ms {
        let row = put_row_header(TIME, TIME_LEN, out);
        let (room, rest) = row.split_at_mut(TIME_LEN);
        room.copy_from_slice(&time_ms.to_be_bytes());
        out = rest;
    }
    out
}

fn put_row_header(kind: u8, len: usize, out: &mut [u8]) -> &mut [u8] {
    let [high, low] = u16::try_from(len).expect("a name has at most 128 bytes").to_be_bytes();
    let (header, rest) = out.split_at_mut(ROW_HEADER_LEN);
    header.copy_from_slice(&[kind, high, low]);
    rest
}

/// The name and the time that [`put_stamps`] wrote at the front of `rest`, and what is behind them.
///
/// # Panics
/// If something else stands there.
pub(in crate::protocol) fn take_stamps(rest: &[u8]) -> (Option<&[u8]>, Option<u64>, &[u8]) {
    const OURS: &str = "a publication's ext is its publisher's name and its time";
    let (len, rest) = rest.split_first_chunk::<LEN_LEN>().expect(OURS);
    let (ext, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).expect(OURS);
    let mut rows = Rows::new(ext);
    let mut row = rows.next();
    let user = row.filter(|(kind, _)| *kind == USER).map(|(_, user)| user);
    if user.is_some() {
        row = rows.next();
    }
    let time_ms = row.map(|(kind, time_ms)| match (kind, time_ms.try_into()) {
        (TIME, Ok(time_ms)) => u64::from_be_bytes(time_ms),
        _ => panic!("{OURS}"),
    });
    assert!(rows.rest.is_empty() && !ext.is_empty(), "{OURS}");
    (user, time_ms, rest)
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

    fn stamps(user: Option<&str>, time_ms: Option<u64>) -> Vec<u8> {
        let mut ext = vec![0xee; stamps_len(user.map(str::len), time_ms) + 1];
        let write_user = |room: &mut [u8]| room.copy_from_slice(user.unwrap_or_default().as_bytes());
        let rest = put_stamps(user.map(str::len), write_user, time_ms, &mut ext);
        assert_eq!(rest, [0xee]);
        ext
    }

    #[test]
    fn stamps_are_rows_of_a_name_and_of_eight_bytes() {
        let time_ms = 0x0102_0304_0506_0708;
        let ext = stamps(None, Some(time_ms));
        assert_eq!(ext, [0, 11, 4, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0xee]);
        let time = (TIME, time_ms.to_be_bytes().to_vec());
        assert_eq!(read(&ext[2..13]), Some(vec![time.clone()]));
        assert_eq!(take_stamps(&ext), (None, Some(time_ms), &[0xee][..]));
        let long = "u".repeat(128);
        for user in ["a", "\u{e4}\"", &long] {
            let name = (USER, user.as_bytes().to_vec());
            let ext = stamps(Some(user), None);
            assert_eq!(read(&ext[2..ext.len() - 1]), Some(vec![name.clone()]));
            assert_eq!(take_stamps(&ext), (Some(user.as_bytes()), None, &[0xee][..]));
            let ext = stamps(Some(user), Some(time_ms));
            assert_eq!(read(&ext[2..ext.len() - 1]), Some(vec![name, time.clone()]));
            assert_eq!(take_stamps(&ext), (Some(user.as_bytes()), Some(time_ms), &[0xee][..]));
        }
        assert_eq!(stamps_len(None, None), 0);
    }

    #[test]
    fn what_no_publication_is_stamped_with_is_our_bug() {
        let time = [TIME, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let name = [USER, 0, 1, b'a'];
        let cases = [
            vec![],
            vec![TIME, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            vec![KEY, 0, 1, b'a'],
            [&time[..], &name].concat(),
            [&time[..], &time].concat(),
            [&name[..], &name].concat(),
            [&name[..], &[TIME, 0, 8, 0]].concat(),
        ];
        for rows in cases {
            let ext = [&(rows.len() as u16).to_be_bytes(), &rows[..]].concat();
            std::panic::catch_unwind(|| take_stamps(&ext)).expect_err("it is not ours");
        }
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
