//! Every key of the configuration, described once.

use std::{
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    path::PathBuf,
    sync::Arc,
};

use toml::{Spanned, de::DeValue};
use tracing_subscriber::EnvFilter;

use super::{
    Config, ForwardedHeader, ListenAddress, Networks, ProxyProtocol, Retain, SlowConsumer, TopicPolicy,
    address::{PATH_BYTES_MAX, is_socket_path},
    issuers::{self, Issuer},
    networks::NETWORKS_MAX,
    roles::{self, RolePolicy},
    tenants::{self, TenantPolicy},
    topic,
};
use crate::access::pattern;
use crate::protocol::{
    Format,
    json::{POINTER_BYTES_MAX, Pointer},
    publication::{LastValue, Stamps},
    site::{HostPattern, OriginPattern},
    topic::Filter,
};

/// The sections in the order of the default file, each with what it is about.
pub(super) const SECTIONS: [(&str, &str); 14] = [
    ("listen", "Where clients connect."),
    (
        "auth",
        "Who clients are. With a file of tokens or roles for anybody, they may do what [roles] grants, and nothing else.",
    ),
    (
        "access",
        "From where clients may come. What is judged is the client's address, also where a trusted proxy passes it on.",
    ),
    (
        "proxy",
        "Whose word about where clients come from counts: that of proxies which clients cannot pretend to be.",
    ),
    ("reactor", "The threads that carry the data: one core and one io_uring each."),
    ("admin", "Health and metrics over HTTP, for the operator only."),
    ("control", "How another fanfare of the same user reaches this one, to take its place."),
    ("limits", "What the broker takes at most: beyond it a client is refused, the broker never grows."),
    ("timeouts", "How long the broker waits."),
    ("delivery", "What a subscriber may be owed, and what becomes of one that takes too little."),
    ("publish", "What is remembered of who published what."),
    ("history", "What topics keep of their past, if a [[topic]] below says that they do."),
    ("deflate", "Compression of messages (permessage-deflate, RFC 7692) for clients that offer it."),
    ("log", "What is written to stderr."),
];

/// A file may hold so many `[[topic]]`.
pub(super) const POLICIES_MAX: usize = 256;

/// One key of a `T`.
pub(super) struct Key<T = Config> {
    /// `section.name`, or the name alone of what is in no section.
    pub path: &'static str,
    /// What it means, in sentences; lines of the default file's comment.
    pub about: &'static str,
    /// SIGHUP changes it in a running broker; else a restart does.
    pub is_reloadable: bool,
    /// What it may be, and where it goes.
    pub kind: Kind<T>,
}

