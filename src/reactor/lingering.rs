//! Connections to whose peers all is said, and whose bytes mean nothing any more: they are passed over.

use super::{connection::Phase, desk::Desk};
use crate::protocol::close::CloseReason;

/// A connection that lingers has fallen silent when nothing came for so long, in milliseconds.
pub(super) const QUIET_MS: u64 = 250;
/// The most bytes of one that are passed over.
pub(super) const LINGER_BYTES_MAX: u32 = if cfg!(test) { 8 << 10 } else { 16 << 20 };

impl Desk {
    /// All is sent to a connection whose bytes are not understood any more.
    pub fn begin_lingering(&mut self, slot: u32, reason: CloseReason) {
        let now_ms = self.now_ms();
        self.leave(slot, Phase::Lingering(reason));
        let connection = &mut self.connections[slot];
        // No send is in flight whose progress these would tell.
        (connection.active_ms, connection.acked_bytes, connection.is_pinged) = (now_ms as u32, 0, true);
        self.connections.timers.set(slot, now_ms + QUIET_MS);
    }

    /// More has come of a connection to which all is sent; tells whether that is more than is passed over.
    pub fn pass_over(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[slot];
        connection.acked_bytes = connection.acked_bytes.saturating_add(bytes.len() as u32);
        // It has read ours and says no more: it is looked at now, and found silent.
        connection.is_pinged = matches!(connection.phase, Phase::Lingering(_)) && is_close_frame(bytes);
        let is_too_much = connection.acked_bytes > LINGER_BYTES_MAX;
        if connection.is_pinged {
            self.connections.timers.set(slot, now_ms);
        }
        is_too_much
    }

    /// Whether the connection, which lingers, goes on to: something came since it was looked at, and it has not lingered
    /// for long.
    pub fn goes_on_lingering(&mut self, slot: u32) -> bool {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[slot];
        let is_silent = std::mem::replace(&mut connection.is_pinged, true);
        let elapsed_ms = (now_ms as u32).wrapping_sub(connection.active_ms);
        if is_silent || u64::from(elapsed_ms) >= self.shared.config.timeouts.close_ms {
            return false;
        }
        self.connections.timers.set(slot, now_ms + QUIET_MS);
        true
    }
}

/// Whether these bytes are a client's close frame and nothing else (RFC 6455 section 5.2): one that comes by itself is told
/// from the middle of something by that.
fn is_close_frame(bytes: &[u8]) -> bool {
    const FIN_CLOSE: u8 = 0x88;
    const MASK: u8 = 0x80;
    matches!(bytes, [FIN_CLOSE, len, ..] if len & MASK != 0 && bytes.len() == 6 + usize::from(len & !MASK))
}
