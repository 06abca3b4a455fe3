//! Numbers that outsiders see and cannot read: a permutation of 64 bits under a secret of this start.
//!
//! A Feistel network: each round changes one half by a keyed hash of the other, which can be undone whatever the hash is. Four
//! rounds of such make a permutation that nobody tells from a random one, two of each half more cost little.

use std::hash::{BuildHasher, RandomState};

const ROUNDS: u8 = 6;

/// A permutation of which nobody outside knows anything. Its copies are the same one.
#[derive(Clone, Debug, Default)]
pub struct Veil(RandomState);

impl Veil {
    /// What is shown in place of `number`: always the same, and of no other number.
    pub fn cover(&self, number: u64) -> u64 {
        let (left, right) = (0..ROUNDS)
            .fold(halves(number), |(left, right), round| (right, left ^ self.change(round, right)));
        whole(left, right)
    }

    /// The number in place of which `shown` is shown.
    pub fn uncover(&self, shown: u64) -> u64 {
        let (left, right) = (0..ROUNDS)
            .rev()
            .fold(halves(shown), |(left, right), round| (right ^ self.change(round, left), left));
        whole(left, right)
    }

    fn change(&self, round: u8, half: u32) -> u32 {
        self.0.hash_one((round, half)) as u32
    }
}

fn halves(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32)
}

fn whole(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(5),
            ..ProptestConfig::default()
        })]

        /// Whatever the secret: so that it is one to one, and onto all.
        #[test]
        fn what_is_covered_comes_out_again_and_what_is_shown_was_covered(number: u64, other: u64) {
            let veil = Veil::default();
            prop_assert_eq!(veil.uncover(veil.cover(number)), number);
            prop_assert_eq!(veil.cover(veil.uncover(number)), number);
            prop_assert_eq!(veil.cover(number) == veil.cover(other), number == other);
            prop_assert_eq!(veil.clone().cover(number), veil.cover(number));
        }
    }

    /// One reactor's connections in order: neither do they show the order, nor how many there are.
    #[test]
    fn neighbours_look_like_strangers() {
        let veil = Veil::default();
        let shown: Vec<u64> = (0..10_000).map(|slot| veil.cover(1 << 56 | slot)).collect();
        assert_eq!(shown.iter().collect::<HashSet<_>>().len(), shown.len());
        for place in 0..64 {
            let set = shown.iter().filter(|shown| *shown >> place & 1 == 1).count();
            assert!((4_500..5_500).contains(&set), "bit {place} is set {set} times");
            // And one bit of the number changes each bit that is shown about every other time.
            let changed = (0..10_000u64)
                .filter(|slot| (shown[*slot as usize] ^ veil.cover(1 << 56 | slot ^ 1)) >> place & 1 == 1);
            let changed = changed.count();
            assert!((4_000..6_000).contains(&changed), "bit {place} changes {changed} times");
        }
    }

    #[test]
    fn another_start_shows_others() {
        let (one, other) = (Veil::default(), Veil::default());
        assert!((0..100).any(|number| one.cover(number) != other.cover(number)));
    }
}
