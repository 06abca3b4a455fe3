//! Where connections come from, as far as something is asked of that: whether they may come from there, who has too many, and who
//! did what is held against its address.
//!
//! An address is the client's. Of a connection that a trusted proxy passes on it is not known before the proxy has said it, in a
//! header of the PROXY protocol before the request or in a line of that: until then the connection counts with those that are
//! upgrading alone, and is judged when it is known. A proxy itself is never struck.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;

use super::{
    super::desk::Desk,
    addresses::{BanRule, Origin},
    rate::Rate,
    refusal::Refusal,
};
use crate::{
    config::{Config, ForwardedHeader, ProxyProtocol},
    metrics::Trouble,
    protocol::{
        close::CloseReason,
        forwarded::Via,
        proxy::{self, BrokenHeader, Proxied},
        session::Session,
        upgrade,
    },
    uring::PeerAddress,
    work::price,
};

/// What is known of connections that are not let in, or as nobody in particular; nothing, and no memory, where nothing is asked.
#[derive(Debug, Default)]
pub struct Door {
    /// Peers are asked where they come from.
    pub is_asking: bool,
    /// What an address is struck for counts.
    pub bans: Option<BanRule>,
    /// How often an address may upgrade.
    upgrades: Option<Rate>,
    /// By slot: as many as are upgrading, at most.
    strangers: HashMap<u32, Stranger, RandomState>,
}

/// A connection that is not let in.
#[derive(Debug, Default)]
struct Stranger {
    /// Where it comes from: its peer until it is known whose it is; none if it comes over a Unix socket.
    address: Option<IpAddr>,
    awaited: Awaited,
}

/// What a trusted proxy has yet to say of a connection.
#[derive(Debug, Default)]
enum Awaited {
    /// Nothing: it is judged.
    #[default]
    Nothing,
    /// A PROXY header, of which these bytes have come.
    Header(Vec<u8>),
    /// The request, which may have a line that says whose it is.
    Request,
}

/// A connection that may come in, as far as that can be told when it is accepted.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Whose it is, if that is known and asked for.
    pub origin: Option<Origin>,
    /// How its request comes.
    pub via: Via,
    stranger: Option<Stranger>,
}

impl Door {
    /// Goes by `config` from now on.
    pub fn reload(&mut self, config: &Config) {
        let (limits, access) = (&config.limits, &config.access);
        // Where nobody is asked who they are there is nothing to guess.
        self.bans = (config.auth.is_on() && access.ban_failures > 0)
            .then(|| BanRule { strikes: access.ban_failures, ban_ms: access.ban_s * 1_000 });
        let per_s = limits.upgrades_per_s_per_address_max;
        self.upgrades = Rate::new(per_s, 1, per_s.max(1));
        self.is_asking = limits.connections_per_address_max > 0
            || self.bans.is_some()
            || self.upgrades.is_some()
            || !(access.allow.is_empty() && access.deny.is_empty() && config.proxy.trusted.is_empty());
    }

    /// Whether an address is struck for what fails.
    pub fn counts_failures(&self) -> bool {
        self.bans.is_some()
    }

    /// The connection is let in as somebody, or closed.
    pub fn forget(&mut self, slot: u32) {
        if !self.strangers.is_empty() {
            self.strangers.remove(&slot);
        }
    }

    /// Whether nothing is known of anybody.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.strangers.is_empty()
    }

    /// Whether the connection is to begin with a PROXY header that has not come whole.
    pub fn awaits_header(&self, slot: u32) -> bool {
        let awaited = || self.strangers.get(&slot).map(|stranger| &stranger.awaited);
        !self.strangers.is_empty() && matches!(awaited(), Some(Awaited::Header(_)))
    }

    /// Where the connection comes from that is not let in, as far as that was asked.
    pub fn address(&self, slot: u32) -> Option<IpAddr> {
        self.strangers.get(&slot)?.address
    }

    /// How much is kept of the connection's PROXY header, in bytes.
    pub fn held_bytes(&self, slot: u32) -> usize {
        match self.strangers.is_empty() {
            true => 0,
            false => self.strangers.get(&slot).map_or(0, |stranger| match &stranger.awaited {
                Awaited::Header(bytes) => bytes.capacity(),
                _ => 0,
            }),
        }
    }
}

