//! The broker's configuration, whole and checked: flags over environment over TOML over defaults.
//!
//! Each key is described once, in the table of `keys`: its name, what it means, what it may be and
//! which field it sets. Reading TOML, the environment and flags ([`load`]), the commented default file
//! ([`document`]) and every error text are derived from it.

mod address;
pub mod document;
mod issuers;
mod keys;
pub mod load;
mod networks;
pub mod reload;
mod roles;
mod table;
mod tenants;
mod together;
mod topic;

use std::{net::SocketAddr, path::PathBuf};

use crate::protocol::{
    Format, json,
    publication::{LastValue, Stamps},
};
pub use address::ListenAddress;
pub use issuers::{Issuer, jwks_url};
pub use load::{admin_reachable, reachable};
pub use networks::Networks;
pub use roles::RolePolicy;
pub use tenants::TenantPolicy;

/// Everything that can be set. [`Config::default`] is what runs without a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[auth]`
    pub auth: Auth,
    /// `[roles]`, in the order of their names.
    pub roles: Vec<RolePolicy>,
    /// `[tenants]`, in the order of their names.
    pub tenants: Vec<TenantPolicy>,
    /// `[access]`
    pub access: AccessLists,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[reactor]`
    pub reactor: Reactor,
    /// `[admin]`
    pub admin: Admin,
    /// `[control]`
    pub control: Control,
    /// `[limits]`
    pub limits: Limits,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[publish]`
    pub publish: Publish,
    /// `[history]`
    pub history: History,
    /// `[[topic]]`: what holds for the topics that a filter matches in place of `[delivery]`, and what they keep. Of the
    /// entries that match one, the most specific that sets a key decides it.
    pub topic: Vec<TopicPolicy>,
    /// `[deflate]`
    pub deflate: Deflate,
    /// `[log]`
    pub log: Log,
}

/// `[listen]`: where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// `127.0.0.1:7600`.
    pub address: ListenAddress,
    /// The permission bits of a Unix socket's file; 0o660.
    pub mode: u32,
    /// The accept queue of each reactor's listener; 4,096.
    pub backlog: u32,
    /// A hard cap of the kernel's send buffer per socket, in bytes; 0 leaves it to the kernel.
    pub sndbuf_bytes: u32,
    /// Serve `/echo`, which sends every message back; off.
    pub echo: bool,
    /// The names that a request's `Host` may have; none are those of this machine where only this machine reaches the
    /// broker, else all.
    pub hosts: Vec<String>,
    /// Which pages, beside the broker's own, may open connections.
    pub origins: Vec<String>,
    /// Whoever reaches the broker may publish and subscribe, and others than this machine may reach it.
    pub insecure: bool,
}

/// `[auth]`: who clients are, and how they prove it. Without a file of tokens, issuers, and anonymous roles nobody is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// The static tokens, by their digests.
    pub tokens_file: Option<PathBuf>,
    /// Where revocations are kept; none keeps them in memory alone.
    pub revocations_file: Option<PathBuf>,
    /// Whose signed tokens are taken.
    pub issuers: Vec<Issuer>,
    /// How soon keys are fetched again that a token names and that are not there, in seconds; 30.
    pub jwks_refetch_s_min: u64,
    /// How long keys are used that cannot be fetched again, in seconds; 86,400.
    pub jwks_stale_s_max: u64,
    /// How far clocks may be apart, in seconds; 10.
    pub leeway_s: u64,
    /// The roles of those who bring no credential; with none of them nobody is let in without.
    pub anonymous_roles: Vec<String>,
    /// The name of a cookie that may hold a token.
    pub cookie: String,
    /// How long a client may take to say who it is, in milliseconds; 5,000.
    pub deadline_ms: u64,
    /// How long one waits for its answer whose credential is not accepted, in milliseconds, and up to as much longer; 500.
    pub failure_delay_ms: u64,
}

impl Auth {
    /// Whether clients are asked who they are, and may do what is granted alone.
    pub fn is_on(&self) -> bool {
        self.tokens_file.is_some() || !self.issuers.is_empty() || !self.anonymous_roles.is_empty()
    }
}

