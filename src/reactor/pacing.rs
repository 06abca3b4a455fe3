//! How long a topic waits between two sweeps: nothing while the core has time, longer as it runs out,
//! because what arrives in between is merged into the same sends, and a send costs the same however
//! much it carries.

/// The longest that pacing by itself lets a topic wait, in nanoseconds.
const DELAY_NS_MAX: u64 = 10_000_000;
/// The first step away from none, in nanoseconds.
const DELAY_NS_MIN: u64 = 250_000;
/// How often the delay is adapted, in nanoseconds.
const PERIOD_NS: u64 = 50_000_000;
/// Above this share of the core's time the delay grows; below the other it shrinks.
const BUSY_HIGH: f64 = 0.80;
const BUSY_LOW: f64 = 0.65;

/// The delay, and what it follows.
#[derive(Debug)]
pub struct Pacing {
    delay_ns: u64,
    is_fixed: bool,
    adapted_ns: u64,
}

impl Pacing {
    /// `max_delay_us` fixes the delay; without it the delay adapts.
    pub fn new(max_delay_us: Option<u32>) -> Pacing {
        Pacing {
            delay_ns: max_delay_us.map_or(0, |delay_us| u64::from(delay_us) * 1_000),
            is_fixed: max_delay_us.is_some(),
            adapted_ns: 0,
        }
    }

    /// The least time between two sweeps of a topic, in nanoseconds.
    pub fn delay_ns(&self) -> u64 {
        self.delay_ns
    }

    /// From now on topics do not wait.
    pub fn end(&mut self) {
        (self.delay_ns, self.is_fixed) = (0, true);
    }

    /// Whether it is time to [`Pacing::adapt`]; and how long since the last, in nanoseconds.
    pub fn is_due(&self, now_ns: u64) -> Option<u64> {
        let elapsed_ns = now_ns.saturating_sub(self.adapted_ns);
        (!self.is_fixed && elapsed_ns >= PERIOD_NS).then_some(elapsed_ns)
    }

    /// Follows the share of the core's time that went into work since the last call.
    pub fn adapt(&mut self, now_ns: u64, busy: f64) {
        self.adapted_ns = now_ns;
        if busy > BUSY_HIGH {
            self.delay_ns = (self.delay_ns + self.delay_ns / 4).clamp(DELAY_NS_MIN, DELAY_NS_MAX);
        } else if busy < BUSY_LOW {
            let less = self.delay_ns - self.delay_ns / 8;
            self.delay_ns = if less < DELAY_NS_MIN { 0 } else { less };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core whose work shrinks as the delay grows: `demand` of it without a delay, and for each
    /// delivery merged as much less.
    fn settle(demand: f64) -> u64 {
        let mut pacing = Pacing::new(None);
        for period in 1..2_000u64 {
            let merged = 1.0 + pacing.delay_ns() as f64 / 500_000.0;
            pacing.adapt(period * PERIOD_NS, (demand / merged).min(1.0));
        }
        pacing.delay_ns()
    }

    #[test]
    fn an_idle_core_does_not_wait_and_an_overloaded_one_waits_the_most() {
        assert_eq!(settle(0.3), 0);
        assert_eq!(settle(100.0), DELAY_NS_MAX);
    }

    #[test]
    fn between_them_the_delay_settles_where_the_core_has_some_time_left() {
        let delay_ns = settle(3.0);
        let busy = 3.0 / (1.0 + delay_ns as f64 / 500_000.0);
        assert!((0.55..0.9).contains(&busy), "{delay_ns} ns leaves the core {busy} busy");
    }

    #[test]
    fn a_fixed_delay_stays() {
        let pacing = Pacing::new(Some(2_000));
        assert_eq!(pacing.is_due(1 << 40), None);
        assert_eq!(pacing.delay_ns(), 2_000_000);
    }
}
