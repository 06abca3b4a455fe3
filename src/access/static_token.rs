//! Tokens without a content: random bits, of which the broker keeps a digest.
//!
//! `ff_`, 43 digits of base64url for 256 random bits, and 6 more for the beginning of a digest of what stands before: a slip of
//! the hand is told from a token that nobody knows, and a scanner for leaked secrets from any other text.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

const PREFIX: &str = "ff_";
const RANDOM_BYTES: usize = 32;
const RANDOM_DIGITS: usize = 43;
const CHECK_DIGITS: usize = 6;

/// The token of these random bits.
pub fn from_random(random: &[u8; RANDOM_BYTES]) -> String {
    let mut token = String::from(PREFIX);
    URL_SAFE_NO_PAD.encode_string(random, &mut token);
    let check = check_of(&token);
    token + &check
}

/// Whether `text` is to be taken for a static token, whatever is wrong with it.
pub fn is_meant(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The digest by which a token is known; none if it cannot be one.
pub fn digest(token: &str) -> Option<[u8; 32]> {
    let random = token.len().checked_sub(CHECK_DIGITS).filter(|len| *len == PREFIX.len() + RANDOM_DIGITS)?;
    let (before, check) = token.split_at_checked(random)?;
    let is_whole = is_meant(token) && check_of(before) == check;
    is_whole.then(|| Sha256::digest(token).into())
}

fn check_of(before: &str) -> String {
    let mut check = URL_SAFE_NO_PAD.encode(Sha256::digest(before));
    check.truncate(CHECK_DIGITS);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_digest_and_one_with_a_slip_has_none() {
        let token = from_random(&[7; 32]);
        assert_eq!(token, "ff_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcl6wl8c");
        assert_eq!(digest(&token), Some(Sha256::digest(&token).into()));
        for at in 0..token.len() {
            let mut slip = token.clone().into_bytes();
            slip[at] = if slip[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(digest(str::from_utf8(&slip).unwrap()), None, "{at}");
        }
        for other in
            ["", "ff_", &token[1..], &token[..token.len() - 1], &format!("{token}x"), &"é".repeat(26)]
        {
            assert_eq!(digest(other), None, "{other}");
        }
        assert!(is_meant(&token) && is_meant("ff_x") && !is_meant("eyJ"));
    }
}
