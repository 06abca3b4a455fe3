//! When each publication is due: an absolute timetable that no slowness of anyone moves.
//!
//! Latency is counted from the instant in the timetable, not from the write, so that a publisher or a
//! broker that falls behind is seen as latency (no coordinated omission). Instants fall on ticks,
//! because a thousand separate wake-ups per second and more would measure the scheduler; publications
//! of the same tick are due together.

/// Publications at a steady rate, as offsets in nanoseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Publications per second, of all topics that share the rate.
    pub rate: u64,
    /// How many topics share it.
    pub shared_by: u64,
    /// When the first is due, so that topics that share a rate do not publish all at once; on a tick.
    pub phase_ns: u64,
    /// The timetable's resolution.
    pub tick_ns: u64,
}

/// The timetable's resolution in all scenarios.
pub const TICK_NS: u64 = 1_000_000;

const SECOND_NS: u128 = 1_000_000_000;

impl Schedule {
    /// One topic with a rate of its own.
    pub fn of_one(rate: u64) -> Schedule {
        Schedule::of_many(rate, 0, 1)
    }

    /// Topic `index` of `count` that share `rate` evenly, one after the other.
    pub fn of_many(rate: u64, index: u64, count: u64) -> Schedule {
        let phase_ns = (index as u128 * SECOND_NS / rate as u128) as u64;
        Schedule { rate, shared_by: count, phase_ns: phase_ns.next_multiple_of(TICK_NS), tick_ns: TICK_NS }
    }

    /// When publication `index` is due: its exact time, rounded up to a tick.
    pub fn due_ns(&self, index: u64) -> u64 {
        let exact_ns = (index as u128 * SECOND_NS * self.shared_by as u128).div_ceil(self.rate as u128);
        exact_ns.next_multiple_of(self.tick_ns as u128) as u64 + self.phase_ns
    }

    /// How many publications are due by `elapsed_ns`.
    pub fn due_count(&self, elapsed_ns: u64) -> u64 {
        let Some(elapsed_ns) = elapsed_ns.checked_sub(self.phase_ns) else { return 0 };
        let on_tick_ns = (elapsed_ns - elapsed_ns % self.tick_ns) as u128;
        (on_tick_ns * self.rate as u128 / (SECOND_NS * self.shared_by as u128)) as u64 + 1
    }

    /// How many are due before `duration_ns` is over.
    pub fn total(&self, duration_ns: u64) -> u64 {
        if duration_ns == 0 { 0 } else { self.due_count(duration_ns - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn publications_of_one_tick_are_due_together() {
        let schedule = Schedule::of_one(14_000);
        assert_eq!(schedule.due_count(0), 1);
        assert_eq!(schedule.due_count(MS - 1), 1);
        assert_eq!(schedule.due_count(MS), 15);
        assert_eq!(schedule.due_ns(1), MS);
        assert_eq!(schedule.due_ns(14), MS);
        assert_eq!(schedule.due_ns(15), 2 * MS);
        assert_eq!(schedule.total(1000 * MS), 14_000 - 14 + 1);
    }

    #[test]
    fn a_slow_rate_keeps_its_exact_times() {
        let schedule = Schedule::of_one(100);
        assert_eq!((0..4).map(|it| schedule.due_ns(it)).collect::<Vec<_>>(), [0, 10 * MS, 20 * MS, 30 * MS]);
        assert_eq!(schedule.total(1000 * MS), 100);
        assert_eq!(schedule.total(0), 0);
    }

    /// Every publication counts as due exactly from its own time on.
    #[test]
    fn counts_and_times_agree() {
        for rate in [1, 3, 7, 100, 999, 1000, 1001, 14_000, 123_457] {
            let schedule = Schedule::of_one(rate);
            for index in (0..5000).step_by(7) {
                let due_ns = schedule.due_ns(index);
                assert!(schedule.due_count(due_ns) > index, "{rate} {index}");
                assert!(due_ns == 0 || schedule.due_count(due_ns - 1) <= index, "{rate} {index}");
            }
        }
    }
    /// Three topics that share ten a second: each its third, ten in all, not at once.
    #[test]
    fn topics_share_a_rate_without_bursts() {
        let schedules = [0, 1, 2].map(|index| Schedule::of_many(10, index, 3));
        assert_eq!(schedules.map(|it| it.due_ns(0)), [0, 100 * MS, 200 * MS]);
        assert_eq!(schedules.map(|it| it.due_ns(1)), [300 * MS, 400 * MS, 500 * MS]);
        assert_eq!(schedules.map(|it| it.total(1000 * MS)).iter().sum::<u64>(), 10);
        for schedule in schedules {
            for index in 0..100 {
                let due_ns = schedule.due_ns(index);
                assert!(schedule.due_count(due_ns) > index);
                assert!(due_ns == 0 || schedule.due_count(due_ns - 1) <= index);
            }
        }
    }
}