impl Desk {
    /// Judges who connects, as far as that is known.
    ///
    /// # Errors
    /// Why it is closed at once; nothing is against it where it has gone already.
    pub fn judge_peer(&self, peer: Option<PeerAddress>) -> Result<Arrival, Option<Refusal>> {
        let address = match peer {
            Some(PeerAddress::Ip(address)) => Some(address.ip()),
            Some(PeerAddress::Unix) => None,
            // It left bytes behind, perhaps, and nobody could say any more whose they are.
            None => return Err(None),
        };
        let proxy = &self.shared.config.proxy;
        let is_trusted = match address {
            Some(address) => proxy.trusted.ranges().contains(address),
            None => proxy.trusted.has_unix(),
        };
        let names_clients = proxy.header == ForwardedHeader::XForwardedFor;
        let (awaited, via) = match (is_trusted, proxy.protocol) {
            (false, _) => (Awaited::Nothing, Via::Stranger),
            (true, ProxyProtocol::V2) => (Awaited::Header(Vec::new()), Via::Stranger),
            (true, ProxyProtocol::None) => {
                let awaited = if names_clients { Awaited::Request } else { Awaited::Nothing };
                (awaited, Via::Proxy { is_tls: false, names_clients })
            }
        };
        let is_known = matches!(awaited, Awaited::Nothing);
        if is_known && let Some(refusal) = self.judge_address(address) {
            return Err(Some(refusal));
        }
        let is_kept = !is_known || self.door.bans.is_some() || self.door.upgrades.is_some();
        Ok(Arrival {
            origin: address.filter(|_| is_known).map(Origin::of),
            via,
            stranger: is_kept.then_some(Stranger { address, awaited }),
        })
    }

    /// The connection that was judged so has this slot.
    pub fn note_arrival(&mut self, slot: u32, arrival: Arrival) {
        if arrival.via != Via::Stranger {
            self.connections[slot].session = Session::new(arrival.via);
        }
        if let Some(stranger) = arrival.stranger {
            self.door.strangers.insert(slot, stranger);
        }
    }

    /// Whether whoever comes from `address` must not come in.
    fn judge_address(&self, address: Option<IpAddr>) -> Option<Refusal> {
        let address = address?;
        let access = &self.shared.config.access;
        let is_allowed = access.allow.is_empty() || access.allow.ranges().contains(address);
        if !is_allowed || access.deny.ranges().contains(address) {
            return Some(Refusal::Denied);
        }
        self.judge_strikes(address)
    }

    /// Whether whoever comes from `address` is banned.
    fn judge_strikes(&self, address: IpAddr) -> Option<Refusal> {
        self.ban_of(address)?;
        let now_ms = self.now_ms();
        let until_ms = self.shared.addresses.banned_until_ms(Origin::of(address), now_ms)?;
        Some(Refusal::Banned { left_s: (until_ms - now_ms).div_ceil(1_000) })
    }

    /// Whether the connection, if it is not let in, has been banned since it was judged: by what others of its address did that
    /// were opened before as well.
    pub fn is_banned_since(&self, slot: u32) -> bool {
        !self.door.strangers.is_empty()
            && self.door.address(slot).and_then(|address| self.judge_strikes(address)).is_some()
    }

    /// For what, and for how long, whoever comes from `address` is banned: this machine and proxies never are, since it
    /// would be all of their clients.
    fn ban_of(&self, address: IpAddr) -> Option<BanRule> {
        let is_exempt =
            || address.is_loopback() || self.shared.config.proxy.trusted.ranges().contains(address);
        self.door.bans.filter(|_| !is_exempt())
    }

