//! The table of connections: who has which slot, and until when it may stay as it is.

use std::{
    ops::{Index, IndexMut},
    os::fd::RawFd,
};

use super::{
    admission::upgrading::Upgrading,
    connection::{Connection, Phase},
    share::Share,
    timers::TimerWheel,
};
use crate::{protocol::close::CloseReason, pubsub::subscription::ConnectionId};

/// Connections by slot, with what each has that others look at by slot as well: its share of the turn and its deadline.
///
/// A slot is given to one connection at a time: [`Connections::open`] gives it, [`Connections::enter`] takes its connection
/// through its life, [`Connections::release`] makes it free. Who keeps a slot while that may happen keeps its
/// [`Connections::id_of`], and asks whether the connection still [`Connections::has`] it. Phases are entered in no other way,
/// so that those that are upgrading, and those that are told that they are one too many, are counted.
#[derive(Debug)]
pub struct Connections {
    slots: Vec<Connection>,
    /// What each has done of its share.
    shares: Vec<Share>,
    /// Deadlines, in milliseconds.
    pub timers: TimerWheel,
    free: Vec<u32>,
    open_count: usize,
    upgrading: Upgrading,
    upgrading_max: usize,
    refused_count: usize,
}

impl Connections {
    /// None, with room for so many.
    ///
    /// Tables by slot have their full capacity from the start: what is not used yet is address space, not
    /// memory, and what is used is never copied to grow.
    pub fn new(slots_max: usize) -> Connections {
        Connections {
            slots: Vec::with_capacity(slots_max),
            shares: Vec::with_capacity(slots_max),
            timers: TimerWheel::new(slots_max),
            free: Vec::new(),
            open_count: 0,
            upgrading: Upgrading::default(),
            upgrading_max: usize::MAX,
            refused_count: 0,
        }
    }

    /// How many slots there are, free ones included.
    #[inline]
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Connections that are not `Free`.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Connections that have not completed their upgrade, or not said who they are.
    pub fn upgrading_count(&self) -> usize {
        self.upgrading.count()
    }

    /// Connections that are told that they are one too many.
    pub fn refused_count(&self) -> usize {
        self.refused_count
    }

    /// Every slot in order, free ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter()
    }

    /// Who has the slot now.
    #[inline]
    pub fn id_of(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self[slot].generation }
    }

    /// Whether the connection still has its slot.
    #[inline]
    pub fn has(&self, ConnectionId { slot, generation }: ConnectionId) -> bool {
        self[slot].generation == generation
    }

    /// The shares of all slots.
    #[inline]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// What the connection has done of its share.
    #[inline]
    pub fn share(&self, slot: u32) -> Share {
        self.shares[slot as usize]
    }

    /// The same, to be changed.
    #[inline]
    pub fn share_mut(&mut self, slot: u32) -> &mut Share {
        &mut self.shares[slot as usize]
    }

    /// The connection and its share.
    #[inline]
    pub fn with_share(&mut self, slot: u32) -> (&mut Connection, &mut Share) {
        (&mut self.slots[slot as usize], &mut self.shares[slot as usize])
    }

    /// Gives an accepted socket a slot, for an upgrade that is to be complete at `deadline_ms`.
    pub fn open(&mut self, socket: RawFd, now_ms: u64, deadline_ms: u64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Connection::free());
            self.shares.push(Share::default());
            self.slots.len() as u32 - 1
        });
        let connection = &mut self.slots[slot as usize];
        assert_eq!(connection.phase, Phase::Free, "a slot is given to one connection at a time");
        connection.socket = socket;
        connection.phase = Phase::Upgrading;
        connection.active_ms = now_ms as u32;
        self.shares[slot as usize] = Share::default();
        self.timers.set(slot, deadline_ms);
        self.open_count += 1;
        let (id, slots) = (self.id_of(slot), &self.slots);
        self.upgrading.enter(id, |id| is_upgrading(slots, id));
        slot
    }

    /// The connection enters another phase of its life.
    pub fn enter(&mut self, slot: u32, phase: Phase) {
        let before = std::mem::replace(&mut self.slots[slot as usize].phase, phase);
        if before.is_stranger() && !phase.is_stranger() {
            self.upgrading.leave();
        }
        let is_refused = |phase: Phase| phase.reason().is_some_and(is_refusal);
        self.refused_count += usize::from(is_refused(phase) && !is_refused(before));
    }

    /// So many may be upgrading from now on.
    pub fn set_upgrading_max(&mut self, upgrading_max: usize) {
        self.upgrading_max = upgrading_max;
    }

    /// The oldest connection that is upgrading, if there are more than may be.
    pub fn oldest_beyond(&mut self) -> Option<u32> {
        let slots = &self.slots;
        self.upgrading.oldest_beyond(self.upgrading_max, |id| is_upgrading(slots, id))
    }

    /// Makes the slot free for the next connection. Its socket is closed, or about to be.
    pub fn release(&mut self, slot: u32, reason: CloseReason) {
        self.timers.clear(slot);
        self.refused_count -= usize::from(is_refusal(reason));
        let connection = &mut self.slots[slot as usize];
        assert!(!connection.is_held(), "a slot is freed while the kernel holds something of it");
        *connection = Connection { generation: connection.generation.wrapping_add(1), ..Connection::free() };
        self.free.push(slot);
        self.open_count -= 1;
    }
}

