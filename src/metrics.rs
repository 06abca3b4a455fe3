//! What a reactor counts, as plain numbers: written by one thread, copied out when asked.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    access::{Refused, grants::Action},
    protocol::close::CloseReason,
    pubsub::policy::Bound,
};

/// So many counts, for tables that are longer than the standard library makes by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const COUNT: usize>(pub [u64; COUNT]);

impl<const COUNT: usize> Default for Counts<COUNT> {
    fn default() -> Self {
        Counts([0; COUNT])
    }
}

impl<const COUNT: usize> Deref for Counts<COUNT> {
    type Target = [u64; COUNT];

    fn deref(&self) -> &[u64; COUNT] {
        &self.0
    }
}

impl<const COUNT: usize> DerefMut for Counts<COUNT> {
    fn deref_mut(&mut self) -> &mut [u64; COUNT] {
        &mut self.0
    }
}

/// One reactor's counters and gauges at one moment.
#[derive(Clone, Debug, Default)]
pub struct ReactorStats {
    /// Connections that are open now, upgrades under way included.
    pub connections: u64,
    /// Connections that have not completed their upgrade.
    pub upgrading: u64,
    /// Connections that have completed an upgrade since the start.
    pub upgrades_total: u64,
    /// Connections accepted since the start.
    pub accepts_total: u64,
    /// Turns since the start.
    pub turns_total: u64,
    /// The work of all turns since the start, in units: see [`crate::work`].
    pub turn_work_total: u64,
    /// How long turns took.
    pub turn_ns: TurnTimes,
    /// Completions reaped since the start.
    pub completions_total: u64,
    /// Sends submitted since the start.
    pub sends_total: u64,
    /// Bytes whose send has completed.
    pub sent_bytes_total: u64,
    /// Bytes received.
    pub received_bytes_total: u64,
    /// Commands carried out or refused.
    pub commands_total: u64,
    /// Commands refused.
    pub command_errors_total: u64,
    /// Publishes refused since their user publishes more than it may.
    pub rate_limited_total: u64,
    /// Publications that this reactor sequenced as a home.
    pub publications_total: u64,
    /// Messages that this reactor compressed.
    pub deflated_total: u64,
    /// Bytes that it looked at for that, those of messages that did not shrink included.
    pub deflate_in_bytes_total: u64,
    /// What became of those bytes.
    pub deflate_out_bytes_total: u64,
    /// Compressed messages that clients sent.
    pub inflated_total: u64,
    /// Their bytes, inflated.
    pub inflated_bytes_total: u64,
    /// Deliveries queued to the kernel.
    pub deliveries_total: u64,
    /// Deliveries that a policy skipped and a gap told.
    pub skipped_total: u64,
    /// Topics whose home is here.
    pub topics: u64,
    /// Subscriptions of this reactor's connections, filters included.
    pub subscriptions: u64,
    /// Subscribers that are behind now.
    pub behind: u64,
    /// How far the furthest of them is behind, in bytes.
    pub behind_bytes_max: u64,
    /// Bytes of live log chunks allocated by this home.
    pub log_bytes: u64,
    /// Publications that this home remembers by their keys.
    pub keys: u64,
    /// For how long it does, in milliseconds, where nothing else is said of a topic.
    pub key_window_ms: u64,
    /// Publications that this home knew already by their keys.
    pub duplicates_total: u64,
    /// Bytes of what topics of this home keep of their past.
    pub kept_bytes: u64,
    /// Topics of this home that keep something of their past, or would.
    pub keeping: u64,
    /// Topics of this home that have a value.
    pub values: u64,
    /// Replays of topics' pasts that are under way.
    pub replays: u64,
    /// Publications of topics' pasts that were handed over to connections.
    pub replayed_total: u64,
    /// Bytes of these.
    pub replayed_bytes_total: u64,
    /// Bytes that came of transcoding what is kept.
    pub transcoded_bytes_total: u64,
    /// Subscribes with `since`: of those to whom something is missing, and of the others.
    pub resumes_total: [u64; 2],
    /// Gaps told, by [`GapReason::index`].
    pub gaps_total: [u64; GapReason::COUNT],
    /// Bytes that this reactor's connections have under way: unfinished messages, what waits to be taken, replies.
    pub buffered_bytes: u64,
    /// Connections that are to be looked at again since what clients may do has changed.
    pub reviews: u64,
    /// Publishers that are paused now.
    pub paused: u64,
    /// Times that a publisher was paused.
    pub pauses_total: u64,
    /// Times that the kernel had no receive buffer left.
    pub no_buffers_total: u64,
    /// Times that accepting stopped for want of descriptors.
    pub no_descriptors_total: u64,
    /// The pacing in force, in microseconds between two sweeps of a topic.
    pub pacing_us: u64,
    /// Times that a slow consumer was moved forward for being beyond a bound, by [`Bound::index`].
    pub slow_skips_total: [u64; Bound::COUNT],
    /// Connections closed for being beyond a bound, by [`Bound::index`].
    pub slow_disconnects_total: [u64; Bound::COUNT],
    /// Credentials that were not accepted, by [`Refused::index`].
    pub credentials_refused_total: [u64; Refused::COUNT],
    /// Commands that were not allowed, by the index of their [`Action`].
    pub forbidden_total: [u64; Action::COUNT],
    /// Connections ended, by [`CloseReason::index`].
    pub closes_total: Counts<{ CloseReason::COUNT }>,
}

/// Why a subscriber does not get something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// It was too far behind.
    SlowConsumer,
    /// It was not kept long enough to be replayed.
    Retention,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [GapReason; GapReason::COUNT] = [GapReason::SlowConsumer, GapReason::Retention];
    /// How many there are.
    pub const COUNT: usize = 2;

    /// Its place in [`GapReason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::SlowConsumer => "slow_consumer",
            GapReason::Retention => "retention",
        }
    }
}

