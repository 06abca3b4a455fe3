//! How a turn's work is shared out: among what it does, and among connections.
//!
//! A turn ends near [`TURN`]. What comes in may take a part of it, what other reactors say another, and sends get
//! the rest and at least a part of their own; tasks and deadlines have theirs on top. Within what comes in, a
//! connection has [`FRESH`] at once. What it sent beyond waits in one of two queues, first come first served: where
//! that is little, in one that is served first, by [`LITTLE`], else with those who send much, by a [`QUANTUM`]. So
//! whoever sends little does not wait for those who send much, however many they are.
//!
//! All are thousandths of a unit: see [`crate::work`]. In simulations they are small, so that all of them are
//! reached.

use crate::work::{UNIT, price};

/// What a turn is to end near.
pub const TURN: u64 = if cfg!(test) { 40 * UNIT } else { 1_000 * UNIT };
/// For completions and what they bring, until the turn goes on with those who wait.
pub const INPUT: u64 = if cfg!(test) { 16 * UNIT } else { 400 * UNIT };
/// For those who wait, however much came in.
pub const RESUMED: u64 = if cfg!(test) { 6 * UNIT } else { 150 * UNIT };
/// For what other reactors say, requests and deliveries by turns.
pub const EXCHANGE: u64 = if cfg!(test) { 8 * UNIT } else { 200 * UNIT };
/// For pages of tours that this reactor asks its own home for; others ask for theirs as for everything else.
pub const TOURS: u64 = if cfg!(test) { 4 * UNIT } else { 100 * UNIT };
/// For sends, whatever was done before.
pub const SENDS: u64 = if cfg!(test) { 10 * UNIT } else { 300 * UNIT };
/// For sends of topics' pasts, whatever was done before, and however little.
pub const PASTS: u64 = if cfg!(test) { 6 * UNIT } else { 150 * UNIT };
/// For so many nanoseconds for each thousandth of a unit none of these go out then: turns come one after the other while
/// there is something to do, and what everybody missed would fill all of them, and every queue on the way. They take a fifth
/// or so of the time, since what their bytes cost is mostly what the kernel does with them further on.
pub const PASTS_PAUSE: u64 = 10;
/// For what goes on over turns.
pub const TASKS: u64 = if cfg!(test) { 2 * UNIT } else { 100 * UNIT };
/// For credentials that strangers bring, of which one may take more than anything else that they can ask for.
pub const GATE: u64 = if cfg!(test) { 2 * UNIT } else { 250 * UNIT };
/// For looking at connections again after what clients may do has changed.
pub const REVIEW: u64 = if cfg!(test) { 2 * UNIT } else { 100 * UNIT };
/// For deadlines that have passed, and for connections that are closed at the end.
pub const DEADLINES: u64 = if cfg!(test) { 20 * UNIT } else { 100 * UNIT };
/// The least that a slice of a long message counts for, whatever it finds there.
pub const SLICE: u64 = if cfg!(test) { UNIT } else { 20 * UNIT };
/// What one connection may do in a turn before it has to wait.
pub const FRESH: u64 = if cfg!(test) { 4 * UNIT } else { 50 * UNIT };
/// What it may where more came than the turn before could take: many who send much at once must not hold up those
/// who send little. It is its first message, or nothing where it sent more than [`LITTLE_BYTES`] at once.
pub const CROWDED: u64 = UNIT / 2;
/// Whoever does so much at once is flooding, however few bytes it took: a message is carried out as a whole, and may do
/// more than any share.
pub const HEAVY: u64 = if cfg!(test) { 12 * UNIT } else { 100 * UNIT };
/// What one that waits with little may do when it is its turn.
pub const LITTLE: u64 = if cfg!(test) { UNIT } else { 5 * UNIT };
/// So many bytes that wait are little.
pub const LITTLE_BYTES: usize = if cfg!(test) { 64 } else { 1 << 10 };
/// What one that waits may do when it is its turn: what a larger buffer holds of small publications, so that they go out as
/// some seventy messages a send, which costs a quarter less each than thirty.
pub const QUANTUM: u64 = if cfg!(test) { 2 * UNIT } else { 160 * UNIT };
/// Whoever did less when it was its turn is calm again.
pub const CALM: u64 = if cfg!(test) { UNIT } else { 25 * UNIT };

/// The most sends that a turn submits.
pub const SENDS_MAX: usize = if cfg!(test) { 5 } else { 256 };
/// The most bytes that a turn submits; one frame may be longer than what is left.
pub const SENT_BYTES_MAX: u32 = if cfg!(test) { 8 << 10 } else { 4 << 20 };