/// What a key may be and which field of a `T` it sets.
pub(super) enum Kind<T> {
    /// An IP address and port, or `unix:` and the absolute path of a socket.
    ListenAddress(fn(&mut T) -> &mut ListenAddress),
    /// An IP address and port, or `""` for none.
    OptionalAddress(fn(&mut T) -> &mut Option<SocketAddr>),
    /// The absolute path of a socket, or `""` for none.
    OptionalSocket(fn(&mut T) -> &mut Option<PathBuf>),
    /// Permission bits in octal digits.
    Mode(fn(&mut T) -> &mut u32),
    /// `true` or `false`.
    Bool(fn(&mut T) -> &mut bool),
    /// An integer within a range.
    Integer { range: RangeInclusive<u64>, unit: &'static str, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// An integer within a range, or 0 for never or no bound.
    IntegerOrZero { range: RangeInclusive<u64>, unit: &'static str, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// A power of two within a range.
    PowerOfTwo { range: RangeInclusive<u64>, unit: &'static str, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// `"auto"` or an integer within a range.
    AutoOrInteger {
        range: RangeInclusive<u64>,
        unit: &'static str,
        get: fn(&T) -> Option<u64>,
        set: fn(&mut T, Option<u64>),
    },
    /// `"json"` or `"binary"`.
    Format(fn(&mut T) -> &mut Format),
    /// An array of the names of stamps.
    Stamps(fn(&mut T) -> &mut Stamps),
    /// An array of texts that are each valid.
    Texts { allowed: &'static str, is_valid: fn(&str) -> bool, field: fn(&mut T) -> &mut Vec<String> },
    /// An array of addresses and networks, and `unix` among them if that is taken.
    Networks { takes_unix: bool, field: fn(&mut T) -> &mut Networks },
    /// `"none"` or `"v2"`.
    ProxyProtocol(fn(&mut T) -> &mut ProxyProtocol),
    /// `"none"` or `"x-forwarded-for"`.
    ForwardedHeader(fn(&mut T) -> &mut ForwardedHeader),
    /// `true`, `false` or a JSON pointer.
    LastValue(fn(&mut T) -> &mut LastValue),
    /// `"clients"` or `"nobody"`.
    Retain(fn(&mut T) -> &mut Retain),
    /// `"disconnect"` or `"skip"`.
    SlowConsumer(fn(&mut T) -> &mut SlowConsumer),
    /// A level or a `tracing` filter.
    LogFilter(fn(&mut T) -> &mut String),
    /// A topic, or a filter with wildcards.
    Filter(fn(&mut T) -> &mut String),
    /// The absolute path of a file, or the name of one of the service manager's credentials; `""` for none.
    OptionalFile(fn(&mut T) -> &mut Option<PathBuf>),
    /// A text that is valid, or `""` for none.
    OptionalText { allowed: &'static str, is_valid: fn(&str) -> bool, field: fn(&mut T) -> &mut String },
    /// `auth.issuers`.
    Issuers(fn(&mut T) -> &mut Vec<Issuer>),
    /// `[roles]`.
    Roles(fn(&mut T) -> &mut Vec<RolePolicy>),
    /// `[tenants]`.
    Tenants(fn(&mut T) -> &mut Vec<TenantPolicy>),
    /// `[[topic]]`.
    TopicPolicies(fn(&mut T) -> &mut Vec<TopicPolicy>),
}

/// What may be owed of a topic, and of all together, in bytes.
pub(super) const OWED_BYTES_MAX: RangeInclusive<u64> = 65_536..=4_294_967_296;
/// How old what is owed may be, in milliseconds.
pub(super) const OWED_MS_MAX: RangeInclusive<u64> = 100..=3_600_000;

/// For how long a publication is remembered by its key, in milliseconds: a day.
pub(super) const KEY_WINDOW_MS: RangeInclusive<u64> = 100..=86_400_000;

/// What `listen.hosts` and its like may be.
const HOSTS: &str = "an array of names or addresses without ports, such as [\"push.example.org\", \"*.example.net\", \"[::1]\"]";

/// How much the log may hold, and what topics keep of it, in bytes.
const LOG_BYTES_MAX: u64 = 1_099_511_627_776;
/// How many publications a topic may keep.
pub(super) const HISTORY_COUNT: RangeInclusive<u64> = 1..=10_000_000;
/// How much a topic may keep, in bytes.
pub(super) const HISTORY_BYTES: RangeInclusive<u64> = 1_024..=1_073_741_824;
/// How old what a topic keeps may be, in milliseconds: 30 days.
pub(super) const HISTORY_MS: RangeInclusive<u64> = 1_000..=2_592_000_000;

/// Why a value was not taken. Spans count bytes of the text that the value was read from.
pub(super) enum Refusal {
    /// The value at `span` is not one that `path` may have.
    NotAllowed { path: String, span: Range<usize>, allowed: String },
    /// There is no key `path`.
    Unknown { path: String, span: Range<usize>, known: Vec<&'static str> },
}

/// Reads and writes an integer field whatever its type. The range bounds every value that is set.
macro_rules! integer {
    ($kind:ident, $section:ident . $field:ident, $range:expr, $unit:expr) => {
        Kind::$kind {
            range: $range,
            unit: $unit,
            get: |config| config.$section.$field as u64,
            set: |config, value| {
                config.$section.$field = value.try_into().expect("the key's range fits its field");
            },
        }
    };
}

/// Every key, section by section in the order of [`SECTIONS`].
pub(super) static KEYS: &[Key<Config>] = &[
    Key {
        path: "listen.address",
        about: "Where WebSocket clients connect. 0.0.0.0:7600 or [::]:7600 serves every interface, unix:/run/fanfare/ws.sock\n\
                a proxy on the same host.",
        is_reloadable: false,
        kind: Kind::ListenAddress(|config| &mut config.listen.address),
    },
    Key {
        path: "listen.mode",
        about: "Who may connect to a Unix socket, as of chmod: whoever may write to it. \"660\" are the broker's user and\n\
                group, \"666\" is everybody on this host.",
        is_reloadable: false,
        kind: Kind::Mode(|config| &mut config.listen.mode),
    },
    Key {
        path: "listen.backlog",
        about: "How many connections may wait to be accepted, per reactor; all reactors share the queue of a Unix socket.\n\
                net.core.somaxconn caps it.",
        is_reloadable: false,
        kind: integer!(Integer, listen.backlog, 1..=65_535, "connections"),
    },
    Key {
        path: "listen.sndbuf_bytes",
        about: "A hard cap of the kernel's send buffer per TCP socket; 0 leaves it to the kernel. A Unix socket has\n\
                net.core.wmem_default.",
        is_reloadable: false,
        kind: integer!(Integer, listen.sndbuf_bytes, 0..=67_108_864, "bytes"),
    },
    Key {
        path: "listen.echo",
        about: "Serve /echo, which sends every WebSocket message back: for conformance suites, not for clients.",
        is_reloadable: false,
        kind: Kind::Bool(|config| &mut config.listen.echo),
    },
    Key {
        path: "listen.hosts",
        about: "The names that a request's Host header may have, at whichever port; *. stands for one label. None are\n\
                localhost, 127.0.0.0/8 and [::1] where only this machine reaches the broker, and else every name: so a\n\
                page cannot have a name of its own point to a broker on its reader's machine.",
        is_reloadable: true,
        kind: Kind::Texts { allowed: HOSTS, is_valid: is_host, field: |config| &mut config.listen.hosts },
    },
    Key {
        path: "listen.origins",
        about: "Which web pages may open connections, beside those of the same host and port, and of this machine where\n\
                only this machine reaches the broker: the Origin header that a browser sends, or \"*\" for all.",
        is_reloadable: true,
        kind: Kind::Texts {
            allowed: "an array of origins as browsers write them, such as [\"https://app.example.org\", \
                      \"https://*.example.net:8443\"], \"null\" or \"*\" among them",
            is_valid: |text| OriginPattern::parse(text).is_some(),
            field: |config| &mut config.listen.origins,
        },
    },
    Key {
        path: "listen.insecure",
        about: "Let others than this machine reach the broker, although whoever reaches it may publish and subscribe.",
        is_reloadable: false,
        kind: Kind::Bool(|config| &mut config.listen.insecure),
    },
    Key {
        path: "auth.tokens_file",
        about: "Static tokens: the tables that `fanfare token new` prints, one below the other. Only the broker's user, and its\n\
                group, may read it. A name without a / is that of a credential of the service manager's.",
        is_reloadable: true,
        kind: Kind::OptionalFile(|config| &mut config.auth.tokens_file),
    },
    Key {
        path: "auth.revocations_file",
        about: "Where revocations are kept, so that they outlive the broker, which makes the file and writes to it; with \"\" they do not.",
        is_reloadable: false,
        kind: Kind::OptionalFile(|config| &mut config.auth.revocations_file),
    },
    Key {
        path: "auth.issuers",
        about: "Whose signed tokens (JWT) are taken, a table for each, with these keys:",
        is_reloadable: true,
        kind: Kind::Issuers(|config| &mut config.auth.issuers),
    },
    Key {
        path: "auth.jwks_refetch_s_min",
        about: "How soon the keys of a jwks_url are fetched again if a token names one that is not there; strangers can name any.",
        is_reloadable: true,
        kind: integer!(Integer, auth.jwks_refetch_s_min, 1..=3_600, "seconds"),
    },
    Key {
        path: "auth.jwks_stale_s_max",
        about: "How long the keys of a jwks_url are used that cannot be fetched again; then its tokens are not accepted until they can.",
        is_reloadable: true,
        kind: integer!(Integer, auth.jwks_stale_s_max, 60..=31_536_000, "seconds"),
    },
    Key {
        path: "auth.leeway_s",
        about: "How far the clocks of issuers and the broker may be apart: so much later a token ends, and so much earlier it begins.",
        is_reloadable: true,
        kind: integer!(Integer, auth.leeway_s, 0..=300, "seconds"),
    },
    Key {
        path: "auth.anonymous_roles",
        about: "What those may do who bring no token; without any role here they must bring one.",
        is_reloadable: true,
        kind: Kind::Texts {
            allowed: "an array of names of [roles]",
            is_valid: pattern::is_label,
            field: |config| &mut config.auth.anonymous_roles,
        },
    },
    Key {
        path: "auth.cookie",
        about: "The name of a cookie that may hold a token, in which a page cannot read it. It counts only for pages whose\n\
                origin may open connections by its name, not by null or *; __Host- before its name, HttpOnly and SameSite=Lax\n\
                keep it to one site.",
        is_reloadable: true,
        kind: Kind::OptionalText {
            allowed: "1 to 64 letters, digits, _ and -, or \"\" for none",
            is_valid: is_cookie,
            field: |config| &mut config.auth.cookie,
        },
    },
    Key {
        path: "auth.deadline_ms",
        about: "How long a client may take to send its token, if its request had none.",
        is_reloadable: true,
        kind: integer!(Integer, auth.deadline_ms, 100..=600_000, "milliseconds"),
    },
    Key {
        path: "auth.failure_delay_ms",
        about: "How long one waits for its answer whose token was not accepted, and up to as much longer at random.",
        is_reloadable: true,
        kind: integer!(Integer, auth.failure_delay_ms, 0..=60_000, "milliseconds"),
    },
    Key {
        path: "roles",
        about: "What whoever has a role may do, in a table for each: `chat` below is a name of yours. Whoever has several may\n\
                do what any of them grants and none of them denies. {user} stands for the level that is the client's name,\n\
                {claim.NAME} for the one that its token's claim NAME says.",
        is_reloadable: true,
        kind: Kind::Roles(|config| &mut config.roles),
    },
    Key {
        path: "tenants",
        about: "Parties that see nothing of each other's topics, in a table for each: `acme` below is a name of yours. Who is of\n\
                one is said by its issuer, its token or its entry among the static tokens. Without a limit, or with 0, there is none.",
        is_reloadable: true,
        kind: Kind::Tenants(|config| &mut config.tenants),
    },
    Key {
        path: "access.allow",
        about: "From where clients may come; with none from everywhere. Whoever comes from elsewhere is closed at once. Peers of a\n\
                Unix socket have no address, and are let in.",
        is_reloadable: true,
        kind: Kind::Networks { takes_unix: false, field: |config| &mut config.access.allow },
    },
    Key {
        path: "access.deny",
        about: "From where clients may not come, whatever access.allow says.",
        is_reloadable: true,
        kind: Kind::Networks { takes_unix: false, field: |config| &mut config.access.deny },
    },
    Key {
        path: "access.ban_failures",
        about: "Where clients are asked who they are: an address, or an IPv6 /64, is banned that so often within a minute brought a\n\
                token that is not accepted, or a broken frame before its token; 0 is never. Addresses of this\n\
                machine and of proxy.trusted are not banned: behind any other proxy a ban would be all of its clients'.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, access.ban_failures, 1..=1_000_000, "failures"),
    },
    Key {
        path: "access.ban_s",
        about: "For how long. Connections that are there stay.",
        is_reloadable: true,
        kind: integer!(Integer, access.ban_s, 1..=86_400, "seconds"),
    },
    Key {
        path: "proxy.trusted",
        about: "From where proxies connect, \"unix\" for those at a Unix socket. Nobody else's word about an address counts: whoever\n\
                can connect from here can say that it is anybody. For all that goes by addresses a client of theirs has its own.",
        is_reloadable: true,
        kind: Kind::Networks { takes_unix: true, field: |config| &mut config.proxy.trusted },
    },
    Key {
        path: "proxy.protocol",
        about: "With \"v2\" every connection of a trusted proxy begins with a header of the PROXY protocol, version 2 (send-proxy-v2),\n\
                and one without is closed.",
        is_reloadable: true,
        kind: Kind::ProxyProtocol(|config| &mut config.proxy.protocol),
    },
    Key {
        path: "proxy.header",
        about: "With \"x-forwarded-for\" that header of a trusted proxy's request says whose it is: the last address there that is\n\
                not trusted as well.",
        is_reloadable: true,
        kind: Kind::ForwardedHeader(|config| &mut config.proxy.header),
    },
    Key {
        path: "reactor.count",
        about: "How many reactors; 0 is one per core that the process may run on, or fewer if the CPU quota of its\n\
                control group (cpu.max, rounded down) is less.",
        is_reloadable: false,
        kind: integer!(Integer, reactor.count, 0..=62, "reactors"),
    },
    Key {
        path: "reactor.pin",
        about: "Pin each reactor to one core of those that the process may run on.",
        is_reloadable: false,
        kind: Kind::Bool(|config| &mut config.reactor.pin),
    },
    Key {
        path: "reactor.buffer_count",
        about: "Receive buffers per reactor, shared by all of its connections.",
        is_reloadable: false,
        kind: integer!(PowerOfTwo, reactor.buffer_count, 16..=32_768, "buffers"),
    },
    Key {
        path: "reactor.buffer_bytes",
        about: "The size of each receive buffer.",
        is_reloadable: false,
        kind: integer!(Integer, reactor.buffer_bytes, 1_024..=65_536, "bytes"),
    },
    Key {
        path: "reactor.queue_entries",
        about: "Requests, and deliveries, in the queues to each reactor, of all other reactors together. While a\n\
                queue is full, the publishers of its sender wait.",
        is_reloadable: false,
        kind: integer!(Integer, reactor.queue_entries, 64..=1_048_576, "entries"),
    },
    Key {
        path: "reactor.max_delay_us",
        about: "The least time between two sweeps of a topic: more merges more publications into one send.\n\
                \"auto\" is 0 while the core has idle time, up to 10_000 when it has none.",
        is_reloadable: true,
        kind: Kind::AutoOrInteger {
            range: 0..=1_000_000,
            unit: "microseconds",
            get: |config| config.reactor.max_delay_us.map(u64::from),
            set: |config, value| {
                config.reactor.max_delay_us =
                    value.map(|us| us.try_into().expect("the key's range fits its field"));
            },
        },
    },
    Key {
        path: "reactor.spin_us",
        about: "For so many microseconds a reactor with nothing to do looks for more before it sleeps. It buys latency\n\
                with the time of a core, which it then uses whenever there is some traffic. Where reactors share a core, 0:\n\
                one that looks keeps the others from it, and what they have to do waits for milliseconds.",
        is_reloadable: true,
        kind: integer!(Integer, reactor.spin_us, 0..=10_000, "microseconds"),
    },
    Key {
        path: "admin.address",
        about: "Serves health and metrics, and with a token of admin.tokens_file what changes the broker. Another address than a\n\
                loopback one needs that file, or --insecure. \"\" turns it off.",
        is_reloadable: false,
        kind: Kind::OptionalAddress(|config| &mut config.admin.address),
    },
    Key {
        path: "admin.hosts",
        about: "As listen.hosts, for the admin listener. Its health check answers to every name.",
        is_reloadable: false,
        kind: Kind::Texts { allowed: HOSTS, is_valid: is_host, field: |config| &mut config.admin.hosts },
    },
    Key {
        path: "admin.tokens_file",
        about: "Tokens of operators, as auth.tokens_file, with the roles \"read\" and \"write\". Without it nothing can be changed here.",
        is_reloadable: true,
        kind: Kind::OptionalFile(|config| &mut config.admin.tokens_file),
    },
    Key {
        path: "control.socket",
        about: "Where the running broker is reached by `fanfare serve --takeover`; only its own user may.\n\
                \"\" turns it off.",
        is_reloadable: false,
        kind: Kind::OptionalSocket(|config| &mut config.control.socket),
    },
    Key {
        path: "limits.connections_max",
        about: "Connections of all reactors together; 0 takes what the descriptor limit allows.",
        is_reloadable: false,
        kind: integer!(Integer, limits.connections_max, 0..=16_777_216, "connections"),
    },
    Key {
        path: "limits.connections_per_address_max",
        about: "Connections from one IPv4 address or one IPv6 /64; 0 is without a limit. One more is answered with 429.\n\
                Behind a proxy that is not in proxy.trusted all connections come from one address: leave it off there.\n\
                Over a Unix socket they come from none, and are not limited.",
        is_reloadable: true,
        kind: integer!(Integer, limits.connections_per_address_max, 0..=16_777_216, "connections"),
    },
    Key {
        path: "limits.upgrades_per_s_per_address_max",
        about: "Upgrades per second from one IPv4 address or one IPv6 /64, and as many at once; 0 is without a limit. One more is\n\
                answered with 429.",
        is_reloadable: true,
        kind: integer!(Integer, limits.upgrades_per_s_per_address_max, 0..=1_000_000, "upgrades"),
    },
    Key {
        path: "limits.connections_per_user_max",
        about: "Connections of one user, whom a token names; 0 is without a limit. One more is closed with 4029. Users of two\n\
                issuers are two, and so is whoever a static token calls the same.",
        is_reloadable: true,
        kind: integer!(Integer, limits.connections_per_user_max, 0..=16_777_216, "connections"),
    },
    Key {
        path: "limits.publishes_per_s_per_user_max",
        about: "Publications per second of one user, over all of its connections, and a second's worth of them at once; 0 is\n\
                without a limit. One more is refused with rate_limited.",
        is_reloadable: true,
        kind: integer!(Integer, limits.publishes_per_s_per_user_max, 0..=10_000_000, "publications"),
    },
    Key {
        path: "limits.bytes_per_s_per_user_max",
        about: "The same in bytes of what is published, without topics; what is longer than a second's worth goes where\n\
                nothing was published for so long.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, limits.bytes_per_s_per_user_max, 1_024..=1_099_511_627_776, "bytes"),
    },
    Key {
        path: "limits.upgrading_max",
        about: "Connections that have not completed their upgrade, of all reactors together; at most half of what\n\
                limits.connections_max comes to. One more takes the place of the oldest.",
        is_reloadable: true,
        kind: integer!(Integer, limits.upgrading_max, 1..=16_777_216, "connections"),
    },
    Key {
        path: "limits.accepts_per_s_max",
        about: "Connections accepted per second, by all reactors together; 0 is without a limit. The rest wait in the\n\
                accept queue. With a limit a reactor accepts one per turn, which is less while its turns are long.",
        is_reloadable: true,
        kind: integer!(Integer, limits.accepts_per_s_max, 0..=10_000_000, "connections"),
    },
    Key {
        path: "limits.header_bytes_max",
        about: "The longest upgrade request.",
        is_reloadable: true,
        kind: integer!(Integer, limits.header_bytes_max, 1_024..=65_536, "bytes"),
    },
    Key {
        path: "limits.message_bytes_max",
        about: "The longest message; a longer one closes its connection with 1009.\n\
                At most delivery.owed_bytes_max, and a quarter of limits.log_bytes_max.",
        is_reloadable: true,
        kind: integer!(Integer, limits.message_bytes_max, 1_024..=67_108_864, "bytes"),
    },
    Key {
        path: "limits.frame_bytes_max",
        about: "The longest frame of a message; a longer one closes its connection with 1009. 0 is as the message.",
        is_reloadable: true,
        kind: integer!(Integer, limits.frame_bytes_max, 0..=67_108_864, "bytes"),
    },
    Key {
        path: "limits.json_depth_max",
        about: "How deep JSON that is published may be nested, in levels: a subscriber gets one more, and its parser must\n\
                take that. The default suits all common ones; .NET stops at 64, Ruby and MongoDB at 100, serde at 128.",
        is_reloadable: true,
        kind: integer!(Integer, limits.json_depth_max, 1..=1_024, "levels"),
    },
    Key {
        path: "limits.subscriptions_max",
        about: "Subscriptions per connection, topics and filters together.",
        is_reloadable: true,
        kind: integer!(Integer, limits.subscriptions_max, 1..=1_048_576, "subscriptions"),
    },
    Key {
        path: "limits.filters_max",
        about: "Filters with wildcards per connection.",
        is_reloadable: true,
        kind: integer!(Integer, limits.filters_max, 1..=65_535, "filters"),
    },
    Key {
        path: "limits.filter_levels_max",
        about: "Levels of a connection's filters with wildcards together: each takes some 85 bytes at its reactor and\n\
                at every home.",
        is_reloadable: true,
        kind: integer!(Integer, limits.filter_levels_max, 32..=2_097_120, "levels"),
    },
    Key {
        path: "limits.plus_levels_max",
        about: "Levels of one filter with a +, a # at its end included; 32 is without a limit. Each level more doubles what\n\
                a publication to a new topic may cost, which is 0.2 ms at its home with 10 and 7 ms with 15.",
        is_reloadable: true,
        kind: integer!(Integer, limits.plus_levels_max, 1..=32, "levels"),
    },
    Key {
        path: "limits.names_per_connection_max",
        about: "Topics of each reactor that are there because one connection published or subscribed to them first;\n\
                0 is without a limit. A backend that publishes to a topic per user needs as many as it has users.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, limits.names_per_connection_max, 1..=16_777_216, "topics"),
    },
    Key {
        path: "limits.buffered_bytes_max",
        about: "What all connections together have under way: unfinished messages, bytes that wait to be taken, and\n\
                replies that are not read. Past three quarters of it whoever has much is not read from, past all of it\n\
                whoever has most is closed with 1013.",
        is_reloadable: true,
        kind: integer!(Integer, limits.buffered_bytes_max, 16_777_216..=1_099_511_627_776, "bytes"),
    },
    Key {
        path: "limits.commands_per_s_max",
        about: "Commands per second of a connection, each of an array or batch for itself; 0 is without a limit.\n\
                Pings of WebSocket and messages without a command are counted likewise, apart from these. One that sends more\n\
                is closed with 4029.",
        is_reloadable: true,
        kind: integer!(Integer, limits.commands_per_s_max, 0..=10_000_000, "commands"),
    },
    Key {
        path: "limits.commands_burst_max",
        about: "How many commands beyond that rate may come at once.",
        is_reloadable: true,
        kind: integer!(Integer, limits.commands_burst_max, 1..=1_000_000, "commands"),
    },
    Key {
        path: "limits.topics_max",
        about: "Topics that one reactor keeps as their home; idle ones are evicted beyond it.",
        is_reloadable: false,
        kind: integer!(Integer, limits.topics_max, 1..=16_777_216, "topics"),
    },
    Key {
        path: "limits.keys_max",
        about: "Publications that one reactor remembers by their keys, as the home of their topics: each takes some 150 bytes.\n\
                One more takes the place of the one that would be forgotten first, however long its topic's key_window_ms.",
        is_reloadable: true,
        kind: integer!(Integer, limits.keys_max, 1..=16_777_216, "publications"),
    },
    Key {
        path: "limits.value_keys_max",
        about: "Of how many keys each topic keeps the newest publication, where its last_value is a JSON pointer. One more takes\n\
                the place of the one that was published to longest ago.",
        is_reloadable: true,
        kind: integer!(Integer, limits.value_keys_max, 1..=16_777_216, "keys"),
    },
    Key {
        path: "limits.log_bytes_max",
        about: "Publications kept in memory, of all topics together.",
        is_reloadable: false,
        kind: integer!(Integer, limits.log_bytes_max, 16_777_216..=LOG_BYTES_MAX, "bytes"),
    },
    Key {
        path: "timeouts.handshake_ms",
        about: "From accept to a complete upgrade request.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.handshake_ms, 100..=600_000, "milliseconds"),
    },
    Key {
        path: "timeouts.ping_ms",
        about: "The broker pings a connection that was silent for so long.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.ping_ms, 100..=3_600_000, "milliseconds"),
    },
    Key {
        path: "timeouts.pong_ms",
        about: "After the ping: without a byte received or a send's progress for so long, close with 4008.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.pong_ms, 100..=3_600_000, "milliseconds"),
    },
    Key {
        path: "timeouts.idle_ms",
        about: "A connection that sent nothing of a message and took none for so long is closed with 4008; pings and pongs\n\
                are no messages. 0 is never.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, timeouts.idle_ms, 100..=86_400_000, "milliseconds"),
    },
    Key {
        path: "timeouts.message_ms",
        about: "A connection that has begun a message and does not end it for so long is closed with 4008. It is looked at\n\
                about as often as it would be pinged, so this may come as late. 0 is never.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, timeouts.message_ms, 100..=86_400_000, "milliseconds"),
    },
    Key {
        path: "timeouts.write_stall_ms",
        about: "A connection that takes nothing of what is being sent to it for so long is closed with 4000, whatever it\n\
                sends itself. It is noticed a quarter of that later at most. 0 is never.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, timeouts.write_stall_ms, 100..=60_000, "milliseconds"),
    },
    Key {
        path: "timeouts.close_ms",
        about: "From the broker's close frame to the client's; then the connection is reset.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.close_ms, 100..=600_000, "milliseconds"),
    },
    Key {
        path: "timeouts.drain_ms",
        about: "From SIGTERM to the exit at the latest. The times to come back that clients are told are spread\n\
                over as long, at a takeover too.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.drain_ms, 0..=3_600_000, "milliseconds"),
    },
    Key {
        path: "timeouts.takeover_ms",
        about: "From a takeover to the end of the last connection at the latest; new ones wait meanwhile.",
        is_reloadable: true,
        kind: integer!(Integer, timeouts.takeover_ms, 0..=600_000, "milliseconds"),
    },
    Key {
        path: "delivery.slow_consumer",
        about: "What becomes of a subscriber that is owed more than owed_bytes_max, or longer than owed_ms_max:\n\
                \"disconnect\" closes it with 4000, \"skip\" moves it forward and tells it the gap.",
        is_reloadable: true,
        kind: Kind::SlowConsumer(|config| &mut config.delivery.slow_consumer),
    },
    Key {
        path: "delivery.owed_bytes_max",
        about: "How much a connection may be owed, all of its topics together; at least one message of\n\
                limits.message_bytes_max, binary payloads as JSON.",
        is_reloadable: true,
        kind: integer!(Integer, delivery.owed_bytes_max, OWED_BYTES_MAX, "bytes"),
    },
    Key {
        path: "delivery.owed_ms_max",
        about: "How old the oldest publication that a connection is owed may be; 0 is any age.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, delivery.owed_ms_max, OWED_MS_MAX, "milliseconds"),
    },
    Key {
        path: "publish.key_window_ms",
        about: "For so long a publication with a `key` is remembered: published again it is not, and its publisher is told where\n\
                the first one is. 0 remembers none, and refuses a publish with a `key`.",
        is_reloadable: true,
        kind: integer!(IntegerOrZero, publish.key_window_ms, KEY_WINDOW_MS, "milliseconds"),
    },
    Key {
        path: "history.bytes_max",
        about: "What all topics together keep of their past; beyond it what was kept longest goes first. It is apart from\n\
                limits.log_bytes_max.",
        is_reloadable: false,
        kind: integer!(Integer, history.bytes_max, 1_048_576..=LOG_BYTES_MAX, "bytes"),
    },
    Key {
        path: "topic",
        about: "What holds for some topics in place of what stands above, in as many tables as there are kinds of topics.\n\
                Of those that match a topic, the most specific one that sets a key decides it: level by level from the\n\
                left, a name is more specific than +, and + than #. What none of them sets is as above, and without\n\
                history_count, history_bytes and history_ms a topic keeps nothing of its past but its value, if it has one.",
        is_reloadable: true,
        kind: Kind::TopicPolicies(|config| &mut config.topic),
    },
    Key {
        path: "deflate.enabled",
        about: "Each publication is compressed once, by its topic's home, for all who take it compressed:\n\
                fewer bytes to send, more time of the home's core per publication.",
        is_reloadable: false,
        kind: Kind::Bool(|config| &mut config.deflate.enabled),
    },
    Key {
        path: "deflate.level",
        about: "How hard to try: 1 is the fastest, 9 the smallest.",
        is_reloadable: false,
        kind: integer!(Integer, deflate.level, 1..=9, "zlib's level"),
    },
    Key {
        path: "deflate.bytes_min",
        about: "Shorter messages are sent as they are.",
        is_reloadable: false,
        kind: integer!(Integer, deflate.bytes_min, 0..=67_108_864, "bytes"),
    },
    Key {
        path: "deflate.window_bits",
        about: "The window, 2^n bytes. A client that asks for a smaller one gets publications as they are.",
        is_reloadable: false,
        kind: integer!(Integer, deflate.window_bits, 9..=15, "bits"),
    },
    Key {
        path: "deflate.ratio_max",
        about: "How many times its compressed length a client's message may be; a longer one closes its connection\n\
                with 1009 if it is longer than 64 KiB as well. 1_032 is what the format allows at most.",
        is_reloadable: true,
        kind: integer!(Integer, deflate.ratio_max, 10..=1_032, "times the compressed length"),
    },
    Key {
        path: "log.level",
        about: "How much is logged.",
        is_reloadable: true,
        kind: Kind::LogFilter(|config| &mut config.log.level),
    },
    Key {
        path: "log.json",
        about: "One JSON object per line instead of text.",
        is_reloadable: false,
        kind: Kind::Bool(|config| &mut config.log.json),
    },
];

impl Key<Config> {
    /// The key of this path.
    pub fn find(path: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The key that an environment variable sets.
    pub fn find_by_variable(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.variable() == name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        variable(self.path)
    }
}

impl<T> Key<T> {
    /// Its name, without what it is in.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().expect("a split has one part at least")
    }

    /// Its section, if it is in one, and its name there.
    pub fn split(&self) -> (Option<&'static str>, &'static str) {
        match self.path.split_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, self.path),
        }
    }

    /// Whether its value is a TOML string, so that the environment and flags give it without quotes.
    pub fn is_text(&self) -> bool {
        matches!(
            self.kind,
            Kind::ListenAddress(_)
                | Kind::OptionalAddress(_)
                | Kind::OptionalSocket(_)
                | Kind::OptionalFile(_)
                | Kind::OptionalText { .. }
                | Kind::Mode(_)
                | Kind::Format(_)
                | Kind::Retain(_)
                | Kind::SlowConsumer(_)
                | Kind::LogFilter(_)
                | Kind::Filter(_)
        )
    }

    /// What it may be: completes "it must be …".
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::ListenAddress(_) => format!(
                "an IP address and port such as 127.0.0.1:7600 or [::]:7600 (names are not resolved), or \
                 unix: and an absolute path of at most {PATH_BYTES_MAX} bytes such as unix:/run/fanfare/ws.sock"
            ),
            Kind::OptionalAddress(_) => {
                "an IP address and port such as 127.0.0.1:7601 (names are not resolved), or \"\" for none"
                    .into()
            }
            Kind::OptionalSocket(_) => format!(
                "an absolute path of at most {OPTIONAL_PATH_BYTES_MAX} bytes such as \
                 /run/fanfare/control.sock, or \"\" for none"
            ),
            Kind::Mode(_) => "three octal digits in quotes such as \"660\"".into(),
            Kind::Bool(_) => "true or false".into(),
            Kind::Integer { range, unit, .. } => format!("an integer from {} ({unit})", from_to(range)),
            Kind::IntegerOrZero { range, unit, .. } => {
                format!("0 or an integer from {} ({unit})", from_to(range))
            }
            Kind::PowerOfTwo { range, unit, .. } => {
                format!("a power of two from {} ({unit})", from_to(range))
            }
            Kind::AutoOrInteger { range, unit, .. } => {
                format!("\"auto\" or an integer from {} ({unit})", from_to(range))
            }
            Kind::Format(_) => "\"json\" or \"binary\"".into(),
            Kind::Texts { allowed, .. } => (*allowed).into(),
            Kind::Networks { takes_unix, .. } => format!(
                "an array of at most {NETWORKS_MAX} addresses and networks without a bit behind their prefix, such as [\"192.0.2.0/24\", \
                 \"2001:db8::1\"]{}",
                if *takes_unix { ", \"unix\" among them" } else { "" }
            ),
            Kind::ProxyProtocol(_) => "\"none\" or \"v2\"".into(),
            Kind::ForwardedHeader(_) => "\"none\" or \"x-forwarded-for\"".into(),
            Kind::Stamps(_) => "an array that holds \"user\", \"time\", both or nothing".into(),
            Kind::LastValue(_) => format!(
                "true, false, or a JSON pointer (RFC 6901) of at most {POINTER_BYTES_MAX} bytes such as \"/symbol\""
            ),
            Kind::Retain(_) => "\"clients\" or \"nobody\"".into(),
            Kind::SlowConsumer(_) => "\"disconnect\" or \"skip\"".into(),
            Kind::LogFilter(_) => {
                "off, error, warn, info, debug, trace or a filter such as info,fanfare::control=debug".into()
            }
            Kind::Filter(_) => {
                "a topic of 1 to 256 bytes, with + for one level or # for all that follow".into()
            }
            Kind::OptionalFile(_) => {
                "the absolute path of a file, the name of a credential of the service manager's, or \"\" for none"
                    .into()
            }
            Kind::OptionalText { allowed, .. } => (*allowed).into(),
            Kind::Issuers(_) => {
                "an array of tables such as { iss = \"https://login.example.org/\", audience = [\"fanfare\"], \
                 algorithms = [\"ES256\"], jwks_file = \"/etc/fanfare/login.jwks\" }"
                    .into()
            }
            Kind::Roles(_) => roles::allowed_roles(),
            Kind::Tenants(_) => tenants::allowed(),
            Kind::TopicPolicies(_) => {
                "an array of tables such as { match = \"ticker/#\", slow_consumer = \"skip\" }".into()
            }
        }
    }

    /// Sets it to `value`, or leaves `config` as it was.
    pub fn set(&self, config: &mut T, value: &Spanned<DeValue<'_>>) -> Result<(), Refusal> {
        match self.try_set(config, value) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::NotAllowed {
                path: self.path.into(),
                span: value.span(),
                allowed: self.allowed(),
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// `Ok(false)` when the value is not one of [`Key::allowed`]; an error of its own when a part of a
    /// compound value is wrong.
    fn try_set(&self, config: &mut T, value: &Spanned<DeValue<'_>>) -> Result<bool, Refusal> {
        let plain = value.get_ref();
        Ok(match &self.kind {
            Kind::ListenAddress(field) => store(field(config), plain.as_str().and_then(|s| s.parse().ok())),
            Kind::OptionalAddress(field) => store(
                field(config),
                match plain.as_str() {
                    Some("") => Some(None),
                    text => text.and_then(|s| s.parse().ok()).map(Some),
                },
            ),
            Kind::OptionalSocket(field) => store(
                field(config),
                match plain.as_str() {
                    Some("") => Some(None),
                    text => text
                        .filter(|text| is_socket_path(text, OPTIONAL_PATH_BYTES_MAX))
                        .map(|text| Some(text.into())),
                },
            ),
            Kind::Mode(field) => store(field(config), plain.as_str().and_then(mode)),
            Kind::Bool(field) => store(field(config), plain.as_bool()),
            Kind::Integer { range, set, .. } => integer_in(plain, range).map(|n| set(config, n)).is_some(),
            Kind::IntegerOrZero { range, set, .. } => {
                let chosen = integer_in(plain, &(0..=0)).or_else(|| integer_in(plain, range));
                chosen.map(|n| set(config, n)).is_some()
            }
            Kind::PowerOfTwo { range, set, .. } => {
                integer_in(plain, range).filter(|n| n.is_power_of_two()).map(|n| set(config, n)).is_some()
            }
            Kind::AutoOrInteger { range, set, .. } => {
                let chosen = match plain.as_str() {
                    Some("auto") => Some(None),
                    _ => integer_in(plain, range).map(Some),
                };
                chosen.map(|choice| set(config, choice)).is_some()
            }
            Kind::Format(field) => store(field(config), plain.as_str().and_then(format_named)),
            Kind::Stamps(field) => store(field(config), stamps(plain)),
            Kind::Texts { is_valid, field, .. } => store(field(config), texts(plain, *is_valid)),
            Kind::Networks { takes_unix, field } => {
                let texts = texts(plain, |_| true);
                store(field(config), texts.and_then(|texts| Networks::parse(texts, *takes_unix)))
            }
            Kind::ProxyProtocol(field) => store(field(config), plain.as_str().and_then(ProxyProtocol::named)),
            Kind::ForwardedHeader(field) => {
                store(field(config), plain.as_str().and_then(ForwardedHeader::named))
            }
            Kind::LastValue(field) => store(field(config), last_value(plain)),
            Kind::Retain(field) => store(field(config), plain.as_str().and_then(Retain::named)),
            Kind::SlowConsumer(field) => store(field(config), plain.as_str().and_then(policy_named)),
            Kind::LogFilter(field) => {
                let filter = plain.as_str().filter(|text| is_log_filter(text));
                store(field(config), filter.map(str::to_owned))
            }
            Kind::Filter(field) => {
                let filter = plain.as_str().filter(|text| Filter::parse(*text).is_ok());
                store(field(config), filter.map(str::to_owned))
            }
            Kind::OptionalFile(field) => store(
                field(config),
                match plain.as_str() {
                    Some("") => Some(None),
                    text => text.filter(|text| is_file(text)).map(|text| Some(text.into())),
                },
            ),
            Kind::OptionalText { is_valid, field, .. } => {
                let text = plain.as_str().filter(|text| text.is_empty() || is_valid(text));
                store(field(config), text.map(str::to_owned))
            }
            Kind::Issuers(field) => {
                let issuers = plain.as_array().map(|entries| issuers::issuers(entries)).transpose()?;
                store(field(config), issuers)
            }
            Kind::Roles(field) => store(field(config), Some(roles::roles(value)?)),
            Kind::Tenants(field) => store(field(config), Some(tenants::tenants(value)?)),
            Kind::TopicPolicies(field) => {
                let policies = plain.as_array().map(|entries| topic::policies(entries)).transpose()?;
                store(field(config), policies)
            }
        })
    }

    /// Gives `to` the value that `from` has.
    pub fn copy(&self, from: &mut T, to: &mut T) {
        match &self.kind {
            Kind::ListenAddress(field) => field(to).clone_from(field(from)),
            Kind::OptionalAddress(field) => *field(to) = *field(from),
            Kind::OptionalSocket(field) => field(to).clone_from(field(from)),
            Kind::Mode(field) => *field(to) = *field(from),
            Kind::Bool(field) => *field(to) = *field(from),
            Kind::Integer { get, set, .. }
            | Kind::IntegerOrZero { get, set, .. }
            | Kind::PowerOfTwo { get, set, .. } => set(to, get(from)),
            Kind::AutoOrInteger { get, set, .. } => set(to, get(from)),
            Kind::Format(field) => *field(to) = *field(from),
            Kind::Stamps(field) => *field(to) = *field(from),
            Kind::Texts { field, .. } => field(to).clone_from(field(from)),
            Kind::Networks { field, .. } => field(to).clone_from(field(from)),
            Kind::ProxyProtocol(field) => *field(to) = *field(from),
            Kind::ForwardedHeader(field) => *field(to) = *field(from),
            Kind::LastValue(field) => field(to).clone_from(field(from)),
            Kind::Retain(field) => *field(to) = *field(from),
            Kind::SlowConsumer(field) => *field(to) = *field(from),
            Kind::LogFilter(field) | Kind::Filter(field) | Kind::OptionalText { field, .. } => {
                field(to).clone_from(field(from));
            }
            Kind::OptionalFile(field) => field(to).clone_from(field(from)),
            Kind::Issuers(field) => field(to).clone_from(field(from)),
            Kind::Roles(field) => field(to).clone_from(field(from)),
            Kind::Tenants(field) => field(to).clone_from(field(from)),
            Kind::TopicPolicies(field) => field(to).clone_from(field(from)),
        }
    }

    /// The value that `config` has, as TOML.
    pub fn literal(&self, config: &mut T) -> String {
        match &self.kind {
            Kind::ListenAddress(field) => toml::Value::from(field(config).to_string()).to_string(),
            Kind::OptionalAddress(field) => match field(config) {
                Some(address) => format!("\"{address}\""),
                None => "\"\"".into(),
            },
            Kind::OptionalSocket(field) | Kind::OptionalFile(field) => {
                let path = field(config).as_deref().map_or("".into(), |path| path.to_string_lossy());
                toml::Value::from(&*path).to_string()
            }
            Kind::Mode(field) => format!("\"{:03o}\"", field(config)),
            Kind::Bool(field) => field(config).to_string(),
            Kind::Integer { get, .. } | Kind::IntegerOrZero { get, .. } | Kind::PowerOfTwo { get, .. } => {
                grouped(get(config))
            }
            Kind::AutoOrInteger { get, .. } => match get(config) {
                Some(value) => grouped(value),
                None => "\"auto\"".into(),
            },
            Kind::Format(field) => format!("\"{}\"", format_name(*field(config))),
            Kind::Texts { field, .. } => toml::Value::from(field(config).clone()).to_string(),
            Kind::Networks { field, .. } => toml::Value::from(field(config).listed().to_vec()).to_string(),
            Kind::ProxyProtocol(field) => format!("\"{}\"", field(config).as_str()),
            Kind::ForwardedHeader(field) => format!("\"{}\"", field(config).as_str()),
            Kind::Stamps(field) => {
                let Stamps { user, time } = *field(config);
                let names = [user.then_some("\"user\""), time.then_some("\"time\"")];
                format!("[{}]", names.into_iter().flatten().collect::<Vec<_>>().join(", "))
            }
            Kind::LastValue(field) => match field(config) {
                LastValue::Nothing => "false".into(),
                LastValue::Newest => "true".into(),
                LastValue::PerKey(pointer) => toml::Value::from(pointer.as_str()).to_string(),
            },
            Kind::Retain(field) => format!("\"{}\"", field(config).as_str()),
            Kind::SlowConsumer(field) => format!("\"{}\"", field(config).as_str()),
            Kind::LogFilter(field) | Kind::Filter(field) | Kind::OptionalText { field, .. } => {
                toml::Value::from(field(config).as_str()).to_string()
            }
            Kind::Issuers(field) => {
                let entries: Vec<String> = field(config).iter_mut().map(issuers::literal).collect();
                format!("[{}]", entries.join(", "))
            }
            Kind::Roles(field) => roles::literal(field(config)),
            Kind::Tenants(field) => tenants::literal(field(config)),
            Kind::TopicPolicies(field) => {
                let entries: Vec<String> = field(config).iter_mut().map(topic::literal).collect();
                format!("[{}]", entries.join(", "))
            }
        }
    }
}

impl SlowConsumer {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            SlowConsumer::Disconnect => "disconnect",
            SlowConsumer::Skip => "skip",
        }
    }
}

impl ProxyProtocol {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyProtocol::None => "none",
            ProxyProtocol::V2 => "v2",
        }
    }

