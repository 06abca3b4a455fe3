//! A drain: when each connection of a reactor that empties itself is closed, and how.
//!
//! It decides, connection by connection over as many turns as it takes; [`super::turn`] carries that out.

use std::sync::mpsc;

use super::{
    connection::{Connection, Phase},
    connections::Connections,
};
use crate::{
    pubsub::fanout::Fanout,
    work::{Meter, price},
};

/// How often all connections are looked at, in nanoseconds.
const LOOK_NS: u64 = 5_000_000;

/// The reactor is closing all of its connections.
///
/// Once [`Drain::is_due`] tells that a walk over all of them goes on or begins, [`Drain::next`] gives those whose time has
/// come, as far as the turn's share goes. While it [`Drain::is_walking`] the next turn is to come at once.
#[derive(Debug)]
pub(super) struct Drain {
    /// From when on connections are closed with what is still owed to them unsent, or in mid-upgrade.
    hurry_ns: u64,
    /// From when on they are cut.
    end_ns: u64,
    /// When the last walk over all connections began, and where it is.
    looked_ns: u64,
    next_slot: u32,
    /// Who is told when there is no connection left, if the reactor is to go on; else it ends then.
    emptied: Option<mpsc::Sender<()>>,
}

/// How a connection is closed whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// With a close frame.
    Close,
    /// Without, since it is not upgraded.
    End,
    /// Whatever it does: it is reset.
    Cut,
}

impl Drain {
    /// One that is over after `within_ms`, half of which are for what is owed and for upgrades. `emptied` is told when no
    /// connection is left, and the reactor goes on; without one it ends.
    pub fn new(now_ns: u64, within_ms: u64, emptied: Option<mpsc::Sender<()>>) -> Drain {
        let drain_ns = within_ms * 1_000_000;
        let (hurry_ns, end_ns) = (now_ns + drain_ns / 2, now_ns + drain_ns);
        Drain { hurry_ns, end_ns, looked_ns: 0, next_slot: 0, emptied }
    }

    /// Whether the reactor ends with it.
    pub fn is_end(&self) -> bool {
        self.emptied.is_none()
    }

    /// Whether its time is over.
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns
    }

    /// No connection is left: tells whoever asked.
    pub fn tell(&self) {
        if let Some(waiter) = &self.emptied {
            // Whoever asked may have gone: then nobody waits.
            let _ = waiter.send(());
        }
    }

    /// Whether a walk is under way.
    pub fn is_walking(&self) -> bool {
        self.next_slot > 0
    }

    /// When the next walk begins, in nanoseconds.
    pub fn due_ns(&self) -> u64 {
        self.looked_ns + LOOK_NS
    }

    /// Whether a walk is under way, or begins now.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        if self.is_walking() {
            return true;
        }
        let is_due = now_ns - self.looked_ns >= LOOK_NS;
        if is_due {
            self.looked_ns = now_ns;
        }
        is_due
    }

    /// The next connection whose time has come, and how it is closed; none when the walk is over, or the meter stands at
    /// `until`.
    pub fn next(
        &mut self,
        connections: &Connections,
        fanout: &Fanout,
        meter: &mut Meter,
        until: u64,
        now_ns: u64,
    ) -> Option<(u32, Parting)> {
        while (self.next_slot as usize) < connections.slot_count() {
            if meter.spent() >= until {
                return None;
            }
            meter.spend(price::LOOK);
            let slot = self.next_slot;
            self.next_slot += 1;
            let connection = &connections[slot];
            let is_owed = || is_owed(slot, connection, fanout);
            if let Some(parting) = self.parting(connection.phase, is_owed, now_ns) {
                return Some((slot, parting));
            }
        }
        self.next_slot = 0;
        None
    }

    /// How a connection in `phase` is closed, if its time has come.
    fn parting(&self, phase: Phase, is_owed: impl FnOnce() -> bool, now_ns: u64) -> Option<Parting> {
        let (hurries, ends) = (now_ns >= self.hurry_ns, now_ns >= self.end_ns);
        match phase {
            Phase::Free => None,
            _ if ends => Some(Parting::Cut),
            Phase::Upgrading if hurries => Some(Parting::End),
            Phase::Authenticating => Some(Parting::Close),
            Phase::Open if hurries || !is_owed() => Some(Parting::Close),
            _ => None,
        }
    }
}

