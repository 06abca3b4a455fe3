//! What a client shows to prove who it is, kept so that it gets into no log, and overwritten when it is not needed any more.

use std::fmt;

use zeroize::Zeroizing;

/// A text that is never shown: it can be read where it is needed and nowhere else, is not copied, and its memory is overwritten
/// when it goes. What it was made from is the caller's to overwrite.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text: an owned one as it is, without a copy that would stay behind.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text. Nothing that is told or kept may be made of it.
    pub fn get(&self) -> &str {
        &self.0
    }
}

#[cfg(any(test, fuzzing))]
impl PartialEq for Secret {
    /// Not in constant time, for which tests have no use.
    fn eq(&self, other: &Secret) -> bool {
        *self.0 == *other.0
    }
}

/// So that what has one in it may be printed.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A secret where it stands in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretText<'a>(pub &'a str);

impl fmt::Debug for SecretText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever it is.
    #[test]
    fn a_secret_is_read_and_never_shown() {
        let secret = Secret::new("abc");
        assert_eq!(secret.get(), "abc");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret Some(\n    Secret,\n)");
        assert_eq!(format!("{:?}", SecretText("abc")), "SecretText");
    }
}