    /// Takes what has come of the PROXY header that the connection is to begin with; returns what is behind it once that is whole
    /// and its client may come in.
    pub fn take_proxy_header<'a>(&mut self, slot: u32, bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.meter.spend(bytes.len() as u64 * price::RECEIVED_BYTE);
        let stranger = self.door.strangers.get_mut(&slot).expect("it awaits its header");
        let Awaited::Header(held) = &mut stranger.awaited else { unreachable!("it awaits its header") };
        let held_len = held.len();
        let read = match held_len {
            0 => proxy::read(bytes),
            _ => {
                held.extend_from_slice(&bytes[..bytes.len().min(proxy::HEADER_BYTES_MAX - held_len)]);
                proxy::read(held)
            }
        };
        match read {
            Ok(Some((len, proxied))) => {
                self.handle_proxied(slot, proxied).then(|| &mut bytes[len - held_len..])
            }
            Ok(None) => {
                if held_len == 0 {
                    held.extend_from_slice(bytes);
                }
                None
            }
            Err(rule) => {
                self.shared.troubles.note(Trouble::ProxyHeader);
                // Whatever it is, an answer may tell whoever set it up.
                if rule == BrokenHeader::Signature {
                    let response = upgrade::malformed(rule.sentence());
                    self.replies(slot).extend_from_slice(&response);
                }
                self.flush(slot, CloseReason::ProxyHeader);
                None
            }
        }
    }

    /// The connection's PROXY header is whole; false if its client must not come in.
    fn handle_proxied(&mut self, slot: u32, proxied: Proxied) -> bool {
        let proxy = &self.shared.config.proxy;
        let stranger = self.door.strangers.get_mut(&slot).expect("it had its header");
        stranger.address = proxied.client.or(stranger.address);
        // The proxy may have it from another, or speak for itself: then it is the one that is trusted.
        let is_trusted = match (proxied.client, stranger.address) {
            (None, _) => true,
            (Some(client), _) => proxy.trusted.ranges().contains(client),
        };
        let names_clients = is_trusted && proxy.header == ForwardedHeader::XForwardedFor;
        self.connections[slot].session = Session::new(Via::Proxy { is_tls: proxied.is_tls, names_clients });
        match names_clients {
            true => stranger.awaited = Awaited::Request,
            false => return self.settle(slot),
        }
        true
    }

    /// The connection's request is a good one, and of `client` by the word of its trusted proxy; false if that must not
    /// come in, which it is told.
    pub fn admit_request(&mut self, slot: u32, client: Option<IpAddr>) -> bool {
        if self.door.strangers.is_empty() {
            return true;
        }
        let Some(stranger) = self.door.strangers.get_mut(&slot) else { return true };
        if let Awaited::Request = stranger.awaited {
            stranger.address = client.or(stranger.address);
            if !self.settle(slot) {
                return false;
            }
        }
        let Some(address) = self.door.address(slot) else { return true };
        // It may have been opened long before the last strike against its address.
        if let Some(refusal) = self.judge_strikes(address) {
            self.refuse_and_note(slot, refusal);
            return false;
        }
        let Some(rate) = self.door.upgrades else { return true };
        match self.shared.addresses.take_upgrade(Origin::of(address), rate, self.now_ns) {
            Ok(()) => true,
            Err(next_ns) => {
                let left_s = (next_ns - self.now_ns).div_ceil(1_000_000_000);
                self.refuse_and_note(slot, Refusal::UpgradeRate { left_s });
                false
            }
        }
    }

    /// It is known whose the connection is: it is judged, and counts. False if it must not come in, which it is told.
    fn settle(&mut self, slot: u32) -> bool {
        let stranger = self.door.strangers.get_mut(&slot).expect("it was awaited whose it is");
        stranger.awaited = Awaited::Nothing;
        let address = stranger.address;
        let refusal = self.judge_address(address).or_else(|| {
            let count_max = self.shared.config.limits.connections_per_address_max;
            let origin = address.filter(|_| count_max > 0).map(Origin::of)?;
            if !self.shared.addresses.enter(origin, count_max) {
                return Some(Refusal::AddressMax);
            }
            self.meters.set_origin(slot, origin);
            None
        });
        if let Some(refusal) = refusal {
            self.refuse_and_note(slot, refusal);
        }
        refusal.is_none()
    }

    /// What the connection did is held against where it comes from, if that is known.
    pub fn strike(&mut self, slot: u32) {
        if self.door.strangers.is_empty() {
            return;
        }
        let stranger = self.door.strangers.get(&slot);
        let stranger = stranger.filter(|stranger| matches!(stranger.awaited, Awaited::Nothing));
        let Some(address) = stranger.and_then(|stranger| stranger.address) else { return };
        let Some(rule) = self.ban_of(address) else { return };
        if self.shared.addresses.strike(Origin::of(address), rule, self.now_ms()) {
            self.shared.troubles.note(Trouble::Banned);
        }
    }

    fn refuse_and_note(&mut self, slot: u32, refusal: Refusal) {
        if let Some(trouble) = refusal.trouble() {
            self.shared.troubles.note(trouble);
        }
        self.refuse(slot, refusal);
    }
}