    fn named(text: &str) -> Option<ProxyProtocol> {
        [ProxyProtocol::None, ProxyProtocol::V2].into_iter().find(|it| it.as_str() == text)
    }
}

impl ForwardedHeader {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ForwardedHeader::None => "none",
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
        }
    }

    fn named(text: &str) -> Option<ForwardedHeader> {
        [ForwardedHeader::None, ForwardedHeader::XForwardedFor].into_iter().find(|it| it.as_str() == text)
    }
}

impl Retain {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Retain::Clients => "clients",
            Retain::Nobody => "nobody",
        }
    }

    fn named(text: &str) -> Option<Retain> {
        [Retain::Clients, Retain::Nobody].into_iter().find(|retain| retain.as_str() == text)
    }
}

/// The name of a format in the configuration.
pub(super) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Binary => "binary",
    }
}

fn format_named(text: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format_name(*format) == text)
}

/// The texts of an array, if all are valid.
fn texts(value: &DeValue<'_>, is_valid: fn(&str) -> bool) -> Option<Vec<String>> {
    let texts = value.as_array()?.iter();
    texts.map(|text| text.get_ref().as_str().filter(|text| is_valid(text)).map(str::to_owned)).collect()
}

/// What a topic's values are, as the configuration says it.
fn last_value(value: &DeValue<'_>) -> Option<LastValue> {
    match (value.as_bool(), value.as_str()) {
        (Some(false), _) => Some(LastValue::Nothing),
        (Some(true), _) => Some(LastValue::Newest),
        (None, text) => Some(LastValue::PerKey(Arc::new(Pointer::parse(text?)?))),
    }
}

