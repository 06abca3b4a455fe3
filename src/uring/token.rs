//! What an op's `user_data` says: whose it is, and which life of that slot.

/// The kind of op that a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Multishot accept; the slot is the listener's index.
    Accept = 1,
    /// A receive of a connection, multishot or single.
    Receive = 2,
    /// A connection's one send.
    Send = 3,
    /// A cancellation; its result is ignored.
    Cancel = 4,
    /// Another thread woke us; nothing else to know.
    Wake = 5,
    /// Our own wake of another ring came through or failed; the slot is its index.
    WakeSent = 6,
    /// An op of the load test: connecting.
    Connect = 7,
    /// A single receive into one of the larger buffers.
    ReceiveLarge = 8,
}

/// Kind, slot and generation in one `u64`: `op << 56 | generation << 32 | slot`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// Generations wrap at this: 24 bits.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    /// A token for `op` on the `generation`th life of `slot`; only the generation's low 24 bits count.
    pub fn new(op: Op, slot: u32, generation: u32) -> Token {
        Token((op as u64) << 56 | ((generation & GENERATION_MASK) as u64) << 32 | slot as u64)
    }

    /// The token that a completion carries.
    ///
    /// # Panics
    /// If no op has this kind: only we write `user_data`, so that would be our bug.
    pub fn from_user_data(user_data: u64) -> Token {
        let token = Token(user_data);
        let _ = token.op();
        token
    }

    /// The `user_data` to submit.
    pub fn user_data(self) -> u64 {
        self.0
    }

    /// The kind.
    pub fn op(self) -> Op {
        match self.0 >> 56 {
            1 => Op::Accept,
            2 => Op::Receive,
            3 => Op::Send,
            4 => Op::Cancel,
            5 => Op::Wake,
            6 => Op::WakeSent,
            7 => Op::Connect,
            8 => Op::ReceiveLarge,
            kind => panic!("user_data {:#x} has the unknown op kind {kind}", self.0),
        }
    }

    /// The slot.
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The generation, 24 bits.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MASK
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}#{}.{}", self.op(), self.slot(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_kind_slot_and_generation_apart() {
        let ops = [
            Op::Accept,
            Op::Receive,
            Op::Send,
            Op::Cancel,
            Op::Wake,
            Op::WakeSent,
            Op::Connect,
            Op::ReceiveLarge,
        ];
        for op in ops {
            for slot in [0, 1, u32::MAX] {
                for generation in [0, 1, GENERATION_MASK] {
                    let token = Token::from_user_data(Token::new(op, slot, generation).user_data());
                    assert_eq!((token.op(), token.slot(), token.generation()), (op, slot, generation));
                }
            }
        }
    }

    #[test]
    fn a_generation_wraps_at_24_bits() {
        assert_eq!(Token::new(Op::Send, 0, GENERATION_MASK + 1).generation(), 0);
    }
}