impl Config {
    /// Whether whoever reaches the broker may do everything, and others than this machine may reach it.
    pub fn is_insecure(&self) -> bool {
        self.listen.insecure && !self.auth.is_on()
    }
}

/// `[access]`: from where clients may come.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLists {
    /// Whoever comes from elsewhere is not let in; with none from everywhere.
    pub allow: Networks,
    /// Whoever comes from here is not let in.
    pub deny: Networks,
    /// Whose address did so often within a minute what is held against it is banned; 20, 0 is never.
    pub ban_failures: u32,
    /// For so long, in seconds; 300.
    pub ban_s: u64,
}

/// `[proxy]`: whose word about where clients come from counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// From which addresses proxies connect, and whether at a Unix socket.
    pub trusted: Networks,
    /// What a connection of theirs begins with.
    pub protocol: ProxyProtocol,
    /// Which header of a request of theirs says whose it is.
    pub header: ForwardedHeader,
}

/// What the connections of trusted proxies begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// `"none"`: a request.
    None,
    /// `"v2"`: a header of the PROXY protocol, version 2.
    V2,
}

/// Which header of a trusted proxy's requests says whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `"none"`.
    None,
    /// `"x-forwarded-for"`.
    XForwardedFor,
}

/// `[reactor]`
#[derive(Clone, Debug, PartialEq)]
pub struct Reactor {
    /// How many; 0 is one per core that the process may run on, or as many as its CPU quota gives. At most 64.
    pub count: usize,
    /// Pin each to one core of those that the process may run on.
    pub pin: bool,
    /// Receive buffers per reactor: a power of two from 16 to 32,768; 4,096.
    pub buffer_count: u16,
    /// The size of each, in bytes, from 1,024 to 65,536; 2,048.
    pub buffer_bytes: u32,
    /// Requests, and deliveries, that may be in the queues to each, from all others together; 16,384.
    pub queue_entries: usize,
    /// The least time between two sweeps of a topic, in microseconds; `None` (`"auto"`) adapts it, 0
    /// while the core has idle time, up to 10,000 when it has none.
    pub max_delay_us: Option<u32>,
    /// For how long each looks again, with nothing to do, before it sleeps, in microseconds, up to 10,000; 0.
    pub spin_us: u32,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `127.0.0.1:7601`; `None` (`""`) turns the admin listener off.
    pub address: Option<SocketAddr>,
    /// As [`Listen::hosts`].
    pub hosts: Vec<String>,
    /// The tokens of operators, by their digests; without them nothing can be changed there.
    pub tokens_file: Option<PathBuf>,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Where a successor asks for the listeners; `None` (`""`) is nowhere.
    pub socket: Option<PathBuf>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections of all reactors together; 0 takes what the descriptor limit allows.
    pub connections_max: usize,
    /// Connections from one IPv4 address or one IPv6 /64; 0 is without a limit.
    pub connections_per_address_max: usize,
    /// Upgrades per second from one such; 0 is without a limit.
    pub upgrades_per_s_per_address_max: u32,
    /// Connections of one user; 0 is without a limit.
    pub connections_per_user_max: u32,
    /// Publications per second of one user; 0 is without a limit.
    pub publishes_per_s_per_user_max: u64,
    /// Bytes per second that one user publishes; 0 is without a limit.
    pub bytes_per_s_per_user_max: u64,
    /// Connections that have not completed their upgrade, of all reactors together; 8,192.
    pub upgrading_max: usize,
    /// Connections accepted per second, by all reactors together; 0 is without a limit.
    pub accepts_per_s_max: u32,
    /// The longest upgrade request; 8,192 bytes.
    pub header_bytes_max: usize,
    /// The longest message; 1,048,576 bytes.
    pub message_bytes_max: usize,
    /// The longest frame of a message; 0 is as the message.
    pub frame_bytes_max: usize,
    /// How deep JSON that is published may be nested; 63 levels.
    pub json_depth_max: usize,
    /// Subscriptions per connection, topics and filters together; 1,024.
    pub subscriptions_max: usize,
    /// Filters with wildcards per connection; 1,024.
    pub filters_max: usize,
    /// Levels of a connection's filters together; 8,192.
    pub filter_levels_max: usize,
    /// Levels of one filter that has a `+`; 10.
    pub plus_levels_max: usize,
    /// Topics of each home that one connection has brought into being; 0 is without a limit.
    pub names_per_connection_max: usize,
    /// What clients have under way of all connections together; 256 MiB.
    pub buffered_bytes_max: usize,
    /// Commands per second of a connection; 0 is without a limit.
    pub commands_per_s_max: u32,
    /// How many commands beyond that rate may come at once; 1,024.
    pub commands_burst_max: u32,
    /// Topics that one home keeps; idle ones are evicted beyond it; 262,144.
    pub topics_max: usize,
    /// Publications that one home remembers by their keys; 65,536.
    pub keys_max: usize,
    /// Of how many keys a topic keeps a value; 65,536.
    pub value_keys_max: usize,
    /// Live log chunks of all homes together; 1 GiB.
    pub log_bytes_max: usize,
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From accept to a complete upgrade request; 10,000 ms.
    pub handshake_ms: u64,
    /// The broker pings a connection that was silent for so long; 25,000 ms.
    pub ping_ms: u64,
    /// After the ping: without a byte received or a send's progress for so long, 4008; 10,000 ms.
    pub pong_ms: u64,
    /// Without a message either way for so long: 4008; 0 is never.
    pub idle_ms: u64,
    /// From the first bytes of a message that do not hold all of it to its last: 4008; 120,000 ms, 0 is never.
    pub message_ms: u64,
    /// A send in flight without progress for so long: 4000; 30,000 ms, 0 is never.
    pub write_stall_ms: u64,
    /// From our close frame to the peer's; 5,000 ms.
    pub close_ms: u64,
    /// From SIGTERM to the exit at the latest; 10,000 ms.
    pub drain_ms: u64,
    /// From a takeover to the end of the last connection at the latest; 2,000 ms.
    pub takeover_ms: u64,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What becomes of a subscriber that is owed more than `owed_bytes_max`.
    pub slow_consumer: SlowConsumer,
    /// How much a connection may be owed, all topics together; 8 MiB.
    pub owed_bytes_max: usize,
    /// How old the oldest publication that a connection is owed may be; 30,000 ms, 0 for any age.
    pub owed_ms_max: u32,
}

