//! Who waits for what: the lists of connections that a turn works off.

use std::collections::{HashSet, VecDeque};

use foldhash::fast::RandomState;

use super::{
    connection::{Connection, Pause, Phase},
    share::Share,
    slow::Reset,
};
use crate::pubsub::subscription::ConnectionId;

/// Connections by what they wait for, each list first come first served.
///
/// To be sent to, a connection is in one list at most, which [`Connection::is_listed`] tells; whoever takes it out says so
/// there. Beside it those are listed that have some topic's past to come. To go on, it is in the queue that its [`Connection::pause`] names, or in none where it waits for something of its own:
/// [`Queues::pause`] begins that, [`Queues::let_go_on`] puts it into a queue when what it waited for has come, and whoever
/// takes it out ends it by [`Queues::end_pause`], or puts it back by [`Queues::stay_paused`]. A slot that is in a queue may be
/// another connection's by now, so what a queue says is asked of the connection once more.
#[derive(Debug, Default)]
pub struct Queues {
    /// With replies to send.
    pub replying: VecDeque<u32>,
    /// Without, in whose views ranges waited for a send to end.
    pub serving: VecDeque<u32>,
    /// That are being sent some topic's past: beside the lists above.
    replaying: VecDeque<u32>,
    /// The same.
    replaying_marks: HashSet<u32, RandomState>,
    /// Whose receive is to be cancelled.
    pub pausing: Vec<u32>,
    /// That are to be reset: their send in flight keeps log, or other memory, that must go.
    pub resetting: Vec<(ConnectionId, Reset)>,
    /// That wait for their turn to go on, with little.
    pub little_waiting: VecDeque<u32>,
    /// That wait for their turn to go on, with more.
    pub waiting: VecDeque<u32>,
    /// That are not read from because they have much under way.
    pub holding: VecDeque<u32>,
    /// That are over, and in nothing any more.
    pub departed: Vec<u32>,
    paused_count: usize,
}

impl Queues {
    /// Connections that are paused, whatever they wait for.
    pub fn paused_count(&self) -> usize {
        self.paused_count
    }

    /// Whether nobody waits for a turn.
    pub fn is_nobody_waiting(&self) -> bool {
        self.little_waiting.is_empty() && self.waiting.is_empty()
    }

    /// The connection is to be answered as soon as it has no send in flight.
    #[inline]
    pub fn list_replying(&mut self, slot: u32, connection: &mut Connection) {
        if !connection.is_listed {
            connection.is_listed = true;
            self.replying.push_back(slot);
        }
    }

    /// The connection has replies, or is owed something: it is to be served as soon as it has no send in flight.
    #[inline]
    pub fn list(&mut self, slot: u32, connection: &mut Connection) {
        if !connection.replies.is_empty() {
            self.list_replying(slot, connection);
        } else if !connection.is_listed {
            connection.is_listed = true;
            self.serving.push_back(slot);
        }
    }

    /// The connection is being sent some topic's past.
    pub fn list_past(&mut self, slot: u32) {
        if self.replaying_marks.insert(slot) {
            self.replaying.push_back(slot);
        }
    }

    /// How many are listed for that.
    pub fn replaying_count(&self) -> usize {
        self.replaying.len()
    }

    /// Takes the first of them out.
    pub fn pop_replaying(&mut self) -> Option<u32> {
        let slot = self.replaying.pop_front()?;
        self.replaying_marks.remove(&slot);
        Some(slot)
    }

    /// The connection, which says what it waits for, begins to wait.
    pub fn pause(&mut self, slot: u32, connection: &mut Connection, share: &mut Share) {
        self.pausing.push(slot);
        self.stay_paused(slot, connection, share);
    }

    /// It waits for what it says, or goes on to.
    pub fn stay_paused(&mut self, slot: u32, connection: &mut Connection, share: &mut Share) {
        self.paused_count += 1;
        // A request has a bound of its own, which is little, and may have many bytes of cookies.
        let is_little = connection.phase == Phase::Upgrading
            || connection.unread.as_ref().is_none_or(|unread| unread.is_little());
        match connection.pause {
            // What is little to read may be much to do.
            Pause::Turn if is_little && !share.is_flooding => {
                connection.pause = Pause::LittleTurn;
                self.little_waiting.push_back(slot);
            }
            Pause::Turn => {
                share.is_flooding = true;
                self.waiting.push_back(slot);
            }
            Pause::Memory => self.holding.push_back(slot),
            _ => {}
        }
    }

    /// What the connection waited for has come: it waits for its turn. Does nothing if it waits for something else.
    pub fn let_go_on(&mut self, slot: u32, pause: Pause, connection: &mut Connection, share: &mut Share) {
        if connection.pause == pause {
            self.end_pause(connection);
            connection.pause = Pause::Turn;
            self.stay_paused(slot, connection, share);
        }
    }

    /// The connection waits for nothing any more.
    pub fn end_pause(&mut self, connection: &mut Connection) {
        if connection.is_paused() {
            connection.pause = Pause::None;
            self.paused_count -= 1;
        }
    }
}

#[cfg(test)]
impl Queues {
    /// Asserts what is said of it.
    pub fn check(&self, connections: &super::connections::Connections) {
        let is_listed = |slot: &u32| connections[*slot].is_listed || connections[*slot].phase == Phase::Free;
        assert!(
            self.replying.iter().chain(&self.serving).all(is_listed),
            "a list has who does not know of it"
        );
        assert_eq!(
            self.paused_count,
            connections.iter().filter(|it| it.is_paused()).count(),
            "who is paused is counted"
        );
    }
}
