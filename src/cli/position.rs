//! A place in a topic's order, as `--since` has it.

use std::{fmt, str::FromStr};

/// The highest `seq` that the protocol carries.
const SEQ_MAX: u64 = (1 << 53) - 1;

/// What a subscriber has of a topic: all up to this `seq`, in the numbering of this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub epoch: u64,
    pub seq: u64,
}

impl Position {
    /// Of what the broker told; none if its epoch is not 16 hex digits.
    pub fn told(epoch: &str, seq: u64) -> Option<Position> {
        Some(Position { epoch: parse_epoch(epoch)?, seq })
    }

    /// As a command has it.
    pub fn to_json(self) -> String {
        format!(r#"{{"epoch":"{:016x}","seq":{}}}"#, self.epoch, self.seq)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Position, String> {
        let parse = || {
            let (epoch, seq) = text.split_once('.')?;
            let is_plain = seq.bytes().all(|byte| byte.is_ascii_digit());
            let seq = seq.parse().ok().filter(|seq| is_plain && *seq <= SEQ_MAX)?;
            Position::told(epoch, seq)
        };
        parse().ok_or_else(|| {
            format!(
                "it must be EPOCH.SEQ such as 01473d6923fbdb87.103: 16 digits from 0 to 9 and a to f, and an \
                 integer from 0 to {SEQ_MAX}"
            )
        })
    }
}

fn parse_epoch(text: &str) -> Option<u64> {
    let is_plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(text, 16).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_told() {
        for text in ["0000000000000000.0", "01473d6923fbdb87.103", "ffffffffffffffff.9007199254740991"] {
            let position: Position = text.parse().unwrap();
            assert_eq!(position.to_string(), text);
        }
        let position = Position::told("01473d6923fbdb87", 103).unwrap();
        assert_eq!(position.to_json(), r#"{"epoch":"01473d6923fbdb87","seq":103}"#);
        assert_eq!(Position::told("1", 103), None);
    }

    #[test]
    fn what_is_no_position_is_refused_with_what_is() {
        for text in [
            "",
            "103",
            "01473d6923fbdb87",
            "01473d6923fbdb87.",
            ".103",
            "1473d6923fbdb87.103",
            "001473d6923fbdb87.103",
            "01473D6923FBDB87.103",
            "+1473d6923fbdb87.103",
            "01473d6923fbdb8g.103",
            "01473d6923fbdb87.-1",
            "01473d6923fbdb87.+1",
            "01473d6923fbdb87.1.0",
            "01473d6923fbdb87.9007199254740992",
            "01473d6923fbdb87.99999999999999999999",
        ] {
            let error = text.parse::<Position>().unwrap_err();
            assert!(error.starts_with("it must be EPOCH.SEQ such as"), "{text}: {error}");
        }
    }
}
