//! What clients did that whoever audits the broker is to know: who was not let in, was closed, or asked for what it may not.
//!
//! Reactors put it into a queue that they share with the control thread, which writes the lines. It has room for so much, and there
//! is one line per thing only for the first of them: what strangers do thousands of times a second is counted. Of a credential
//! there is nothing in it but whose it says to be, and of what is published nothing at all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam::queue::ArrayQueue;
use foldhash::fast::RandomState;

use super::desk::Desk;
use crate::{
    access::{
        Access, Refused,
        principal::{Principal, Source},
        revocation::Why,
    },
    metrics::Trouble,
    protocol::secret::Secret,
    pubsub::subscription::ConnectionId,
    uring::{Io, PeerAddress},
    work::price,
};

/// So many events of all reactors wait for the control thread.
pub const EVENTS_MAX: usize = 256;
/// And so many of a reactor for the end of its turn.
const NOTED_MAX: usize = 64;
/// A connection that asks for what it may not is told of once in this time, in milliseconds.
const FORBIDDEN_MS: u32 = 60_000;
/// So many connections are remembered that did; for one more all are forgotten.
const FORBIDDEN_MAX: usize = 1_024;
/// The longest name of a key that is told, in bytes: strangers make it up.
const KEY_ID_BYTES_MAX: usize = 64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A credential was not accepted.
    AuthFailed,
    /// A connection was closed, since what it was let in by is not accepted any more.
    Revoked,
    /// A connection was closed, since its user is blocked.
    Blocked,
    /// A connection asked for what it may not: the first time in a minute.
    Forbidden,
}

impl EventKind {
    /// Every kind, in order of its index.
    pub const ALL: [EventKind; 4] =
        [EventKind::AuthFailed, EventKind::Revoked, EventKind::Blocked, EventKind::Forbidden];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::AuthFailed => "auth_failed",
            EventKind::Revoked => "revoked",
            EventKind::Blocked => "blocked",
            EventKind::Forbidden => "forbidden",
        }
    }

    /// What lines say.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::AuthFailed => "auth failed",
            EventKind::Revoked => "closed, revoked",
            EventKind::Blocked => "closed, blocked",
            EventKind::Forbidden => "forbidden",
        }
    }
}

/// One of these, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub kind: EventKind,
    /// Where the connection comes from; nothing of one that has gone, or came over a Unix socket.
    pub address: Option<IpAddr>,
    /// Why it was not accepted; or what was asked for.
    pub reason: Option<&'static str>,
    /// Who it is.
    pub user: Option<Box<str>>,
    /// Whose tokens those are.
    pub issuer: Option<Arc<Box<str>>>,
    /// What a token calls its key: any text, cut off.
    pub key_id: Option<Box<str>>,
    /// The topic or filter that was asked for.
    pub filter: Option<Box<str>>,
}

impl Event {
    /// Of this kind, with nothing known of it.
    pub fn new(kind: EventKind) -> Event {
        Event { kind, address: None, reason: None, user: None, issuer: None, key_id: None, filter: None }
    }

    /// Who it is.
    pub fn with_principal(self, principal: &Principal) -> Event {
        let issuer = match &principal.source {
            Source::Issuer(iss) => Some(iss.clone()),
            Source::Anonymous | Source::StaticToken(_) => None,
        };
        Event { user: principal.user().map(Into::into), issuer, ..self }
    }
}

/// What all reactors have put there, and what there was no room for.
#[derive(Debug)]
pub struct Audit {
    events: ArrayQueue<Event>,
    /// By kind, how many have no line of their own.
    dropped: [AtomicU64; EventKind::ALL.len()],
}

impl Default for Audit {
    fn default() -> Audit {
        Audit { events: ArrayQueue::new(EVENTS_MAX), dropped: Default::default() }
    }
}