/// Whether anything is on its way to the connection, or is to be.
fn is_owed(slot: u32, connection: &Connection, fanout: &Fanout) -> bool {
    connection.is_sending()
        || !connection.replies.is_empty()
        || fanout.is_owing(slot)
        || fanout.is_replaying(slot)
        // What waits for its sweep is owed too.
        || fanout.is_sweeping()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::{
        protocol::close::CloseReason,
        pubsub::{home::Homes, log::Budget, policy::Policy},
    };

    const MS: u64 = 1_000_000;

    #[test]
    fn a_connection_is_closed_when_nothing_is_owed_to_it_and_as_time_runs_out_in_any_case() {
        let begin_ns = 77 * MS;
        let drain = Drain::new(begin_ns, 100, None);
        let closing = Phase::Closing(CloseReason::PeerClosed);
        let parting = |phase, is_owed, ms| drain.parting(phase, || is_owed, begin_ns + ms * MS);
        for (phase, is_owed, first, hurrying) in [
            (Phase::Free, false, None, None),
            (Phase::Upgrading, false, None, Some(Parting::End)),
            (Phase::Authenticating, true, Some(Parting::Close), Some(Parting::Close)),
            (Phase::Open, false, Some(Parting::Close), Some(Parting::Close)),
            (Phase::Open, true, None, Some(Parting::Close)),
            (closing, false, None, None),
        ] {
            assert_eq!(parting(phase, is_owed, 49), first, "{phase:?} {is_owed}");
            assert_eq!(parting(phase, is_owed, 50), hurrying, "{phase:?} {is_owed}");
            assert_eq!(parting(phase, is_owed, 99), hurrying, "{phase:?} {is_owed}");
            let last = (phase != Phase::Free).then_some(Parting::Cut);
            assert_eq!(parting(phase, is_owed, 100), last, "{phase:?} {is_owed}");
        }
    }

    /// Five connections, and a share for two of them in each turn.
    #[test]
    fn a_walk_stops_where_its_share_ends_and_goes_on_from_there() {
        let mut connections = Connections::new(5);
        for socket in 0..5 {
            connections.open(socket, 0, 1_000);
        }
        let budget = Budget::new(1 << 20);
        let fanout = Fanout::new(Homes::new(1, 0), Policy::skipping(200), 10, 5, budget);
        let mut drain = Drain::new(0, 100, None);
        let mut walk = |now_ms| {
            let mut meter = Meter::default();
            let mut next = || drain.next(&connections, &fanout, &mut meter, 2 * price::LOOK, now_ms * MS);
            let found: Vec<(u32, Parting)> = iter::from_fn(&mut next).collect();
            (found, drain.is_walking())
        };
        for is_left in [true, true, false] {
            assert_eq!(walk(49), (vec![], is_left), "nobody's time has come");
        }
        let ends = |slots: &[u32]| slots.iter().map(|&slot| (slot, Parting::End)).collect();
        for (slots, is_left) in [(&[0, 1][..], true), (&[2, 3], true), (&[4], false)] {
            assert_eq!(walk(50), (ends(slots), is_left));
        }
    }

    #[test]
    fn a_walk_that_is_over_is_due_again_after_a_while() {
        let mut drain = Drain::new(MS, 100, None);
        assert!(drain.is_due(10 * MS));
        drain.next_slot = 3;
        assert!(drain.is_walking() && drain.is_due(10 * MS), "one that is under way goes on at once");
        drain.next_slot = 0;
        assert!(!drain.is_due(15 * MS - 1) && drain.due_ns() == 15 * MS && drain.is_due(15 * MS));
    }
}