impl Index<u32> for Connections {
    type Output = Connection;

    #[inline]
    fn index(&self, slot: u32) -> &Connection {
        &self.slots[slot as usize]
    }
}

impl IndexMut<u32> for Connections {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.slots[slot as usize]
    }
}

fn is_upgrading(slots: &[Connection], ConnectionId { slot, generation }: ConnectionId) -> bool {
    let connection = &slots[slot as usize];
    connection.phase.is_stranger() && connection.generation == generation
}

/// Whether the connection was told that it is one too many.
fn is_refusal(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::TryAgainLater | CloseReason::AddressLimit)
}

#[cfg(test)]
impl Connections {
    /// Asserts what is said of it.
    pub fn check(&self) {
        let count = |is: &dyn Fn(Phase) -> bool| self.iter().filter(|it| is(it.phase)).count();
        assert_eq!(self.free.len(), count(&|phase| phase == Phase::Free), "free slots are listed once");
        assert_eq!(self.open_count, self.slots.len() - self.free.len());
        assert_eq!(self.upgrading.count(), count(&Phase::is_stranger));
        assert_eq!(self.refused_count, count(&|phase| phase.reason().is_some_and(is_refusal)));
        for (slot, connection) in self.slots.iter().enumerate() {
            let is_free = connection.phase == Phase::Free;
            assert!(
                !(is_free && connection.is_held()),
                "slot {slot} is free, and the kernel holds something of it"
            );
            assert!(
                !(is_free && self.timers.is_armed(slot as u32)),
                "slot {slot} is free, and has a deadline"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_away_without_what_was_known_of_who_had_it() {
        let mut connections = Connections::new(1);
        let slot = connections.open(7, 100, 200);
        let before = connections.id_of(slot);
        let share = connections.share_mut(slot);
        (share.is_flooding, share.is_starved) = (true, true);
        connections.enter(slot, Phase::Ending(CloseReason::PeerGone));
        connections.release(slot, CloseReason::PeerGone);
        assert_eq!(connections.open(8, 300, 400), slot);
        let share = connections.share(slot);
        assert!(!share.is_flooding && !share.is_starved);
        assert!(!connections.has(before) && connections.has(connections.id_of(slot)));
        assert_eq!((connections[slot].active_ms, connections.upgrading_count()), (300, 1));
        connections.check();
    }

    #[test]
    fn whoever_was_one_too_many_is_counted_until_it_is_gone() {
        let mut connections = Connections::new(2);
        for reason in [CloseReason::TryAgainLater, CloseReason::AddressLimit] {
            let (served, refused) = (connections.open(7, 100, 200), connections.open(8, 100, 200));
            connections.enter(served, Phase::Open);
            connections.enter(refused, Phase::Flushing(reason));
            connections.enter(refused, Phase::Finishing(reason));
            assert_eq!(connections.refused_count(), 1);
            connections.enter(served, Phase::Ending(CloseReason::PeerGone));
            connections.release(served, CloseReason::PeerGone);
            assert_eq!(connections.refused_count(), 1);
            connections.release(refused, reason);
            assert_eq!(connections.refused_count(), 0);
            connections.check();
        }
    }
}
