//! What those who look at tokens and whoever fetches an issuer's keys tell each other: two bits, however many bring tokens.

use std::sync::atomic::{AtomicBool, Ordering};

/// Of one issuer whose keys are fetched.
///
/// A token that names a key that is not in the set may be of a key that is new, or of none. Which of them it is the next set
/// tells: until that is there its client is asked to come again. But a set that is fresh is not fetched again so soon, however many
/// strangers name keys that they made up, and what is not in it is none.
#[derive(Debug, Default)]
pub struct Refetch {
    is_asked: AtomicBool,
    is_fresh: AtomicBool,
}

impl Refetch {
    /// A token names a key that is not in the set, or there is no set: it is to be fetched as soon as it may be. Tells whether that
    /// is soon enough for whoever brought it to be told to come again.
    pub fn ask(&self) -> bool {
        // Looked at first: a line that is only read is in every core's cache.
        if !self.is_asked.load(Ordering::Relaxed) {
            self.is_asked.store(true, Ordering::Relaxed);
        }
        !self.is_fresh.load(Ordering::Relaxed)
    }

    /// Whether anybody has asked since the set was last fetched.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// The set is being fetched: whoever asked before has been heard.
    pub fn note_heard(&self) {
        self.is_asked.store(false, Ordering::Relaxed);
    }

    /// The set was fetched so short a time ago that what is not in it is none; or not any more.
    pub fn set_fresh(&self, is_fresh: bool) {
        self.is_fresh.store(is_fresh, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_to_come_again_unless_the_set_is_fresh_and_is_heard_once_in_any_case() {
        let refetch = Refetch::default();
        assert!(!refetch.is_asked());
        assert!(refetch.ask() && refetch.ask() && refetch.is_asked());
        refetch.note_heard();
        refetch.set_fresh(true);
        assert!(!refetch.is_asked() && !refetch.ask());
        // It is fetched when it is not fresh any more.
        assert!(refetch.is_asked());
        refetch.set_fresh(false);
        assert!(refetch.ask());
    }
}
