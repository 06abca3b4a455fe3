//! A copy of a text, of which nothing is left when it was overwritten.

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

/// The memory that copies of texts are made in, one after the other.
///
/// Only what copies took of it is overwritten, and that once, so that it costs no more than it did to make them,
/// whatever was copied before.
#[derive(Default)]
pub(super) struct Copied {
    bytes: Vec<u8>,
    /// What copies took that are gone and were not overwritten, from the start.
    dirty_len: usize,
    /// What is here was overwritten.
    is_wiped: bool,
}

impl Copied {
    /// Begins with another copy.
    pub(super) fn clear(&mut self) {
        if !self.is_wiped {
            self.dirty_len = self.dirty_len.max(self.bytes.len());
        }
        self.is_wiped = false;
        self.bytes.clear();
    }

    /// Overwrites all copies since the last time; returns how many bytes that were.
    pub(super) fn wipe(&mut self) -> usize {
        if std::mem::replace(&mut self.is_wiped, true) {
            return 0;
        }
        let len = self.dirty_len.max(self.bytes.len());
        self.bytes.resize(len, 0);
        // As a slice: of a vector all that it could hold is overwritten.
        self.bytes.as_mut_slice().zeroize();
        self.dirty_len = 0;
        len
    }
}

impl Deref for Copied {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Copied {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(copied: &mut Copied, text: &[u8]) {
        copied.clear();
        copied.extend_from_slice(text);
    }

    #[test]
    fn what_copies_took_is_overwritten_once() {
        let mut copied = Copied::default();
        copy(&mut copied, &[1; 1_000]);
        copy(&mut copied, &[2; 10]);
        assert_eq!((copied.wipe(), copied.wipe()), (1_000, 0));
        assert_eq!(**copied, [0; 1_000], "what is behind the last copy as well");
        copied.clear();
        assert_eq!(copied.wipe(), 0, "nothing was copied");
        for len in [7, 3, 900] {
            copy(&mut copied, &vec![3; len]);
            assert_eq!(copied.wipe(), len, "of the long one before nothing is left");
            assert_eq!(**copied, vec![0; len]);
        }
    }
}