/// `[publish]`
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// For how long a publication that has a key is not published again; 120,000 ms, 0 where keys are not remembered.
    pub key_window_ms: u32,
}

/// `[history]`
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// What all topics together keep of their past; 256 MiB.
    pub bytes_max: usize,
}

/// One entry of `[[topic]]`. What is none comes from a less specific one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicPolicy {
    /// Which topics.
    pub filter: String,
    /// What becomes of their slow consumers.
    pub slow_consumer: Option<SlowConsumer>,
    /// How much a connection may be owed of each of them.
    pub owed_bytes_max: Option<usize>,
    /// As `delivery.owed_ms_max`.
    pub owed_ms_max: Option<u32>,
    /// As `publish.key_window_ms`.
    pub key_window_ms: Option<u32>,
    /// How many publications each of them keeps at most; with 0 none, whatever is said of bytes and age.
    pub history_count: Option<u64>,
    /// How much each of them keeps, in bytes.
    pub history_bytes: Option<u64>,
    /// How old what each of them keeps may be.
    pub history_ms: Option<u32>,
    /// In which form.
    pub history_format: Option<Format>,
    /// What is written into their messages.
    pub stamp: Option<Stamps>,
    /// Whether whoever has no name may publish to them.
    pub anonymous: Option<bool>,
    /// Whether the newest publication of each of them is its value, or of each key, which new subscribers are sent first.
    pub last_value: Option<LastValue>,
    /// Who may say which publication is a topic's value, where that is not the newest.
    pub retain: Option<Retain>,
}

/// Who may say which publication is a topic's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// `"clients"`: whoever publishes to it.
    Clients,
    /// `"nobody"`.
    Nobody,
}

