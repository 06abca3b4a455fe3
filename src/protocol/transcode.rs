//! Records of one plain format to the same publications in the other.
//!
//! A home keeps the past of a topic in one format and writes the other once, for the first who asks. Lengths are
//! computed first, as those of a [`Publication`] are, so that every byte is written once, at its final place in a
//! chunk: the records are read twice, and nothing is allocated. What comes out is byte for byte what
//! [`Publication::encode`] would have written.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Format,
    binary::{self, ext},
    command::PayloadKind,
    frame, json,
    publication::{Publication, WrittenStamps, put_binary_head},
    record::{Record, Records},
};

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// How many bytes [`transcode`] writes.
pub fn transcoded_len(records: Records<'_>, to: Format) -> usize {
    records.map(|record| record.transcoded_len(to)).sum()
}

/// Writes the publications of `records` as records in `to` into `out`, which is exactly [`transcoded_len`] long.
pub fn transcode(records: Records<'_>, to: Format, mut out: &mut [u8]) {
    for record in records {
        let (room, rest) = out.split_at_mut(record.transcoded_len(to));
        record.transcode(to, room);
        out = rest;
    }
    assert_eq!(out.len(), 0, "bytes too many in a buffer that is exactly as long as its records");
}

impl Record<'_> {
    /// The length of the record of the same publication in `to`, in bytes.
    pub fn transcoded_len(&self, to: Format) -> usize {
        match (self.format, to) {
            (Format::Json, Format::Json) | (Format::Binary, Format::Binary) => self.frame.len(),
            (Format::Binary, Format::Json) => self.of_binary().encoded_len(to),
            (Format::Json, Format::Binary) => {
                let message_len = self.binary_len_of_json(json::unescaped_len(self.topic));
                frame::header_len(message_len) + message_len
            }
        }
    }

    /// Writes the record of the same publication in `to` into `out`, which is exactly [`Record::transcoded_len`] long.
    pub fn transcode(&self, to: Format, out: &mut [u8]) {
        match (self.format, to) {
            (Format::Json, Format::Json) | (Format::Binary, Format::Binary) => {
                out.copy_from_slice(self.frame)
            }
            (Format::Binary, Format::Json) => self.of_binary().encode(to, out),
            (Format::Json, Format::Binary) => self.write_binary_of_json(out),
        }
    }

    /// In the binary format topic and payload are written as they were published.
    fn of_binary(&self) -> Publication<'_> {
        let topic = str::from_utf8(self.topic).expect("a topic's name is UTF-8");
        let user = self.user.map(|user| str::from_utf8(user).expect("a user's name is UTF-8"));
        let Record { seq, time_ms, payload, kind, .. } = *self;
        Publication { topic, seq, user, time_ms, payload, kind }
    }

    /// The length of the message in the binary format of a record in JSON, whose topic has so many bytes.
    fn binary_len_of_json(&self, topic_len: usize) -> usize {
        let WrittenStamps { user_len, time_ms } = self.stamps_of_json();
        let ext_len = ext::stamps_len(user_len, time_ms);
        binary::HEADER_LEN + ext_len + topic_len + self.publishers_len_in_json()
    }

    fn stamps_of_json(&self) -> WrittenStamps {
        WrittenStamps { user_len: self.user.map(json::unescaped_len), time_ms: self.time_ms }
    }

    /// How many bytes the publisher's are, of a record in JSON.
    fn publishers_len_in_json(&self) -> usize {
        match self.kind {
            PayloadKind::Json => self.payload.len(),
            PayloadKind::Bytes => {
                let padding = self.payload.iter().rev().take_while(|byte| **byte == b'=').count();
                self.payload.len() / 4 * 3 - padding
            }
        }
    }

    fn write_binary_of_json(&self, out: &mut [u8]) {
        let topic_len = json::unescaped_len(self.topic);
        let message_len = self.binary_len_of_json(topic_len);
        let header_len = frame::write_header(Format::Binary.opcode(), message_len, out);
        let write_user = |room: &mut [u8]| json::write_unescaped(self.user.unwrap_or_default(), room);
        let (stamps, out) = (self.stamps_of_json(), &mut out[header_len..]);
        let out = put_binary_head(topic_len, self.seq, stamps, write_user, self.kind, out);
        let (topic, payload) = out.split_at_mut(topic_len);
        json::write_unescaped(self.topic, topic);
        match self.kind {
            PayloadKind::Json => payload.copy_from_slice(self.payload),
            PayloadKind::Bytes => {
                let written = STANDARD.decode_slice(self.payload, payload);
                assert_eq!(
                    written,
                    Ok(payload.len()),
                    "base64 that we wrote is read, and as long as computed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::RngSeed};

    use super::{
        naive::{Owned, check},
        *,
    };

    fn json(topic: &str, seq: u64, payload: &str) -> Owned {
        let (payload, kind) = (payload.into(), PayloadKind::Json);
        Owned { topic: topic.into(), seq, user: None, time_ms: None, payload, kind }
    }

    fn bytes(topic: &str, seq: u64, payload: &[u8]) -> Owned {
        let (payload, kind) = (payload.into(), PayloadKind::Bytes);
        Owned { topic: topic.into(), seq, user: None, time_ms: None, payload, kind }
    }

    #[test]
    fn nothing_comes_of_nothing() {
        check(&[]);
    }

    /// Payloads with all that stands between the fields of a record.
    #[test]
    fn nobody_looks_into_a_payload() {
        let texts = [
            r#""\",\"data\":""#,
            r#"{"op":"message","topic":"a","seq":1,"data":{}}"#,
            r#"{"topic":"\"","seq":2,"base64":"AA=="}"#,
            r#""}""#,
            r#"["}}}",{"base64":"\"}"}]"#,
            " \t\r\n{ \"a\" : 1 } \n",
            "0",
        ];
        let mut publications: Vec<Owned> = texts.iter().map(|text| json("t", 1, text)).collect();
        publications.extend(texts.iter().map(|text| bytes("t", 1, text.as_bytes())));
        check(&publications);
    }

    #[test]
    fn a_topic_may_look_like_a_record() {
        let topics = [
            r#"",""#,
            r#"","seq":1,"data":{}}"#,
            r"\",
            r#"\""#,
            r#"\\""#,
            r"\u0041",
            "\u{1}/\n\u{1f}",
            "ä/\u{10ffff}",
        ];
        let publications: Vec<Owned> =
            topics.iter().flat_map(|topic| [json(topic, 1, "1"), bytes(topic, 2, b"1")]).collect();
        check(&publications);
    }

    /// Beside others that have none, and before payloads that look like one.
    #[test]
    fn every_time_comes_back() {
        let times = [None, Some(0), Some(9), Some(10), Some(1_764_083_000_123), Some(u64::MAX)];
        let publications = times.iter().flat_map(|time_ms| {
            let all =
                [json("t", 1, "7"), json("t", 2, r#"{"time":8}"#), bytes("t", 3, br#","time":9,"data":1}"#)];
            all.map(|publication| Owned { time_ms: *time_ms, ..publication })
        });
        check(&publications.collect::<Vec<_>>());
    }

    /// With a time and without, and where it looks like what stands behind it.
    #[test]
    fn every_user_comes_back() {
        let users = ["a", "\"", "\\", r#"\""#, r#"","time":5,"data":1}"#, "\u{1}\n", "\u{e4}\u{10ffff}"];
        let publications = users.iter().flat_map(|user| {
            let all = [json("t", 1, "7"), json("t", 2, r#"{"user":"b"}"#), bytes("t", 3, br#","user":"b""#)];
            let all = all.map(|publication| Owned { user: Some((*user).into()), ..publication });
            let stamped = all.clone().map(|publication| Owned { time_ms: Some(7), ..publication });
            all.into_iter().chain(stamped)
        });
        check(&publications.collect::<Vec<_>>());
    }

    #[test]
    fn base64_of_every_padding_and_of_nothing_comes_back() {
        let publications: Vec<Owned> =
            (0..=9).map(|len| bytes("t", 1, &[0xff, 0, 0xfb, 1, 2, 3, 4, 5, 6][..len])).collect();
        check(&publications);
    }

    #[test]
    fn every_seq_comes_back() {
        let seqs = [0, 1, 9, 10, (1 << 53) - 1, u64::from(u32::MAX), u64::MAX / 10, u64::MAX - 1, u64::MAX];
        check(&seqs.map(|seq| json("t", seq, "1")));
    }

    /// Messages of 0 to 2 bytes about each border, in either format.
    #[test]
    fn headers_change_their_length_where_they_must() {
        let mut publications = Vec::new();
        for border in [125, 126, 65_535, 65_536] {
            for format in Format::ALL {
                for publication in [json("t", 1, "1"), bytes("t", 1, b"1")] {
                    for len in border - 2..border + 3 {
                        publications.push(publication.clone().grown(format, len));
                    }
                }
            }
        }
        check(&publications);
    }

    #[test]
    #[should_panic(expected = "bytes too many")]
    fn a_buffer_that_is_too_long_is_our_bug() {
        transcode(Records::new(Format::Json, b""), Format::Binary, &mut [0]);
    }

    fn publication() -> impl Strategy<Value = Owned> {
        let topic = "(\\PC|[a-z/]|[\u{0}-\u{7f}]){1,40}";
        let seq = prop_oneof![any::<u64>(), 0u64..1000];
        let text = prop_oneof!["\\PC{0,60}", "[\"\\\\,:}{a-z]{0,20}"].prop_map(|text| {
            (serde_json::to_string(&text).expect("a string").into_bytes(), PayloadKind::Json)
        });
        let bytes = vec(any::<u8>(), 0..60).prop_map(|bytes| (bytes, PayloadKind::Bytes));
        let near_border = prop_oneof![4 => 60usize..200, 1 => 65_500usize..65_600];
        let grown = option::weighted(0.3, (select(&Format::ALL[..]), near_border));
        let time_ms = option::of(prop_oneof![any::<u64>(), Just(1_764_083_000_123)]);
        let user = option::of("(\\PC|[\u{0}-\u{7f}]){1,30}");
        (topic, seq, user, time_ms, prop_oneof![text, bytes], grown).prop_map(
            |(topic, seq, user, time_ms, (payload, kind), grown)| {
                let publication = Owned { topic, seq, user, time_ms, payload, kind };
                match grown {
                    Some((format, len)) => publication.grown(format, len),
                    None => publication,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x66616e66617265),
            ..ProptestConfig::default()
        })]

        #[test]
        fn transcoding_is_what_its_twin_does(publications in vec(publication(), 0..6)) {
            check(&publications);
        }
    }
}