/// How much a connection has done in the turn in which it last did anything, and what else is held against it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// The turn, wrapping: one of 256 turns later is taken for the same, and gives too little, once.
    turn: u8,
    /// In units, saturating.
    spent: u8,
    /// Much that it sent had to wait, or was [`HEAVY`]: it gets one buffer at a time, a larger one, in its turn, until it is
    /// calm.
    pub is_flooding: bool,
    /// There was no buffer for what it sent: it gets one of the smaller for its next, and as it likes after that.
    pub is_starved: bool,
    /// What it has under way, in kibibytes: kept by [`super::buffered`].
    pub buffered_kib: u16,
}

/// What a turn may still send.
#[derive(Clone, Copy, Debug)]
pub struct SendBudget {
    sends: usize,
    bytes: u32,
    price: u64,
}

// Every connection has one.
const _: () = assert!(size_of::<Share>() <= 6);

impl Share {
    /// What the connection may do in the turn with number `turn`, of `share`, in thousandths of a unit.
    pub fn left(self, turn: u64, share: u64) -> u64 {
        if self.is_flooding {
            return 0;
        }
        let spent = if self.turn == turn as u8 { u64::from(self.spent) * UNIT } else { 0 };
        share.saturating_sub(spent)
    }

    /// It did work for `price` in that turn.
    pub fn spend(&mut self, turn: u64, price: u64) {
        if self.turn != turn as u8 {
            (self.turn, self.spent) = (turn as u8, 0);
        }
        self.spent = self.spent.saturating_add(price.div_ceil(UNIT).min(255) as u8);
    }
}

impl SendBudget {
    /// Of a turn that has done work for `spent`.
    pub fn new(spent: u64) -> SendBudget {
        SendBudget { sends: SENDS_MAX, bytes: SENT_BYTES_MAX, price: TURN.saturating_sub(spent).max(SENDS) }
    }

    /// Of the same turn, for topics' pasts.
    pub fn of_pasts() -> SendBudget {
        SendBudget { sends: SENDS_MAX, bytes: SENT_BYTES_MAX, price: PASTS }
    }

    /// Half of it: what one class of sends leaves to another that has something to send.
    pub fn half(self) -> SendBudget {
        SendBudget { sends: self.sends / 2, bytes: self.bytes / 2, price: self.price / 2 }
    }

    /// None: nobody else has anything to send.
    pub fn none() -> SendBudget {
        SendBudget { sends: 0, bytes: 0, price: 0 }
    }

    /// A send of so many bytes; tells its price.
    pub fn spend(&mut self, bytes: u32) -> u64 {
        let price = price::SEND + u64::from(bytes) * price::SENT_KIB / 1_024;
        self.sends = self.sends.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.price = self.price.saturating_sub(price);
        price
    }

    /// Members were passed by for this price.
    pub fn pass_by(&mut self, price: u64) {
        self.price = self.price.saturating_sub(price);
    }

    /// How many sends are left.
    pub fn sends(self) -> usize {
        self.sends
    }

    /// How many bytes are left.
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// How many members may be passed by: at least one, so that a cursor gets on.
    pub fn visits(self) -> u32 {
        (self.price / price::VISIT).clamp(1, 1 << 16) as u32
    }

    /// Whether no more is left than is `kept` for others.
    pub fn is_spent(self, kept: SendBudget) -> bool {
        self.sends <= kept.sends || self.bytes <= kept.bytes || self.price <= kept.price
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_leaves_half_leaves_half_of_each() {
        let mut budget = SendBudget::new(0);
        let kept = budget.half();
        while !budget.is_spent(kept) {
            budget.spend(1);
        }
        assert!(budget.sends() >= kept.sends() && budget.bytes() >= kept.bytes());
        assert!(!budget.is_spent(SendBudget::none()));
        let mut budget = SendBudget::new(0);
        budget.spend(SENT_BYTES_MAX / 2 + 1);
        assert!(budget.is_spent(budget.half().max_bytes()), "bytes are shared out like sends");
    }

    #[test]
    fn a_share_is_of_one_turn() {
        let mut share = Share::default();
        share.spend(7, FRESH - UNIT);
        assert_eq!(share.left(7, FRESH), UNIT);
        share.spend(7, UNIT / 2);
        assert_eq!(share.left(7, FRESH), 0);
        share.spend(7, 1_000 * TURN);
        assert_eq!((share.left(7, FRESH), share.left(8, FRESH)), (0, FRESH));
        share.is_flooding = true;
        assert_eq!(share.left(8, FRESH), 0);
    }

    #[test]
    fn sends_have_a_part_of_every_turn() {
        let mut budget = SendBudget::new(10 * TURN);
        assert!(!budget.is_spent(SendBudget::none()));
        budget.pass_by(SENDS);
        assert!(budget.is_spent(SendBudget::none()));
        assert_eq!(budget.visits(), 1);
    }

    impl SendBudget {
        fn max_bytes(self) -> SendBudget {
            SendBudget { bytes: SENT_BYTES_MAX / 2, ..self }
        }
    }
}
