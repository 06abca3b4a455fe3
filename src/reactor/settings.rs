//! What the configuration, and what the host allows, come to for the reactors.

use std::num::NonZeroU32;

use super::{cores::Cores, share};
use crate::{
    config::{Config, Delivery, Retain, SlowConsumer},
    protocol::{
        Encoding, Format,
        credential::Places,
        deflate,
        session::Limits,
        site::{Hosts, OriginPattern, Site},
        tenant::Tenant,
        upgrade::Terms,
    },
    pubsub::{
        keeping::{KeepKeys, Keeping},
        keyed::KeyWindows,
        log::SHARED_CHUNK_BYTES,
        policy::{Policy, Rule, RuleKeys},
    },
    uring::{
        probe::{descriptor_limits, reserved_descriptors},
        ring::RingConfig,
    },
};

/// Larger receive buffers, for those who wait to be received from with much: as many as can be in use in a turn, near
/// enough, each for what its owner may do in two or three quanta.
const LARGE_BUFFER_COUNT: usize = 64;
const LARGE_BUFFER_BYTES: usize = 16 << 10;

/// How many reactors the configuration asks for; as many as there are cores for where it leaves that open.
pub fn reactor_count(config: &Config) -> usize {
    Cores::read().reactor_count(config).0
}

/// What each reactor must have of the log: the chunks that are being written, one per encoding and the
/// carrier's, are a quarter of it at most.
pub(super) fn log_bytes_min(config: &Config) -> usize {
    4 * (encoding_count(config) + 1) * SHARED_CHUNK_BYTES
}

/// A reactor's ring, which serves so many connections at most.
pub(super) fn ring_config(config: &Config, connections_share: usize) -> RingConfig {
    RingConfig {
        entries: 4_096,
        buffer_count: usize::from(config.reactor.buffer_count),
        buffer_bytes: config.reactor.buffer_bytes as usize,
        large_buffer_count: LARGE_BUFFER_COUNT,
        large_buffer_bytes: LARGE_BUFFER_BYTES,
        sends_per_turn: share::SENDS_MAX,
        pending_sends: connections_share.clamp(1_024, 16_384),
    }
}

/// What all rings of the broker lock on kernels that count it, the probe's and the control thread's included.
pub fn locked_bytes(config: &Config) -> u64 {
    const OTHER_RINGS_BYTES: u64 = 512 * 1024;
    let count = reactor_count(config);
    let ring = ring_config(config, connections_max(config, count) / count);
    count as u64 * ring.locked_bytes() + OTHER_RINGS_BYTES
}

/// How many connections the configuration and the limit of descriptors allow.
pub(super) fn connections_max(config: &Config, reactor_count: usize) -> usize {
    let descriptors = descriptor_limits().map_or(1_024, |(soft, _)| soft as usize);
    let possible = descriptors.saturating_sub(reserved_descriptors(reactor_count) as usize);
    match config.limits.connections_max {
        0 => possible,
        configured => configured.min(possible),
    }
}

/// How many encodings subscribers may have.
pub(super) fn encoding_count(config: &Config) -> usize {
    if config.deflate.enabled { Encoding::COUNT } else { Format::COUNT }
}

/// What a session takes of its peer.
pub(super) fn session_limits(config: &Config, is_loopback: bool) -> Limits {
    Limits {
        header_bytes_max: config.limits.header_bytes_max,
        message_bytes_max: config.limits.message_bytes_max,
        frame_bytes_max: match config.limits.frame_bytes_max {
            0 => usize::MAX,
            bytes => bytes,
        },
        terms: Terms {
            is_echo_served: config.listen.echo,
            deflate_window_bits: config.deflate.enabled.then_some(config.deflate.window_bits),
            site: site_of(config, is_loopback),
            credentials: config.auth.is_on().then(|| Places {
                cookie: (!config.auth.cookie.is_empty()).then(|| config.auth.cookie.as_str().into()),
            }),
            forwarded_for: (!config.proxy.trusted.is_empty()).then(|| config.proxy.trusted.ranges().clone()),
        },
        inflate_ratio_max: config.deflate.ratio_max as usize,
    }
}

/// The same of a peer that is not let in, which needs no longer message than one with a token.
pub(super) fn stranger_limits(config: &Config, is_loopback: bool) -> Limits {
    const MESSAGE_BYTES_MAX: usize = 16 << 10;
    let limits = session_limits(config, is_loopback);
    Limits { message_bytes_max: limits.message_bytes_max.min(MESSAGE_BYTES_MAX), ..limits }
}

/// By which names clients reach it, and which pages may.
fn site_of(config: &Config, is_loopback: bool) -> Site {
    let hosts = Hosts::of(&config.listen.hosts, is_loopback);
    let origins = config.listen.origins.iter();
    let origins = origins.map(|origin| OriginPattern::parse(origin).expect("the key was checked")).collect();
    Site { hosts, origins, is_loopback }
}

/// How many topics each tenant may have at a home, by the first level of their names.
pub(super) fn tenant_topics_of(config: &Config) -> impl Iterator<Item = (Box<str>, u32)> {
    config.tenants.iter().map(|policy| {
        let tenant = Tenant::new(&policy.name).expect("the key was checked");
        (tenant.first_level().into(), policy.topics_max)
    })
}

/// How publications are compressed.
pub(super) fn deflate_settings(config: &Config) -> deflate::Settings {
    let deflate = &config.deflate;
    deflate::Settings { level: deflate.level, bytes_min: deflate.bytes_min, window_bits: deflate.window_bits }
}

/// How far behind subscribers may be.
pub(super) fn policy_of(config: &Config) -> Policy {
    let may_skip = |slow_consumer| slow_consumer == SlowConsumer::Skip;
    let Delivery { slow_consumer, owed_bytes_max, owed_ms_max } = config.delivery;
    let owed_bytes_max = owed_bytes_max as u64;
    let default =
        Rule { may_skip: may_skip(slow_consumer), owed_bytes_max, owed_ms_max: NonZeroU32::new(owed_ms_max) };
    let entries = config.topic.iter().map(|it| {
        let keys = RuleKeys {
            may_skip: it.slow_consumer.map(may_skip),
            owed_bytes_max: it.owed_bytes_max.map(|bytes| bytes as u64),
            owed_ms_max: it.owed_ms_max,
        };
        (it.filter.clone(), keys)
    });
    Policy::new(owed_bytes_max, default, entries)
}

/// For how long publications are remembered by their keys.
pub(super) fn key_windows_of(config: &Config) -> KeyWindows {
    let entries = config.topic.iter().filter_map(|it| Some((it.filter.clone(), it.key_window_ms?)));
    KeyWindows::new(config.publish.key_window_ms, entries)
}

/// What topics keep of their past, and write into their messages.
pub(super) fn keeping_of(config: &Config) -> Keeping {
    let entries = config.topic.iter().map(|it| {
        let keys = KeepKeys {
            count: it.history_count,
            bytes: it.history_bytes,
            ms: it.history_ms.and_then(NonZeroU32::new),
            format: it.history_format,
            stamps: it.stamp,
            anonymous: it.anonymous,
            last_value: it.last_value.clone(),
            retain: it.retain.map(|who| who == Retain::Clients),
        };
        (it.filter.clone(), keys)
    });
    Keeping::new(entries).with_value_keys_max(config.limits.value_keys_max)
}
