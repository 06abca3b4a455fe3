//! The two things of JSON that need care when it is written, strings and numbers; and both read back as they are
//! written here, which is less than JSON allows.

use std::iter;

/// Which bytes of a string must be escaped (RFC 8259 section 7).
const fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The letter of a two-byte escape, or 0 where only `\u00XX` will do.
const fn short_escape(byte: u8) -> u8 {
    match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => 0,
    }
}

/// How many bytes `byte` takes inside a JSON string.
const fn escaped_byte_len(byte: u8) -> usize {
    match (needs_escape(byte), short_escape(byte)) {
        (false, _) => 1,
        (true, 0) => 6,
        (true, _) => 2,
    }
}

/// How many bytes [`write_escaped`] writes for `text`.
pub(crate) fn escaped_len(text: &str) -> usize {
    if is_plain(text) { text.len() } else { text.bytes().map(escaped_byte_len).sum() }
}

/// Writes `text` as the inside of a JSON string to the front of `out` and returns how many bytes that
/// took: exactly [`escaped_len`], which `out` must hold.
pub(crate) fn write_escaped(text: &str, out: &mut [u8]) -> usize {
    if is_plain(text) {
        out[..text.len()].copy_from_slice(text.as_bytes());
        return text.len();
    }
    let mut len = 0;
    for byte in text.bytes() {
        let end = len + escaped_byte_len(byte);
        let piece = &mut out[len..end];
        match piece.len() {
            1 => piece[0] = byte,
            2 => piece.copy_from_slice(&[b'\\', short_escape(byte)]),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                piece.copy_from_slice(b"\\u0000");
                piece[4] = HEX[usize::from(byte >> 4)];
                piece[5] = HEX[usize::from(byte & 0xf)];
            }
        }
        len = end;
    }
    len
}

/// Whether nothing in `text` needs an escape: topics nearly always. A fold without an exit is what
/// the compiler turns into vector code.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |found, byte| found | needs_escape(byte))
}

/// How long the inside of the string at the front of `text` is, which [`write_escaped`] wrote: where its quote stands.
///
/// # Panics
/// If there is no quote.
pub(crate) fn written_len(text: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let found = memchr::memchr2(b'"', b'\\', &text[len..]).expect("a string that we wrote has its quote");
        len += found;
        if text[len] == b'"' {
            return len;
        }
        // Of an escape, what follows the backslash may be a quote; the digits of one with `u` are passed as text.
        len += 2;
    }
}

/// How many bytes [`write_unescaped`] writes for `written`.
pub(crate) fn unescaped_len(written: &[u8]) -> usize {
    if has_escape(written) { unescape(written).count() } else { written.len() }
}

/// Writes the text that [`write_escaped`] wrote as `written` into `out`, which is exactly [`unescaped_len`] long.
pub(crate) fn write_unescaped(written: &[u8], out: &mut [u8]) {
    if !has_escape(written) {
        return out.copy_from_slice(written);
    }
    let mut bytes = unescape(written);
    out.fill_with(|| bytes.next().expect("a text is as long as computed"));
}

fn has_escape(written: &[u8]) -> bool {
    written.contains(&b'\\')
}