/// What becomes of a subscriber that is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// `"disconnect"`: closed with 4000.
    Disconnect,
    /// `"skip"`: moved forward, and told with a `gap`.
    Skip,
}

/// `[deflate]`: permessage-deflate (RFC 7692).
#[derive(Clone, Debug, PartialEq)]
pub struct Deflate {
    /// Negotiate it with clients that offer it; off.
    pub enabled: bool,
    /// zlib's level, 1 to 9; 2.
    pub level: u8,
    /// Shorter messages are not compressed; 512 bytes.
    pub bytes_min: usize,
    /// The window in which messages are compressed, in bits, from 9 to 15; 15.
    pub window_bits: u8,
    /// How many times its compressed length a client's message may be, beyond 64 KiB; 100.
    pub ratio_max: u32,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A level or a `tracing` filter; `info`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Listen {
                address: ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 7600))),
                mode: 0o660,
                backlog: 4_096,
                sndbuf_bytes: 0,
                echo: false,
                hosts: Vec::new(),
                origins: Vec::new(),
                insecure: false,
            },
            auth: Auth {
                tokens_file: None,
                revocations_file: None,
                issuers: Vec::new(),
                jwks_refetch_s_min: 30,
                jwks_stale_s_max: 86_400,
                leeway_s: 10,
                anonymous_roles: Vec::new(),
                cookie: String::new(),
                deadline_ms: 5_000,
                failure_delay_ms: 500,
            },
            roles: Vec::new(),
            tenants: Vec::new(),
            access: AccessLists {
                allow: Networks::default(),
                deny: Networks::default(),
                ban_failures: 20,
                ban_s: 300,
            },
            proxy: Proxy {
                trusted: Networks::default(),
                protocol: ProxyProtocol::None,
                header: ForwardedHeader::None,
            },
            reactor: Reactor {
                count: 0,
                pin: true,
                buffer_count: 4_096,
                buffer_bytes: 2_048,
                queue_entries: 16_384,
                max_delay_us: None,
                spin_us: 0,
            },
            admin: Admin {
                address: Some(SocketAddr::from(([127, 0, 0, 1], 7601))),
                hosts: Vec::new(),
                tokens_file: None,
            },
            control: Control { socket: None },
            limits: Limits {
                connections_max: 0,
                connections_per_address_max: 0,
                upgrades_per_s_per_address_max: 0,
                connections_per_user_max: 0,
                publishes_per_s_per_user_max: 0,
                bytes_per_s_per_user_max: 0,
                upgrading_max: 8_192,
                accepts_per_s_max: 0,
                header_bytes_max: 8_192,
                message_bytes_max: 1_048_576,
                frame_bytes_max: 0,
                json_depth_max: json::DEPTH_MAX_DEFAULT,
                subscriptions_max: 1_024,
                filters_max: 1_024,
                filter_levels_max: 8_192,
                plus_levels_max: 10,
                names_per_connection_max: 0,
                buffered_bytes_max: 256 << 20,
                commands_per_s_max: 0,
                commands_burst_max: 1_024,
                topics_max: 262_144,
                keys_max: 65_536,
                value_keys_max: 65_536,
                log_bytes_max: 1 << 30,
            },
            timeouts: Timeouts {
                handshake_ms: 10_000,
                ping_ms: 25_000,
                pong_ms: 10_000,
                idle_ms: 0,
                message_ms: 120_000,
                write_stall_ms: 30_000,
                close_ms: 5_000,
                drain_ms: 10_000,
                takeover_ms: 2_000,
            },
            delivery: Delivery {
                slow_consumer: SlowConsumer::Disconnect,
                owed_bytes_max: 8 << 20,
                owed_ms_max: 30_000,
            },
            publish: Publish { key_window_ms: 120_000 },
            history: History { bytes_max: 256 << 20 },
            topic: Vec::new(),
            deflate: Deflate { enabled: false, level: 2, bytes_min: 512, window_bits: 15, ratio_max: 100 },
            log: Log { level: "info".into(), json: false },
        }
    }
}
