//! What is known of a connection only where the configuration asks for it: tables by slot, empty without.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::admission::{addresses::Origin, rate::Rate};
use crate::config::Config;

/// Tables by slot.
#[derive(Debug, Default)]
pub struct Meters {
    keeps_messages: bool,
    /// When a message last came or went, or a part of one, in milliseconds (wrapping); with `timeouts.idle_ms`.
    messaged_ms: Vec<u32>,
    /// When those began a message that have not ended it, in milliseconds (wrapping): few have.
    begun_ms: HashMap<u32, u32, RandomState>,
    /// How much those will have taken who have taken all that was sent before their last ping, in bytes (wrapping): of
    /// those who were pinged while a send was in flight.
    pinged_bytes: HashMap<u32, u32, RandomState>,
    /// Those that asked for some of a topic's past and have no answer.
    asking: HashSet<u32, RandomState>,
    command_rate: Option<Rate>,
    /// What the rate knows of its commands; with `limits.commands_per_s_max`.
    commands_due_ns: Vec<u64>,
    /// And of what it sends that is no command, which is a class of its own: who gives as many commands as it may is not
    /// kept from saying that it lives.
    others_due_ns: Vec<u64>,
    /// Whose it is, if it was counted; with `limits.connections_per_address_max`.
    origins: Vec<Option<Origin>>,
}

impl Meters {
    /// Keeps what `config` asks for from now on, for slots below `slot_count` and later ones. Time that was not
    /// kept begins at `now_ms`.
    pub fn reload(&mut self, config: &Config, slot_count: usize, now_ms: u32) {
        let limits = &config.limits;
        let command_rate = Rate::new(limits.commands_per_s_max, 1, limits.commands_burst_max);
        if std::mem::replace(&mut self.command_rate, command_rate) != command_rate {
            // What is known is in intervals of the old rate: everybody begins anew.
            (self.commands_due_ns, self.others_due_ns) = (Vec::new(), Vec::new());
        }
        let kept_messages = std::mem::replace(&mut self.keeps_messages, config.timeouts.idle_ms > 0);
        if !self.keeps_messages {
            self.messaged_ms = Vec::new();
        } else if !kept_messages {
            self.messaged_ms = vec![now_ms; slot_count];
        }
    }

    /// The slot is given to a new connection.
    pub fn open(&mut self, slot: u32, origin: Option<Origin>, now_ms: u32) {
        self.note_message(slot, now_ms);
        for due_ns in [&mut self.commands_due_ns, &mut self.others_due_ns] {
            if let Some(due_ns) = due_ns.get_mut(slot as usize) {
                *due_ns = 0;
            }
        }
        if let Some(origin) = origin {
            self.set_origin(slot, origin);
        }
    }

    /// It is known whose the connection is, and it is counted.
    pub fn set_origin(&mut self, slot: u32, origin: Origin) {
        *entry(&mut self.origins, slot) = Some(origin);
    }

    /// The connection is over; returns whose it was, if it was counted.
    pub fn close(&mut self, slot: u32) -> Option<Origin> {
        self.begun_ms.remove(&slot);
        self.pinged_bytes.remove(&slot);
        self.asking.remove(&slot);
        self.origins.get_mut(slot as usize)?.take()
    }

    /// The connection asks for some of a topic's past; false if it has asked before and has no answer.
    pub fn begin_asking(&mut self, slot: u32) -> bool {
        self.asking.insert(slot)
    }

    /// It has its answer.
    pub fn end_asking(&mut self, slot: u32) {
        self.asking.remove(&slot);
    }

    /// A message came or goes, or a part of one.
    pub fn note_message(&mut self, slot: u32, now_ms: u32) {
        if self.keeps_messages {
            *entry(&mut self.messaged_ms, slot) = now_ms;
        }
    }

    /// A part came of a message that is not whole.
    pub fn note_part(&mut self, slot: u32, now_ms: u32) {
        self.note_message(slot, now_ms);
        self.begun_ms.entry(slot).or_insert(now_ms);
    }

