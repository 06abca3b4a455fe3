//! A walk through the places of a list from which any item may be taken while it is under way.
//!
//! The list is a plain vector without holes. Before `next` lie the places that were visited, up to `end` those
//! that are still to be, and behind it what was added since the walk began. An item that is taken out leaves a
//! hole, which is closed from the end of its part, so that each part stays whole: nothing that is still to be
//! visited is passed over, and nothing is visited twice but by joining anew.

/// Where a walk is. The default is one that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    next: u32,
    end: u32,
}

impl Walk {
    /// A walk through a list of `len` items, from its beginning.
    pub(super) fn new(len: usize) -> Walk {
        Walk { next: 0, end: len as u32 }
    }

    /// Whether every place was visited.
    pub(super) fn is_over(self) -> bool {
        self.next >= self.end
    }

    /// Whether the walk still comes by `place`.
    pub(super) fn is_ahead(self, place: u32) -> bool {
        (self.next..self.end).contains(&place)
    }

    /// The next place; none when the walk is over.
    #[inline]
    pub(super) fn step(&mut self) -> Option<u32> {
        if self.is_over() {
            *self = Walk::default();
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// The item at `place` of a list of `len` is taken out: tells which moves, each from one place to another
    /// (to itself: none), close the hole, in order. The last place is free then.
    pub(super) fn close(&mut self, place: u32, len: usize) -> [(u32, u32); 3] {
        let last = len as u32 - 1;
        if self.is_over() {
            return [(place, place), (place, place), (last, place)];
        }
        let mut hole = place;
        let mut moves = [(place, place); 3];
        if hole < self.next {
            self.next -= 1;
            moves[0] = (self.next, hole);
            hole = self.next;
        }
        if hole < self.end {
            self.end -= 1;
            moves[1] = (self.end, hole);
            hole = self.end;
        }
        moves[2] = (last, hole);
        moves
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{
        prelude::*,
        sample::Index,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Begin,
        Step,
        Add,
        Take(Index),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            1 => Just(Act::Begin),
            6 => Just(Act::Step),
            2 => Just(Act::Add),
            3 => any::<Index>().prop_map(Act::Take),
        ]
    }

    proptest! {
        #![proptest_config(Config {
            cases: 500,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(5),
            ..Config::default()
        })]

        /// The twin keeps a set of those that a walk has still to visit.
        #[test]
        fn a_walk_visits_whoever_was_there_and_stayed_once(acts in prop::collection::vec(act(), 1..120)) {
            let (mut list, mut walk) = (Vec::new(), Walk::default());
            let mut ahead = BTreeSet::new();
            let mut added = 0;
            for act in acts {
                match act {
                    Act::Begin => {
                        walk = Walk::new(list.len());
                        ahead = list.iter().copied().collect();
                    }
                    Act::Step => match walk.step() {
                        Some(place) => prop_assert!(ahead.remove(&list[place as usize]), "visited once"),
                        None => prop_assert!(ahead.is_empty(), "a walk ends when all were visited"),
                    },
                    Act::Add => {
                        list.push(added);
                        added += 1;
                    }
                    Act::Take(which) if !list.is_empty() => {
                        let place = which.index(list.len());
                        ahead.remove(&list[place]);
                        let mut left: Vec<u32> = list.clone();
                        left.remove(place);
                        for (from, to) in walk.close(place as u32, list.len()) {
                            list[to as usize] = list[from as usize];
                        }
                        list.pop();
                        let sorted = |list: &[u32]| list.iter().copied().collect::<BTreeSet<u32>>();
                        prop_assert_eq!(sorted(&list), sorted(&left), "nobody else is lost or doubled");
                        prop_assert_eq!(list.len(), left.len());
                    }
                    Act::Take(_) => {}
                }
                prop_assert_eq!(walk.is_over(), ahead.is_empty());
                for (place, item) in list.iter().enumerate() {
                    prop_assert_eq!(walk.is_ahead(place as u32), ahead.contains(item));
                }
            }
        }
    }
}
