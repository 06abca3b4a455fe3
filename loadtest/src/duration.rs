//! Durations as they are written on the command line: `30s`, `10m`, `1h`, `7d`; a bare number is seconds.

use std::ops::RangeInclusive;

/// The longest that anything may be told to last: a day and more, but not until the machine is scrapped by mistake.
pub const LONGEST_S: u64 = 7 * 86_400;

/// The units, the largest first, each with its seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// What clap reads a duration with: whole seconds, within these.
pub fn within(allowed_s: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| {
        parse(text).filter(|seconds| allowed_s.contains(seconds)).ok_or_else(|| {
            let (least, most) = (written(*allowed_s.start()), written(*allowed_s.end()));
            format!("it must be from {least} to {most}, as in 30s, 10m, 1h or 1d; a bare number is seconds")
        })
    }
}

fn parse(text: &str) -> Option<u64> {
    let (number, unit_s) = match UNITS.iter().find(|(unit, _)| text.ends_with(*unit)) {
        Some((_, unit_s)) => (&text[..text.len() - 1], *unit_s),
        None => (text, 1),
    };
    // A sign is none of a duration, though a number may have it.
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| is_plain)?.checked_mul(unit_s)
}

/// In the largest unit that leaves nothing over.
fn written(seconds: u64) -> String {
    let fits = |unit_s: u64| seconds >= unit_s && seconds.is_multiple_of(unit_s);
    let (unit, unit_s) = UNITS.into_iter().find(|(_, unit_s)| fits(*unit_s)).unwrap_or(('s', 1));
    format!("{}{unit}", seconds / unit_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_multiplies_and_a_bare_number_is_seconds() {
        let read = within(0..=LONGEST_S);
        for (text, seconds) in [
            ("0", 0),
            ("30", 30),
            ("30s", 30),
            ("10m", 600),
            ("1h", 3_600),
            ("24h", 86_400),
            ("1d", 86_400),
            ("7d", LONGEST_S),
            ("604800", LONGEST_S),
        ] {
            assert_eq!(read(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_or_outside_is_told_what_is_allowed() {
        let read = within(1..=3_600);
        let beyond_u64 = format!("{}d", u64::MAX / 2);
        for text in [
            "",
            "s",
            "m",
            "0",
            "0h",
            "3601",
            "61m",
            "1d",
            "1.5h",
            "-1s",
            "+1s",
            "1 h",
            "1H",
            "10ms",
            "h1",
            &beyond_u64,
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("it must be from 1s to 1h, as in 30s, 10m"), "{text}: {error}");
        }
    }

    #[test]
    fn a_bound_is_written_in_the_largest_unit_that_fits() {
        let texts = [0, 1, 59, 60, 90, 3_600, 5_400, LONGEST_S].map(written);
        assert_eq!(texts, ["0s", "1s", "59s", "1m", "90s", "1h", "90m", "7d"]);
    }
}