/// The stamps whose names an array holds.
fn stamps(value: &DeValue<'_>) -> Option<Stamps> {
    let mut stamps = Stamps::default();
    for name in value.as_array()?.iter() {
        match name.get_ref().as_str() {
            Some("user") => stamps.user = true,
            Some("time") => stamps.time = true,
            _ => return None,
        }
    }
    Some(stamps)
}

fn policy_named(text: &str) -> Option<SlowConsumer> {
    [SlowConsumer::Disconnect, SlowConsumer::Skip].into_iter().find(|policy| policy.as_str() == text)
}

/// A suffix is added to it while the socket is made.
const OPTIONAL_PATH_BYTES_MAX: usize = PATH_BYTES_MAX - 17;

/// A path from the root, or a name that is no path.
fn is_file(text: &str) -> bool {
    let is_name = !text.contains('/') && !matches!(text, "." | "..");
    !text.contains('\0') && text.len() <= 4_095 && (text.starts_with('/') || is_name)
}

fn is_cookie(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    HostPattern::parse(text).is_some()
}

/// The environment variable of the key with this path.
pub(super) fn variable(path: &str) -> String {
    format!("FANFARE_{}", path.to_uppercase().replace('.', "_"))
}

/// The permission bits that three octal digits say.
fn mode(text: &str) -> Option<u32> {
    let is_octal = text.len() == 3 && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|_| is_octal)
}

/// `EnvFilter` takes a lone misspelt level for the name of a module, so that is looked for first.
fn is_log_filter(text: &str) -> bool {
    let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    let is_filter = text.contains(['=', ',', '[']) && EnvFilter::builder().parse(text).is_ok();
    is_level || is_filter
}

/// Stores a value if there is one, and says whether there was.
fn store<T>(field: &mut T, value: Option<T>) -> bool {
    let is_some = value.is_some();
    if let Some(value) = value {
        *field = value;
    }
    is_some
}

fn integer_in(value: &DeValue<'_>, range: &RangeInclusive<u64>) -> Option<u64> {
    let integer = value.as_integer()?;
    let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    range.contains(&value).then_some(value)
}

fn from_to(range: &RangeInclusive<u64>) -> String {
    format!("{} to {}", grouped(*range.start()), grouped(*range.end()))
}

/// Digits in groups of three as TOML may have them: 1_048_576.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            text.push('_');
        }
        text.push(digit);
    }
    text
}
