//! One deadline per connection, on a hashed timer wheel: setting and firing take constant time.
//!
//! Deadlines are coarse (a tick) and may fire late, never early. One that lies beyond the wheel's
//! round stays in its bucket until its round comes.

/// The length of a tick, in milliseconds.
pub const TICK_MS: u64 = 50;
/// Buckets: a round is a bit more than 51 seconds.
const BUCKET_COUNT: usize = 1024;
const NONE: u32 = u32::MAX;

/// Deadlines by connection slot.
#[derive(Debug)]
pub struct TimerWheel {
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    /// Every tick before this one has fired.
    next_tick: u64,
    armed_count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    previous: u32,
    next: u32,
    /// `NONE` when not armed. 32 bits of ticks are seven years.
    deadline_tick: u32,
}

const IDLE: Entry = Entry { previous: NONE, next: NONE, deadline_tick: NONE };

impl TimerWheel {
    /// A wheel without deadlines, with room for `slots_max` slots.
    pub fn new(slots_max: usize) -> TimerWheel {
        let entries = Vec::with_capacity(slots_max);
        TimerWheel { buckets: vec![NONE; BUCKET_COUNT], entries, next_tick: 0, armed_count: 0 }
    }

    /// Sets the one deadline of `slot`, in place of any it has.
    pub fn set(&mut self, slot: u32, deadline_ms: u64) {
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, IDLE);
        }
        self.clear(slot);
        let tick = deadline_ms.div_ceil(TICK_MS).max(self.next_tick);
        let bucket = tick as usize % BUCKET_COUNT;
        let next = std::mem::replace(&mut self.buckets[bucket], slot);
        self.entries[slot as usize] = Entry { previous: NONE, next, deadline_tick: tick as u32 };
        if next != NONE {
            self.entries[next as usize].previous = slot;
        }
        self.armed_count += 1;
    }

    /// Takes back the deadline of `slot`, if it has one.
    pub fn clear(&mut self, slot: u32) {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        let Entry { previous, next, deadline_tick } = std::mem::replace(entry, IDLE);
        if deadline_tick == NONE {
            return;
        }
        match previous {
            NONE => self.buckets[deadline_tick as usize % BUCKET_COUNT] = next,
            previous => self.entries[previous as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        self.armed_count -= 1;
    }

    /// Takes every deadline that has passed at `now_ms` and puts its slot into `fired`.
    pub fn fire(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let now_tick = now_ms / TICK_MS;
        // After a long sleep one round visits every bucket.
        let first = self.next_tick.max((now_tick + 1).saturating_sub(BUCKET_COUNT as u64));
        for tick in first..=now_tick {
            let mut slot = self.buckets[tick as usize % BUCKET_COUNT];
            while slot != NONE {
                let entry = self.entries[slot as usize];
                if u64::from(entry.deadline_tick) <= now_tick {
                    self.clear(slot);
                    fired.push(slot);
                }
                slot = entry.next;
            }
        }
        self.next_tick = self.next_tick.max(now_tick + 1);
    }

    /// Whether `slot` has a deadline.
    pub fn is_armed(&self, slot: u32) -> bool {
        self.entries.get(slot as usize).is_some_and(|entry| entry.deadline_tick != NONE)
    }

    /// When the next bucket with a deadline is due, in milliseconds.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.armed_count == 0 {
            return None;
        }
        let ticks = self.next_tick..self.next_tick + BUCKET_COUNT as u64;
        let due = ticks.into_iter().find(|tick| self.buckets[*tick as usize % BUCKET_COUNT] != NONE);
        due.map(|tick| tick * TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..20, 0u64..200_000).prop_map(|(slot, after_ms)| Step::Set(slot, after_ms)),
            (0u32..20).prop_map(Step::Clear),
            prop_oneof![0u64..200, 0u64..120_000].prop_map(Step::Advance),
        ]
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(3), ..Config::default() })]

        /// The naive twin is a table that is searched.
        #[test]
        fn the_wheel_fires_what_a_table_would(steps in prop::collection::vec(step(), 1..80)) {
            let mut wheel = TimerWheel::new(20);
            let mut table = std::collections::BTreeMap::new();
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Set(slot, after_ms) => {
                        wheel.set(slot, now_ms + after_ms);
                        table.insert(slot, now_ms + after_ms);
                    }
                    Step::Clear(slot) => {
                        wheel.clear(slot);
                        table.remove(&slot);
                    }
                    Step::Advance(by_ms) => {
                        now_ms += by_ms;
                        let mut fired = Vec::new();
                        wheel.fire(now_ms, &mut fired);
                        for slot in fired {
                            let deadline_ms = table.remove(&slot);
                            prop_assert!(deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms));
                        }
                        let late = table.values().filter(|deadline_ms| **deadline_ms + 2 * TICK_MS <= now_ms);
                        prop_assert_eq!(late.count(), 0);
                    }
                }
                prop_assert_eq!(wheel.armed_count, table.len());
                if let (Some(due_ms), Some(first)) = (wheel.next_due_ms(), table.values().min()) {
                    prop_assert!(due_ms <= (first / TICK_MS + 2) * TICK_MS, "{} {}", due_ms, first);
                }
            }
        }
    }
}
