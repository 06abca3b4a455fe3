//! The time of day by the clock of turns, for what is stamped with it.
//!
//! Who asks a host for the time of day may pay a system call for it, and a turn has one. So a reactor asks a few times
//! per second by how much it is ahead of the clock that turns are told anyway, whether or not anything is stamped: within
//! that time it never goes back, and a clock that is set is followed soon after.

/// How often the host is asked, in nanoseconds.
const PERIOD_NS: u64 = 250_000_000;

/// By how much the time of day is ahead.
#[derive(Debug, Default)]
pub struct Wall {
    ahead_ns: u64,
    asked_ns: Option<u64>,
}

impl Wall {
    /// What the time of day is at `now_ns`, in milliseconds since the Unix epoch; `wall_ns` asks the host for it, in
    /// nanoseconds.
    pub fn ms(&mut self, now_ns: u64, wall_ns: impl FnOnce() -> u64) -> u64 {
        if self.asked_ns.is_none_or(|asked_ns| now_ns - asked_ns >= PERIOD_NS) {
            self.asked_ns = Some(now_ns);
            self.ahead_ns = wall_ns().wrapping_sub(now_ns);
        }
        self.ahead_ns.wrapping_add(now_ns) / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn it_goes_on_with_the_clock_of_turns_and_follows_the_host_a_few_times_per_second() {
        let mut wall = Wall::default();
        assert_eq!(wall.ms(5 * MS, || 1_000 * MS + 999_999), 1_000);
        assert_eq!(wall.ms(5 * MS + 1, || panic!("it was just asked")), 1_001);
        assert_eq!(wall.ms(254 * MS, || panic!("it was just asked")), 1_249);
        assert_eq!(wall.ms(255 * MS, || 9_000 * MS), 9_000, "set forward");
        assert_eq!(wall.ms(505 * MS, || 3 * MS), 3, "set back, to before the first turn");
        assert_eq!(wall.ms(506 * MS, || panic!("it was just asked")), 4);
    }

    #[test]
    fn a_host_that_knows_no_time_begins_in_1970() {
        assert_eq!(Wall::default().ms(7_000 * MS, || 0), 0);
    }
}
