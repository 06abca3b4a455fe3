//! What clients did, as lines that they cannot multiply.

use std::time::{Duration, Instant};

use tracing::info;

use crate::reactor::audit::{Audit, EVENTS_MAX, Event, EventKind};

/// So many lines of each kind of event in a [`PERIOD`]; what happens beyond is summed at its end. Of each kind, so that strangers who
/// guess do not hide what users do.
const LINES_MAX: usize = 20;
const PERIOD: Duration = Duration::from_secs(1);

/// What was said of clients.
#[derive(Debug, Default)]
pub(super) struct AuditLines {
    began: Option<Instant>,
    line_counts: [usize; EventKind::ALL.len()],
    /// By kind, of how many it was said that they have no line.
    summed: [u64; EventKind::ALL.len()],
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Of one event.
    Single(Event),
    /// Of so many of a kind.
    Sum(EventKind, u64),
}

impl AuditLines {
    /// Writes what has happened.
    pub fn tell(&mut self, audit: &Audit, now: Instant) {
        for line in self.due(audit, now) {
            match line {
                Line::Single(event) => write(&event),
                Line::Sum(kind, count) => {
                    info!(target: "fanfare::audit", count, "{}, and not told one by one", kind.as_str());
                }
            }
        }
    }

    fn due(&mut self, audit: &Audit, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) {
            for (kind, (count, summed)) in
                EventKind::ALL.into_iter().zip(audit.dropped().into_iter().zip(&mut self.summed))
            {
                if count > *summed {
                    lines.push(Line::Sum(kind, count - *summed));
                    *summed = count;
                }
            }
            (self.began, self.line_counts) = (Some(now), Default::default());
        }
        // No more than were there: reactors may put in more all the time.
        for event in (0..EVENTS_MAX).map_while(|_| audit.pop()) {
            let line_count = &mut self.line_counts[event.kind as usize];
            *line_count += 1;
            match *line_count <= LINES_MAX {
                true => lines.push(Line::Single(event)),
                false => audit.note_dropped(event.kind),
            }
        }
        lines
    }
}

/// Each field as text between quotes, with what could look like another line in escapes.
fn write(event: &Event) {
    let Event { kind, address, reason, user, issuer, key_id, filter } = event;
    let (user, key_id, filter) = (user.as_deref(), key_id.as_deref(), filter.as_deref());
    let issuer = issuer.as_ref().map(|issuer| &***issuer);
    let address = address.map(tracing::field::display);
    info!(target: "fanfare::audit", address, reason, user, issuer, kid = key_id, filter, "{}", kind.as_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(audit: &Audit, kind: EventKind, count: usize) {
        (0..count).for_each(|_| audit.push(Event::new(kind)));
    }

    fn count(lines: &[Line]) -> (usize, Vec<(EventKind, u64)>) {
        let sums = lines.iter().filter_map(|line| match line {
            Line::Sum(kind, count) => Some((*kind, *count)),
            Line::Single(_) => None,
        });
        let sums: Vec<_> = sums.collect();
        (lines.len() - sums.len(), sums)
    }

    #[test]
    fn the_first_of_a_second_have_lines_and_the_rest_are_summed_and_none_is_lost() {
        let (audit, mut lines) = (Audit::default(), AuditLines::default());
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        assert_eq!(count(&lines.due(&audit, at(0))), (0, vec![]));
        push(&audit, EventKind::AuthFailed, 15);
        assert_eq!(count(&lines.due(&audit, at(250))), (15, vec![]));
        push(&audit, EventKind::Forbidden, 3);
        // More than there is room for.
        push(&audit, EventKind::AuthFailed, 1_000);
        assert_eq!(count(&lines.due(&audit, at(500))), (3 + 5, vec![]));
        push(&audit, EventKind::AuthFailed, 10);
        assert_eq!(count(&lines.due(&audit, at(999))), (0, vec![]));
        push(&audit, EventKind::Forbidden, 1);
        let due = lines.due(&audit, at(1_000));
        // 20 of the 1,025 had lines of their own.
        assert_eq!(count(&due), (1, vec![(EventKind::AuthFailed, 1_005)]));
        assert!(matches!(due[0], Line::Sum(..)), "{due:?}");
        assert_eq!(count(&lines.due(&audit, at(3_000))), (0, vec![]));
        assert_eq!(audit.dropped(), [1_005, 0, 0, 0]);
    }

    #[test]
    fn a_look_ends_however_fast_they_come() {
        let (audit, mut lines) = (Audit::default(), AuditLines::default());
        push(&audit, EventKind::Blocked, EVENTS_MAX);
        assert_eq!(count(&lines.due(&audit, Instant::now())), (LINES_MAX, vec![]));
        assert_eq!(audit.pop(), None);
        assert_eq!(audit.dropped()[EventKind::Blocked as usize], (EVENTS_MAX - LINES_MAX) as u64);
    }
}