/// The bytes that were escaped: those that there are two-byte escapes for, and others below 0x20.
fn unescape(mut written: &[u8]) -> impl Iterator<Item = u8> {
    iter::from_fn(move || {
        let (byte, rest) = match written {
            [b'\\', b'u', b'0', b'0', high, low, rest @ ..] => {
                (hex_digit(*high) << 4 | hex_digit(*low), rest)
            }
            [b'\\', letter, rest @ ..] => (byte_of_escape(*letter), rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        written = rest;
        Some(byte)
    })
}

/// [`short_escape`] back.
fn byte_of_escape(letter: u8) -> u8 {
    match letter {
        b'"' | b'\\' => letter,
        b'b' => 0x08,
        b't' => b'\t',
        b'n' => b'\n',
        b'f' => 0x0c,
        b'r' => b'\r',
        _ => panic!("\\{} is no escape that we write", letter.escape_ascii()),
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("{} is no hexadecimal digit that we write", digit.escape_ascii()),
    }
}

/// How many digits `number` has.
pub(crate) fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// A number's decimal digits, on the stack.
pub(crate) struct Decimal {
    digits: [u8; Self::LEN_MAX],
    start: usize,
}

impl Decimal {
    /// The digits of `u64::MAX`.
    const LEN_MAX: usize = 20;

    pub(crate) fn new(mut number: u64) -> Self {
        let mut digits = [0; Self::LEN_MAX];
        let mut start = Self::LEN_MAX;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// The number whose digits [`Decimal`] wrote to the front of `text`, and what follows them.
///
/// # Panics
/// If there is none up to `u64::MAX`.
pub(crate) fn take_decimal(text: &[u8]) -> (u64, &[u8]) {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(len);
    let add = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    let number = digits.iter().try_fold(0, add).filter(|_| !digits.is_empty());
    (number.expect("a number that we wrote has digits, and is at most 2^64 - 1"), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = vec![0; escaped_len(text)];
        assert_eq!(write_escaped(text, &mut out), out.len(), "{text:?}");
        String::from_utf8(out).expect("escaping keeps UTF-8")
    }

    #[test]
    fn every_character_below_256_survives_a_reader() {
        for code in 0..256 {
            let text: String =
                ['a', char::from_u32(code).expect("below the surrogates"), 'z'].iter().collect();
            let written = format!("\"{}\"", escaped(&text));
            assert_eq!(serde_json::from_str::<String>(&written).expect(&written), text);
            assert_eq!(read_back(&text), text);
        }
    }

    /// `text` out of a string that others follow.
    fn read_back(text: &str) -> String {
        let followed = format!("{}\",\"\\\"", escaped(text));
        let written = &followed.as_bytes()[..written_len(followed.as_bytes())];
        assert_eq!(written, escaped(text).as_bytes(), "{text:?}");
        let mut out = vec![0xee; unescaped_len(written)];
        write_unescaped(written, &mut out);
        String::from_utf8(out).expect("escapes are of ASCII")
    }

    #[test]
    fn escapes_side_by_side_are_told_apart() {
        for text in [
            "",
            "\\",
            "\"",
            "\\\"",
            "\\\\",
            "\\u0041",
            "\\\\u0041\"",
            "a\u{1}\u{1f}\n\\n\u{0}0\u{7f}ä\u{10ffff}",
        ] {
            assert_eq!(read_back(text), text);
        }
    }

    #[test]
    #[should_panic(expected = "is no escape that we write")]
    fn an_escape_that_we_do_not_write_is_our_bug() {
        unescaped_len(br"a\/b");
    }

    #[test]
    fn short_escapes_are_used_where_json_has_them() {
        assert_eq!(escaped("\"\\\u{8}\t\n\u{c}\r\u{1}\u{1f}/"), r#"\"\\\b\t\n\f\r\u0001\u001f/"#);
    }

    #[test]
    fn decimals_are_what_display_writes() {
        let mut number = u64::MAX;
        loop {
            for number in [number, number.saturating_sub(1), number.saturating_add(1)] {
                let digits = number.to_string();
                assert_eq!(Decimal::new(number).as_bytes(), digits.as_bytes());
                let followed = format!("{digits},1");
                assert_eq!(take_decimal(followed.as_bytes()), (number, b",1".as_slice()));
                assert_eq!(decimal_len(number), digits.len());
            }
            if number == 0 {
                return;
            }
            number /= 10;
        }
    }

    #[test]
    #[should_panic(expected = "at most 2^64 - 1")]
    fn a_number_beyond_64_bits_is_our_bug() {
        take_decimal(b"18446744073709551616,");
    }

    #[test]
    #[should_panic(expected = "has digits")]
    fn a_number_without_digits_is_our_bug() {
        take_decimal(b",");
    }

    #[test]
    fn decimal_lengths_change_at_powers_of_ten() {
        for power in 1..20 {
            let number = 10u64.pow(power);
            assert_eq!(decimal_len(number), power as usize + 1);
            assert_eq!(decimal_len(number - 1), power as usize);
        }
    }
}