impl Audit {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        !self.events.is_full()
    }

    /// One more, which is counted where there is no room for it.
    pub fn push(&self, event: Event) {
        let kind = event.kind;
        if self.events.push(event).is_err() {
            self.note_dropped(kind);
        }
    }

    /// The oldest that nobody has taken.
    pub fn pop(&self) -> Option<Event> {
        self.events.pop()
    }

    /// One of this kind has no line of its own.
    pub fn note_dropped(&self, kind: EventKind) {
        self.dropped[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By kind, how many have none.
    pub fn dropped(&self) -> [u64; EventKind::ALL.len()] {
        self.dropped.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// What a reactor has seen in this turn.
#[derive(Debug, Default)]
pub struct Auditor {
    audit: Arc<Audit>,
    noted: Vec<(ConnectionId, Event)>,
    /// When connections last asked for what they may not, in milliseconds (wrapping), by slot: of some.
    forbidden_ms: HashMap<u32, u32, RandomState>,
}

impl Auditor {
    /// One that puts it there.
    pub fn new(audit: Arc<Audit>) -> Auditor {
        Auditor { audit, ..Auditor::default() }
    }

    /// The connection did something; what `event` makes of it is asked for only if there is room.
    pub fn note(&mut self, connection: ConnectionId, kind: EventKind, event: impl FnOnce() -> Event) {
        match self.noted.len() < NOTED_MAX && self.audit.has_room() {
            true => self.noted.push((connection, event())),
            false => self.audit.note_dropped(kind),
        }
    }

    /// Whether a connection has not asked for what it may not for a minute, as far as that is remembered.
    pub fn is_first_forbidden(&mut self, slot: u32, now_ms: u32) -> bool {
        let last_ms = self.forbidden_ms.get(&slot);
        if last_ms.is_some_and(|last_ms| now_ms.wrapping_sub(*last_ms) < FORBIDDEN_MS) {
            return false;
        }
        if last_ms.is_none() && self.forbidden_ms.len() >= FORBIDDEN_MAX {
            self.forbidden_ms.clear();
        }
        self.forbidden_ms.insert(slot, now_ms);
        true
    }

    /// The connection is over.
    pub fn forget(&mut self, slot: u32) {
        if !self.forbidden_ms.is_empty() {
            self.forbidden_ms.remove(&slot);
        }
    }
}

impl Desk {
    /// A connection that was let in is closed.
    pub(super) fn audit_closed(&mut self, slot: u32, why: Why) {
        let kind = match why {
            Why::Blocked => EventKind::Blocked,
            Why::Revoked => EventKind::Revoked,
        };
        let (connection, principal) = (self.connections.id_of(slot), self.gate.principal(slot));
        let event = || match principal {
            Some(principal) => Event::new(kind).with_principal(principal),
            // It came when nobody was asked.
            None => Event::new(kind),
        };
        self.auditor.note(connection, kind, event);
    }

    /// A credential was not accepted.
    pub(super) fn note_refused(&mut self, slot: u32, access: &Access, why: Refused, credential: &Secret) {
        self.shared.troubles.note(Trouble::CredentialRefused);
        self.stats.credentials_refused_total[why.index()] += 1;
        // Now: it may have left the door by the turn's end.
        let address = self.door.address(slot);
        let (connection, meter) = (self.connections.id_of(slot), &mut self.meter);
        self.auditor.note(connection, EventKind::AuthFailed, || {
            // It is read once more.
            meter.spend(credential.get().len() as u64 * price::CREDENTIAL_BYTE);
            let (issuer, key_id) = access.tell_of(credential);
            let key_id = key_id.map(told_key_id);
            let reason = Some(why.as_str());
            Event { address, reason, issuer, key_id, ..Event::new(EventKind::AuthFailed) }
        });
    }

    /// Puts what was seen in this turn where the control thread finds it, with where each comes from.
    pub(super) fn tell_audit(&mut self, io: &mut impl Io) {
        let mut noted = std::mem::take(&mut self.auditor.noted);
        for (connection, mut event) in noted.drain(..) {
            self.meter.spend(price::COMMAND);
            // Of whoever has been let in nothing else is known any more, even if a proxy said it.
            if event.address.is_none() && self.connections.has(connection) {
                let socket = self.connections[connection.slot].socket;
                event.address = match io.peer_address(socket) {
                    Some(PeerAddress::Ip(address)) => Some(address.ip()),
                    Some(PeerAddress::Unix) | None => None,
                };
            }
            self.auditor.audit.push(event);
        }
        self.auditor.noted = noted;
    }
}

/// What is told of a key's name.
fn told_key_id(id: Box<str>) -> Box<str> {
    if id.len() <= KEY_ID_BYTES_MAX {
        return id;
    }
    let end = (0..=KEY_ID_BYTES_MAX).rev().find(|end| id.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &id[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 0 }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_not_made() {
        let audit = Arc::new(Audit::default());
        let mut auditor = Auditor::new(audit.clone());
        for number in 0..NOTED_MAX as u32 + 5 {
            auditor.note(connection(number), EventKind::AuthFailed, || {
                assert!(number < NOTED_MAX as u32, "there is no room for it");
                Event::new(EventKind::AuthFailed)
            });
        }
        assert_eq!(audit.dropped(), [5, 0, 0, 0]);
        // Others have filled the queue meanwhile.
        for _ in 0..EVENTS_MAX + 2 {
            audit.push(Event::new(EventKind::Blocked));
        }
        assert_eq!(audit.dropped(), [5, 0, 2, 0]);
        auditor.noted.clear();
        auditor.note(connection(0), EventKind::Forbidden, || unreachable!("there is no room"));
        assert_eq!(audit.dropped(), [5, 0, 2, 1]);
        assert!(audit.pop().is_some());
        auditor.note(connection(0), EventKind::Forbidden, || Event::new(EventKind::Forbidden));
        assert_eq!((auditor.noted.len(), audit.dropped()), (1, [5, 0, 2, 1]));
    }

    #[test]
    fn a_connection_is_told_of_once_a_minute_and_few_are_remembered() {
        let mut auditor = Auditor::default();
        let times = [(0u32, true), (1, false), (59_999, false), (60_000, true), (60_001, false)];
        for (now_ms, is_first) in times {
            assert_eq!(auditor.is_first_forbidden(3, now_ms.wrapping_sub(30_000)), is_first, "{now_ms}");
        }
        // Whoever has the slot next is another one.
        auditor.forget(3);
        assert!(auditor.is_first_forbidden(3, 30_002));
        for slot in 0..10 * FORBIDDEN_MAX as u32 {
            auditor.is_first_forbidden(slot, 0);
            assert!(auditor.forbidden_ms.len() <= FORBIDDEN_MAX);
        }
    }

    #[test]
    fn the_name_of_a_key_is_cut_between_characters() {
        for (id, told) in [
            ("a".repeat(64), "a".repeat(64)),
            ("a".repeat(65), format!("{}…", "a".repeat(64))),
            (format!("{}é", "a".repeat(63)), format!("{}…", "a".repeat(63))),
        ] {
            assert_eq!(*told_key_id(id.into()), *told);
        }
    }
}