/// How long turns took, counted by classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnTimes {
    counts: [u64; TurnTimes::BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl TurnTimes {
    /// The upper bounds of the classes but the last, which has none, in microseconds.
    pub const BOUNDS_US: [u64; 13] =
        [20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

    /// A turn took so long.
    #[inline]
    pub fn observe(&mut self, ns: u64) {
        let class = TurnTimes::BOUNDS_US.iter().position(|bound_us| ns <= bound_us * 1_000);
        self.counts[class.unwrap_or(TurnTimes::BOUNDS_US.len())] += 1;
        self.sum_ns += ns;
    }

    /// How many turns there were in each class.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How long all of them took, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }
}

/// What is worth a line in the log, however often it happens: reactors count it, the control thread says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// Accepting stopped for want of descriptors.
    NoDescriptors,
    /// A connection beyond `limits.connections_max`.
    ConnectionsMax,
    /// A connection beyond what the limit of descriptors allows, which is less.
    DescriptorsMax,
    /// A connection beyond `limits.connections_per_address_max`.
    AddressMax,
    /// A connection that was upgrading made room for another.
    UpgradingMax,
    /// Accepting stopped for `limits.accepts_per_s_max`.
    AcceptRate,
    /// A connection beyond `limits.commands_per_s_max`.
    CommandRate,
    /// A connection beyond what its user or its tenant may have.
    QuotaConnections,
    /// A publish beyond what its user or its tenant may.
    QuotaRate,
    /// A connection that takes too little.
    SlowConsumer,
    /// Connections have more under way than `limits.buffered_bytes_max`.
    BufferedBytes,
    /// A page of an origin that may not open connections.
    OriginRefused,
    /// A request with a name by which the broker is not reached.
    HostRefused,
    /// A token that was not accepted.
    CredentialRefused,
    /// A connection from where nobody may come.
    Denied,
    /// An address was banned.
    Banned,
    /// A connection of a trusted proxy without the header that it must begin with.
    ProxyHeader,
    /// An upgrade beyond `limits.upgrades_per_s_per_address_max`.
    UpgradeRate,
}

impl Trouble {
    /// Every trouble, in order of its index.
    pub const ALL: [Trouble; 18] = [
        Trouble::NoDescriptors,
        Trouble::ConnectionsMax,
        Trouble::DescriptorsMax,
        Trouble::AddressMax,
        Trouble::UpgradingMax,
        Trouble::AcceptRate,
        Trouble::CommandRate,
        Trouble::QuotaConnections,
        Trouble::QuotaRate,
        Trouble::SlowConsumer,
        Trouble::BufferedBytes,
        Trouble::OriginRefused,
        Trouble::HostRefused,
        Trouble::CredentialRefused,
        Trouble::Denied,
        Trouble::Banned,
        Trouble::ProxyHeader,
        Trouble::UpgradeRate,
    ];

    /// What happened and what may be done, for the operator.
    pub fn sentence(self) -> &'static str {
        match self {
            Trouble::NoDescriptors => {
                "accepting stops for want of file descriptors and goes on as they come free: raise LimitNOFILE"
            }
            Trouble::ConnectionsMax => "connections are refused with 503: limits.connections_max is reached",
            Trouble::DescriptorsMax => {
                "connections are refused with 503: file descriptors allow no more: raise LimitNOFILE"
            }
            Trouble::AddressMax => {
                "connections are refused with 429: an address has limits.connections_per_address_max"
            }
            Trouble::UpgradingMax => {
                "connections that do not complete their upgrade make room: limits.upgrading_max is reached"
            }
            Trouble::AcceptRate => "accepting waits: limits.accepts_per_s_max is reached",
            Trouble::CommandRate => {
                "connections are closed with 4029: they give more than limits.commands_per_s_max"
            }
            Trouble::QuotaConnections => {
                "connections are closed with 4029: a user has limits.connections_per_user_max, or a tenant its connections_max"
            }
            Trouble::QuotaRate => "publishes are refused: a user, or a tenant, publishes more than it may",
            Trouble::SlowConsumer => "connections are closed with 4000: they take too little",
            Trouble::BufferedBytes => {
                "connections with much under way are not read from, and closed with 1013: limits.buffered_bytes_max"
            }
            Trouble::OriginRefused => {
                "pages are refused with 403: neither are they of the Host that they ask for, nor in listen.origins"
            }
            Trouble::CredentialRefused => {
                "tokens are not accepted: fanfare_credentials_refused_total says why"
            }
            Trouble::Denied => {
                "connections are refused: their addresses are in access.deny, or not in access.allow"
            }
            Trouble::Banned => {
                "addresses are banned for access.ban_s: a proxy's has to be in proxy.trusted, so that its clients' count"
            }
            Trouble::ProxyHeader => {
                "connections from proxy.trusted are closed: they do not begin with a PROXY header of version 2"
            }
            Trouble::UpgradeRate => {
                "upgrades are refused with 429: an address has more than limits.upgrades_per_s_per_address_max"
            }
            Trouble::HostRefused => "requests are refused with 421: their Host is not in listen.hosts",
        }
    }
}

/// How often each trouble happened since the start, over all reactors.
#[derive(Debug, Default)]
pub struct Troubles {
    counts: [AtomicU64; Trouble::ALL.len()],
}

impl Troubles {
    /// It happened.
    pub fn note(&self, trouble: Trouble) {
        self.counts[trouble as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often it happened.
    pub fn count(&self, trouble: Trouble) -> u64 {
        self.counts[trouble as usize].load(Ordering::Relaxed)
    }
}
