//! The metrics that each reactor has one of: a field of its counters, under its name.

use prometheus_client::registry::Unit;

use crate::metrics::ReactorStats;

/// One field of [`ReactorStats`] as a family of metrics, labelled with the reactor.
pub(super) struct Family {
    /// The field, for the test that none is forgotten.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the test that every field is exported"))]
    pub(super) field: &'static str,
    /// Without the unit and the `_total`, which the encoder appends.
    pub(super) name: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) help: &'static str,
    pub(super) read: fn(&ReactorStats) -> Value,
}

/// A metric's kind and value.
pub(super) enum Value {
    Counter(u64),
    Gauge(u64),
    Real(f64),
}

/// Names the field once for the table and its test.
macro_rules! family {
    ($field:ident, $kind:ident, $name:literal, $unit:expr, $help:literal) => {
        Family {
            field: stringify!($field),
            name: $name,
            unit: $unit,
            help: $help,
            read: |stats| Value::$kind(stats.$field),
        }
    };
}

/// Every field but those that have labels of their own.
pub(super) static FAMILIES: [Family; 43] = [
    family!(
        connections,
        Gauge,
        "fanfare_connections",
        None,
        "Connections that are open now, upgrades under way included."
    ),
    family!(
        upgrading,
        Gauge,
        "fanfare_upgrading",
        None,
        "Connections that have not completed their upgrade."
    ),
    family!(upgrades_total, Counter, "fanfare_upgrades", None, "Connections that have completed an upgrade."),
    family!(accepts_total, Counter, "fanfare_accepts", None, "Connections accepted."),
    family!(
        turns_total,
        Counter,
        "fanfare_turns",
        None,
        "Turns of the reactor's loop, one io_uring_enter each."
    ),
    family!(
        turn_work_total,
        Counter,
        "fanfare_turn_work",
        None,
        "The work of all turns, in units of fixed prices, each about a microsecond: over fanfare_turns, a turn's."
    ),
    family!(completions_total, Counter, "fanfare_completions", None, "Completions reaped from the ring."),
    family!(
        sends_total,
        Counter,
        "fanfare_sends",
        None,
        "Sends submitted; deliveries per send is how well publications merge."
    ),
    family!(sent_bytes_total, Counter, "fanfare_sent", Some(Unit::Bytes), "Bytes whose send has completed."),
    family!(received_bytes_total, Counter, "fanfare_received", Some(Unit::Bytes), "Bytes received."),
    family!(commands_total, Counter, "fanfare_commands", None, "Commands carried out or refused."),
    family!(command_errors_total, Counter, "fanfare_command_errors", None, "Commands refused."),
    family!(
        rate_limited_total,
        Counter,
        "fanfare_rate_limited",
        None,
        "Publishes refused, among these, since their user or their tenant publishes more than it may."
    ),
    family!(
        publications_total,
        Counter,
        "fanfare_publications",
        None,
        "Publications that this reactor gave their place in a topic, as its home."
    ),
    family!(
        deflated_total,
        Counter,
        "fanfare_deflated",
        None,
        "Messages compressed: each publication once, however many subscribers take it compressed."
    ),
    family!(
        deflate_in_bytes_total,
        Counter,
        "fanfare_deflate_in",
        Some(Unit::Bytes),
        "Bytes given to the compressor; fanfare_deflate_out over this is what is left of them."
    ),
    family!(
        deflate_out_bytes_total,
        Counter,
        "fanfare_deflate_out",
        Some(Unit::Bytes),
        "What became of them; a message that does not shrink stays as it is."
    ),
    family!(inflated_total, Counter, "fanfare_inflated", None, "Compressed messages that clients sent."),
    family!(
        inflated_bytes_total,
        Counter,
        "fanfare_inflated",
        Some(Unit::Bytes),
        "The bytes of compressed messages that clients sent, inflated."
    ),
    family!(
        deliveries_total,
        Counter,
        "fanfare_deliveries",
        None,
        "Deliveries queued to the kernel: a publication, once per subscriber."
    ),
    family!(
        skipped_total,
        Counter,
        "fanfare_skipped",
        None,
        "Deliveries that a slow subscriber was moved past, each told with a gap."
    ),
    family!(topics, Gauge, "fanfare_topics", None, "Topics whose home is this reactor."),
    family!(
        subscriptions,
        Gauge,
        "fanfare_subscriptions",
        None,
        "Subscriptions of this reactor's connections, filters included."
    ),
    family!(behind, Gauge, "fanfare_behind", None, "Subscribers that are behind now."),
    family!(
        behind_bytes_max,
        Gauge,
        "fanfare_behind_max",
        Some(Unit::Bytes),
        "The most log that any topic keeps here for subscribers that are behind."
    ),
    family!(
        keys,
        Gauge,
        "fanfare_keys",
        None,
        "Publications that this reactor, as their home, remembers by their keys."
    ),
    Family {
        field: "key_window_ms",
        name: "fanfare_keys_window",
        unit: Some(Unit::Seconds),
        help: "For how long a publication is remembered by its key: publish.key_window_ms, or less where limits.keys_max is reached.",
        read: |stats| Value::Real(stats.key_window_ms as f64 / 1e3),
    },
    family!(
        duplicates_total,
        Counter,
        "fanfare_duplicates",
        None,
        "Publications that were remembered by their keys when they were published again, and so were not."
    ),
    family!(log_bytes, Gauge, "fanfare_log", Some(Unit::Bytes), "Live log chunks allocated by this home."),
    family!(
        kept_bytes,
        Gauge,
        "fanfare_kept",
        Some(Unit::Bytes),
        "What topics of this home keep of their past, whole blocks, bounded by history.bytes_max."
    ),
    family!(keeping, Gauge, "fanfare_keeping", None, "Topics of this home that keep their past."),
    family!(
        values,
        Gauge,
        "fanfare_values",
        None,
        "Topics of this home that have a value, which new subscribers are sent first."
    ),
    family!(replays, Gauge, "fanfare_replays", None, "Replays of topics' pasts that are under way."),
    family!(
        replayed_total,
        Counter,
        "fanfare_replayed",
        None,
        "Publications of topics' pasts that were handed over to subscribers here."
    ),
    family!(replayed_bytes_total, Counter, "fanfare_replayed", Some(Unit::Bytes), "Bytes of these."),
    family!(
        transcoded_bytes_total,
        Counter,
        "fanfare_transcoded",
        Some(Unit::Bytes),
        "Bytes that came of turning what is kept in one format into the other."
    ),
    family!(
        buffered_bytes,
        Gauge,
        "fanfare_buffered",
        Some(Unit::Bytes),
        "What connections have under way: unfinished messages, bytes that wait to be taken, replies that are not read."
    ),
    family!(
        reviews,
        Gauge,
        "fanfare_reviews",
        None,
        "Connections that are to be looked at again, since what clients may do has changed."
    ),
    family!(
        paused,
        Gauge,
        "fanfare_paused",
        None,
        "Connections whose commands wait: for their turn, for room, or for their own replies to be read."
    ),
    family!(
        pauses_total,
        Counter,
        "fanfare_pauses",
        None,
        "Times that a publisher was paused because a home or a channel was full, or it did not read its replies."
    ),
    family!(
        no_buffers_total,
        Counter,
        "fanfare_no_buffers",
        None,
        "Times that the kernel had no receive buffer left; raise reactor.buffer_count if it grows fast."
    ),
    family!(
        no_descriptors_total,
        Counter,
        "fanfare_no_descriptors",
        None,
        "Times that accepting stopped for want of file descriptors."
    ),
    Family {
        field: "pacing_us",
        name: "fanfare_pacing",
        unit: Some(Unit::Seconds),
        help: "The pacing in force: the least time between two sweeps of a topic.",
        read: |stats| Value::Real(stats.pacing_us as f64 / 1e6),
    },
];
