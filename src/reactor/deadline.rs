//! What an open connection's deadline means: the earliest of all that may be due.

use crate::config::Timeouts;

/// So often a connection is looked at in `timeouts.write_stall_ms`: a stall is noticed a quarter of that late at most.
const LOOKS_PER_STALL: u64 = 8;

/// What is known of an open connection when its deadline has passed, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Since a byte came; since the ping, if it is pinged, or since what stands before it made progress.
    pub life_ms: u64,
    /// A ping went out and nothing came since.
    pub is_pinged: bool,
    /// Since a message came or went, or a part of one; with `timeouts.idle_ms`.
    pub message_ms: u64,
    /// Since a message was begun that is not whole, if one is.
    pub begun_ms: Option<u64>,
    /// Since the send in flight was submitted or made progress, if there is one.
    pub progress_ms: Option<u64>,
    /// How long its token goes on, if it has one that ends.
    pub token: Option<TokenLeft>,
}

/// How long a token goes on, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLeft {
    /// Until it ends.
    pub ends_in_ms: u64,
    /// Until the client is told that it does, if it has not been told.
    pub warns_in_ms: Option<u64>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing, before so many milliseconds have passed.
    Wait(u64),
    /// A ping; and it is looked at again after so many milliseconds.
    Ping(u64),
    /// The peer takes nothing: it is too slow.
    Stalled,
    /// No message came or went.
    Idle,
    /// Nothing came after the ping.
    Silent,
    /// A message was begun and not ended.
    Unfinished,
    /// Its token is over.
    Expired,
    /// Its token is over in so many milliseconds, which it is to be told.
    Expiring(u64),
}

impl Since {
    /// What is due. Whether a send goes on is seen at looks alone, so these come so often that a stall is noticed soon
    /// after it has lasted for `timeouts.write_stall_ms`, also of a send that begins later.
    pub fn due(&self, timeouts: &Timeouts) -> Due {
        if let Some(TokenLeft { ends_in_ms, warns_in_ms }) = self.token {
            match warns_in_ms {
                _ if ends_in_ms == 0 => return Due::Expired,
                Some(0) => return Due::Expiring(ends_in_ms),
                _ => {}
            }
        }
        let left = |limit_ms: u64, since_ms: u64| match limit_ms {
            0 => Some(u64::MAX),
            limit_ms => limit_ms.checked_sub(since_ms).filter(|left_ms| *left_ms > 0),
        };
        let Some(stall_ms) = left(timeouts.write_stall_ms, self.progress_ms.unwrap_or(0)) else {
            return Due::Stalled;
        };
        let Some(idle_ms) = left(timeouts.idle_ms, self.message_ms) else { return Due::Idle };
        let Some(message_ms) = left(timeouts.message_ms, self.begun_ms.unwrap_or(0)) else {
            return Due::Unfinished;
        };
        let message_ms = if self.begun_ms.is_some() { message_ms } else { u64::MAX };
        let look_ms = match timeouts.write_stall_ms {
            0 => u64::MAX,
            stall_ms => (stall_ms / LOOKS_PER_STALL).max(1),
        };
        let token_ms =
            self.token.map_or(u64::MAX, |token| token.warns_in_ms.unwrap_or(u64::MAX).min(token.ends_in_ms));
        let others_ms = look_ms.min(stall_ms).min(idle_ms).min(message_ms).min(token_ms);
        let life_max_ms = if self.is_pinged { timeouts.pong_ms } else { timeouts.ping_ms };
        match left(life_max_ms, self.life_ms) {
            Some(left_ms) => Due::Wait(left_ms.min(others_ms)),
            None if self.is_pinged => Due::Silent,
            None => Due::Ping(timeouts.pong_ms.min(others_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn timeouts(ping_ms: u64, pong_ms: u64, idle_ms: u64, write_stall_ms: u64) -> Timeouts {
        let message_ms = 500;
        Timeouts { ping_ms, pong_ms, idle_ms, message_ms, write_stall_ms, ..Config::default().timeouts }
    }

    fn since(life_ms: u64, is_pinged: bool, message_ms: u64, progress_ms: Option<u64>) -> Since {
        Since { life_ms, is_pinged, message_ms, begun_ms: None, progress_ms, token: None }
    }

    #[test]
    fn the_earliest_of_all_is_due() {
        let all = timeouts(100, 40, 300, 200);
        let off = timeouts(100, 40, 0, 0);
        for (timeouts, since, due) in [
            (&all, since(0, false, 0, None), Due::Wait(25)),
            (&all, since(80, false, 0, None), Due::Wait(20)),
            (&all, since(30, false, 0, Some(190)), Due::Wait(10)),
            (&all, since(30, false, 290, Some(0)), Due::Wait(10)),
            (&all, since(100, false, 0, None), Due::Ping(25)),
            (&all, since(100, false, 0, Some(190)), Due::Ping(10)),
            (&all, since(39, true, 0, None), Due::Wait(1)),
            (&all, since(40, true, 0, None), Due::Silent),
            // A peer that sends and takes nothing is stalled, however lively.
            (&all, since(0, false, 0, Some(200)), Due::Stalled),
            (&all, since(0, false, 300, None), Due::Idle),
            (&off, since(0, false, u64::MAX, Some(u64::MAX)), Due::Wait(100)),
            (&off, since(100, false, u64::MAX, Some(u64::MAX)), Due::Ping(40)),
        ] {
            assert_eq!(since.due(timeouts), due, "{since:?}");
        }
    }

    #[test]
    fn a_message_has_a_deadline_of_its_own_whatever_else_comes() {
        let all = timeouts(1_000, 40, 0, 0);
        let begun = |begun_ms| Since { begun_ms: Some(begun_ms), ..since(10, false, 0, None) };
        assert_eq!(begun(0).due(&all), Due::Wait(500));
        assert_eq!(begun(499).due(&all), Due::Wait(1));
        assert_eq!(begun(500).due(&all), Due::Unfinished);
        assert_eq!(begun(u64::MAX).due(&Timeouts { message_ms: 0, ..all }), Due::Wait(990));
    }

    #[test]
    fn a_token_that_ends_is_told_before_and_ends_whatever_else_is_due() {
        let all = timeouts(1_000, 40, 0, 0);
        let left = |ends_in_ms, warns_in_ms| Some(TokenLeft { ends_in_ms, warns_in_ms });
        for (token, is_pinged, due) in [
            (left(500, Some(100)), false, Due::Wait(100)),
            (left(500, None), false, Due::Wait(500)),
            (left(5_000, None), false, Due::Wait(990)),
            (left(500, Some(0)), false, Due::Expiring(500)),
            (left(500, Some(0)), true, Due::Expiring(500)),
            (left(0, Some(0)), false, Due::Expired),
            (left(0, None), true, Due::Expired),
        ] {
            let since = Since { life_ms: 10, is_pinged, token, ..Since::default() };
            assert_eq!(since.due(&all), due, "{since:?}");
        }
    }

    /// Whatever a send does after a look, the next one comes in time.
    #[test]
    fn no_look_lies_beyond_what_may_become_due() {
        let timeouts = timeouts(25_000, 10_000, 0, 1_000);
        assert_eq!(since(0, false, 0, None).due(&timeouts), Due::Wait(125));
    }
}
