//! Work: what a turn is bounded by, in fixed prices.
//!
//! Counting is not measuring: the same bytes cost the same on every machine and in every simulation, so that
//! a test can hold a turn to its bound exactly. Prices are in thousandths of a *unit*, which is about a
//! microsecond of the processor that they were measured on (a 2.1 GHz EPYC); `fanfare_turn_seconds` tells how
//! near they are on the machine at hand.

/// One unit.
pub const UNIT: u64 = 1_000;

/// What things cost, in thousandths of a unit. Each is measured with what the thing makes others do: a send's
/// is mostly the kernel's.
pub mod price {
    /// Taking a completion.
    pub const COMPLETION: u64 = 150;
    /// Accepting a connection: its slot, its address and its first receive.
    pub const ACCEPT: u64 = 8_000;
    /// Answering an upgrade request.
    pub const UPGRADE: u64 = 8_000;
    /// Looking at a static token: two digests of some 50 bytes.
    pub const CREDENTIAL: u64 = 1_000;
    /// A byte of a credential: its base64, and its JSON.
    pub const CREDENTIAL_BYTE: u64 = 10;
    /// Whether a secret made a signature, of 32 bytes and a message of a few hundred.
    pub const PROOF_HMAC: u64 = 2_000;
    /// Whether an RSA key of 2,048 bits did; one of twice as many takes four times as long.
    pub const PROOF_RSA: u64 = 24_000;
    /// Whether a key on P-256 did.
    pub const PROOF_P256: u64 = 70_000;
    /// On P-384.
    pub const PROOF_P384: u64 = 250_000;
    /// On the curve of Ed25519.
    pub const PROOF_ED25519: u64 = 45_000;
    /// The end of a connection: its slot, its deadline and its socket.
    pub const END: u64 = 8_000;
    /// Arming a receive, or taking one back.
    pub const RECEIVE: u64 = 800;
    /// A byte that came: it is unmasked, and may be copied.
    pub const RECEIVED_BYTE: u64 = 1;
    /// A byte that is overwritten where a credential may have been.
    pub const WIPED_BYTE: u64 = 1;
    /// A kibibyte that came and is kept for later as it is: it is copied.
    pub const KEPT_KIB: u64 = 120;
    /// A message or control frame, whatever is in it.
    pub const MESSAGE: u64 = 200;
    /// A byte of a message that is read as commands.
    pub const READ_BYTE: u64 = 2;
    /// A value of a message that is read as JSON.
    pub const READ_VALUE: u64 = 8;
    /// A byte that was inflated.
    pub const INFLATED_BYTE: u64 = 2;
    /// A deflate block, whatever comes out of it: between what `benches/deflate.rs` says of code tables of a single
    /// code and of full ones, which is a sixth of it to twice as much.
    pub const INFLATED_BLOCK: u64 = 2_500;
    /// A command, beside what it does.
    pub const COMMAND: u64 = 300;
    /// Giving a publication its place.
    pub const PUBLICATION: u64 = 400;
    /// Looking for a publication by its key, and remembering it. With warm caches it is a third of that where few are
    /// remembered, and three quarters where 65,536 are and the topic is as long as it may be.
    pub const KEY: u64 = 800;
    /// Forgetting one whose time is over.
    pub const FORGOTTEN_KEY: u64 = 300;
    /// A byte of a publication that is written to the log or carried to its home.
    pub const PUBLISHED_BYTE: u64 = 1;
    /// A byte that is compressed.
    pub const DEFLATED_BYTE: u64 = 20;
    /// Subscribing to something or taking that back, beside what follows from it.
    pub const SUBSCRIPTION: u64 = 800;
    /// A message from or to another reactor.
    pub const EXCHANGE: u64 = 200;
    /// A topic that comes into being at its home.
    pub const TOPIC: u64 = 1_000;
    /// Looking for where a page of the past begins, and what it takes to hand one over.
    pub const PAGE: u64 = 1_000;
    /// A span of it.
    pub const SPAN: u64 = 50;
    /// A view that comes into being, or goes.
    pub const VIEW: u64 = 800;
    /// A node of a home's tree of filters that is visited, or followed when a filter comes or goes: between what
    /// `benches/home.rs` says of warm caches and of cold ones, which is a quarter of it to three times as much.
    pub const NODE: u64 = 100;
    /// A filter that came or went at a home, held against a topic's name: likewise.
    pub const CHANGE: u64 = 200;
    /// A node of a fan-out's tree of filters, or a filter of its own, that a name is held against.
    pub const MATCH: u64 = 60;
    /// Of a filter that a name is held against by itself, so many levels are one more of these.
    pub const MATCH_LEVELS: usize = 4;
    /// A holder of a filter that is looked at.
    pub const HOLDER: u64 = 8;
    /// A membership that comes, goes or changes.
    pub const MEMBERSHIP: u64 = 150;
    /// A member that a cursor passes by.
    pub const VISIT: u64 = 10;
    /// A subscription that is judged; a topic that might go; a view, member or connection that a task looks at.
    pub const LOOK: u64 = 50;
    /// A deadline that has passed.
    pub const DEADLINE: u64 = 500;
    /// A send.
    pub const SEND: u64 = 2_300;
    /// A kibibyte that is sent.
    pub const SENT_KIB: u64 = 120;
}

/// What one turn has done so far, and how that is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    spent: u64,
}

impl Meter {
    /// Something of this price was done.
    #[inline]
    pub fn spend(&mut self, price: u64) {
        self.spent += price;
    }

    /// All that was done, in thousandths of a unit.
    #[inline]
    pub fn spent(&self) -> u64 {
        self.spent
    }
}
