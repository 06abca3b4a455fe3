//! Deadlines of connections that have passed: what is to be done about each.
//!
//! It is [`Desk`]'s, and no type: what is due closes connections and tells them things.

use super::{
    connection::Phase,
    deadline::{Due, Since},
    desk::Desk,
    reading::REPLIES_BYTES_MAX,
};
use crate::{
    protocol::{
        close::CloseReason,
        frame::{self, Opcode},
        reply::Reply,
    },
    pubsub::policy::{Bound, Verdict},
};

/// So much more than its send in flight a peer may have to take before what is sent next: what the kernel holds of what
/// was sent before, and the rest of what is taken meanwhile.
const UNTAKEN_BYTES_MAX: u32 = 1 << 20;

impl Desk {
    /// The deadline of `slot` has passed. `acked_bytes` is how many bytes the peer took since the socket was
    /// opened (wrapping), if a send is in flight. A reason is why the connection is to be reset.
    pub fn handle_deadline(&mut self, slot: u32, acked_bytes: Option<u32>) -> Option<CloseReason> {
        let now_ms = self.now_ms();
        let pong_ms = self.shared.config.timeouts.pong_ms;
        let connection = &mut self.connections[slot];
        match connection.phase {
            Phase::Free => unreachable!("a free slot has no deadline"),
            // A pause is our doing: the peer's time stands still.
            Phase::Upgrading if connection.is_paused() => {
                connection.active_ms = now_ms as u32;
                self.connections.timers.set(slot, now_ms + pong_ms);
                None
            }
            Phase::Upgrading => Some(CloseReason::HandshakeTimeout),
            Phase::Authenticating => {
                self.handle_stranger_deadline(slot);
                None
            }
            Phase::Open => {
                self.handle_open_deadline(slot, acked_bytes);
                None
            }
            Phase::Lingering(_) => unreachable!("whether it falls silent is looked at elsewhere"),
            Phase::Closing(reason) | Phase::Flushing(reason) | Phase::Finishing(reason) => Some(reason),
            Phase::Ending(_) => None,
        }
    }

    fn handle_open_deadline(&mut self, slot: u32, acked_bytes: Option<u32>) {
        let now_ms = self.now_ms();
        let timeouts = &self.shared.config.timeouts;
        let connection = &mut self.connections[slot];
        if let Some(acked_bytes) = acked_bytes
            && std::mem::replace(&mut connection.acked_bytes, acked_bytes) != acked_bytes
        {
            // A send makes progress, however slowly.
            connection.flight.note_progress(now_ms);
            self.meters.note_message(slot, now_ms as u32);
            if connection.is_pinged && self.meters.is_before_ping(slot, acked_bytes) {
                connection.active_ms = now_ms as u32;
            }
        }
        if connection.is_paused() && connection.replies.len() <= REPLIES_BYTES_MAX {
            // A pause is our doing, and the peer's time stands still; but for one who does not read its replies.
            connection.active_ms = now_ms as u32;
            self.meters.note_message(slot, now_ms as u32);
            self.meters.forget_part(slot);
        }
        let message_ms = if timeouts.idle_ms == 0 { 0 } else { self.meters.quiet_ms(slot, now_ms as u32) };
        let since = Since {
            life_ms: u64::from((now_ms as u32).wrapping_sub(connection.active_ms)),
            is_pinged: connection.is_pinged,
            message_ms: u64::from(message_ms),
            begun_ms: self.meters.begun_ms(slot, now_ms as u32).map(u64::from),
            progress_ms: connection.flight.stalled_ms(now_ms),
            token: self.gate.token_left(slot),
        };
        match since.due(timeouts) {
            Due::Wait(left_ms) => self.connections.timers.set(slot, now_ms + left_ms),
            Due::Ping(left_ms) => {
                connection.is_pinged = true;
                connection.active_ms = now_ms as u32;
                let before_bytes = connection.flight.len_bytes().wrapping_add(UNTAKEN_BYTES_MAX);
                self.meters.note_ping(slot, acked_bytes.map(|acked| acked.wrapping_add(before_bytes)));
                frame::write_control(Opcode::Ping, b"", self.replies(slot));
                self.connections.timers.set(slot, now_ms + left_ms);
            }
            Due::Stalled => self.carry_out(slot, Verdict::Disconnect(Bound::WriteStallMs)),
            Due::Idle => {
                let text = "no message came or went for timeouts.idle_ms";
                self.close(slot, CloseReason::IdleTimeout, text);
            }
            Due::Unfinished => {
                let text = "a message was begun and not ended for timeouts.message_ms";
                self.close(slot, CloseReason::IdleTimeout, text);
            }
            Due::Expired => self.close(slot, CloseReason::TokenExpired, "token expired"),
            Due::Expiring(left_ms) => {
                self.gate.note_warned(slot);
                self.write_reply(slot, &Reply::Expiring { in_s: left_ms.div_ceil(1_000) });
                // What else may be due is looked at again.
                self.connections.timers.set(slot, now_ms);
            }
            Due::Silent => self.close(slot, CloseReason::IdleTimeout, "nothing came for too long"),
        }
    }
}
