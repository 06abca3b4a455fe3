//! What goes wrong for connections, as lines that strangers cannot multiply.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::metrics::{Trouble, Troubles};

/// The least time between two lines about the same.
const PERIOD: Duration = Duration::from_secs(10);

/// Lets one line through per `PERIOD`.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
}

/// What was said of each trouble.
#[derive(Debug, Default)]
pub(super) struct Notices {
    told: [Told; Trouble::ALL.len()],
}

#[derive(Debug, Default)]
struct Told {
    count: u64,
    seldom: Seldom,
}

impl Seldom {
    /// Whether it is time for a line.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.duration_since(last) >= PERIOD);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

impl Notices {
    /// Logs what happened since it was last said.
    pub fn tell(&mut self, troubles: &Troubles, now: Instant) {
        for (trouble, count) in self.due(troubles, now) {
            warn!(count, "{}", trouble.sentence());
        }
    }

    /// What is to be said, and how often it happened since it was last said.
    fn due(&mut self, troubles: &Troubles, now: Instant) -> Vec<(Trouble, u64)> {
        let mut due = Vec::new();
        for trouble in Trouble::ALL {
            let (count, told) = (troubles.count(trouble), &mut self.told[trouble as usize]);
            if count > told.count && told.seldom.is_due(now) {
                due.push((trouble, count - told.count));
                told.count = count;
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_at_once_and_then_seldom_with_its_count() {
        let (troubles, mut notices) = (Troubles::default(), Notices::default());
        let began = Instant::now();
        assert!(notices.due(&troubles, began).is_empty());
        troubles.note(Trouble::AddressMax);
        assert_eq!(notices.due(&troubles, began), [(Trouble::AddressMax, 1)]);
        for _ in 0..1_000 {
            troubles.note(Trouble::AddressMax);
        }
        assert!(notices.due(&troubles, began + PERIOD / 2).is_empty());
        // Another trouble has a line of its own.
        troubles.note(Trouble::CommandRate);
        assert_eq!(notices.due(&troubles, began + PERIOD / 2), [(Trouble::CommandRate, 1)]);
        assert_eq!(notices.due(&troubles, began + PERIOD), [(Trouble::AddressMax, 1_000)]);
        assert!(notices.due(&troubles, began + 10 * PERIOD).is_empty());
    }
}