    /// A message is whole, so that what is behind it is another; or that it is not is our doing.
    pub fn forget_part(&mut self, slot: u32) {
        if !self.begun_ms.is_empty() {
            self.begun_ms.remove(&slot);
        }
    }

    /// For how long a message is under way that is not whole, in milliseconds, if one is.
    pub fn begun_ms(&self, slot: u32, now_ms: u32) -> Option<u32> {
        self.begun_ms.get(&slot).map(|begun_ms| now_ms.wrapping_sub(*begun_ms))
    }

    /// A ping goes out, which the peer has taken when it has taken so many bytes in all (wrapping); none: at once.
    pub fn note_ping(&mut self, slot: u32, taken_bytes: Option<u32>) {
        match taken_bytes {
            Some(taken_bytes) => _ = self.pinged_bytes.insert(slot, taken_bytes),
            None => _ = self.pinged_bytes.remove(&slot),
        }
    }

    /// Whether a peer that has taken so many bytes may not have taken its last ping yet.
    pub fn is_before_ping(&self, slot: u32, taken_bytes: u32) -> bool {
        self.pinged_bytes.get(&slot).is_some_and(|until| until.wrapping_sub(taken_bytes) as i32 > 0)
    }

    /// For how long no message came or went, in milliseconds; only with `timeouts.idle_ms`.
    pub fn quiet_ms(&self, slot: u32, now_ms: u32) -> u32 {
        now_ms.wrapping_sub(self.messaged_ms[slot as usize])
    }

    /// Whether the connection may give one more command.
    pub fn take_command(&mut self, slot: u32, now_ns: u64) -> bool {
        let Some(rate) = self.command_rate else { return true };
        rate.take(entry(&mut self.commands_due_ns, slot), now_ns)
    }

    /// Whether it may send one more of what is no command: a ping of WebSocket, or a message of none.
    pub fn take_other(&mut self, slot: u32, now_ns: u64) -> bool {
        let Some(rate) = self.command_rate else { return true };
        rate.take(entry(&mut self.others_due_ns, slot), now_ns)
    }
}

fn entry<T: Clone + Default>(table: &mut Vec<T>, slot: u32) -> &mut T {
    if table.len() <= slot as usize {
        table.resize(slot as usize + 1, T::default());
    }
    &mut table[slot as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where the count of bytes wraps in between.
    #[test]
    fn a_ping_is_taken_when_what_stands_before_it_is() {
        let mut meters = Meters::default();
        assert!(!meters.is_before_ping(0, 0), "nobody was pinged");
        meters.note_ping(0, Some(5));
        assert!(meters.is_before_ping(0, u32::MAX - 5) && meters.is_before_ping(0, 4));
        assert!(!meters.is_before_ping(0, 5) && !meters.is_before_ping(1, 4));
        meters.note_ping(0, None);
        assert!(!meters.is_before_ping(0, 4), "nothing stands before this one");
        meters.note_ping(0, Some(5));
        meters.close(0);
        assert!(!meters.is_before_ping(0, 4), "the slot is another's");
    }

    #[test]
    fn a_new_rate_does_not_hold_what_came_under_the_old_one_against_anybody() {
        let mut config = Config::default();
        config.limits.commands_per_s_max = 10;
        let mut meters = Meters::default();
        meters.reload(&config, 1, 0);
        let burst = u64::from(config.limits.commands_burst_max);
        assert!((0..burst).all(|_| meters.take_command(0, 0)) && !meters.take_command(0, 0));
        config.limits.commands_per_s_max = 1_000;
        meters.reload(&config, 1, 0);
        assert!((0..burst).all(|_| meters.take_command(0, 0)) && !meters.take_command(0, 0));
        meters.reload(&config, 1, 0);
        assert!(!meters.take_command(0, 0), "what did not change goes on");
        assert!((0..burst).all(|_| meters.take_other(0, 0)) && !meters.take_other(0, 0));
        meters.open(0, None, 0);
        assert!(
            meters.take_command(0, 0) && meters.take_other(0, 0),
            "whoever has the slot next begins anew"
        );
    }
}
