//! Who is let in, and as whom: credentials that wait to be looked at, and what each connection may do.
//!
//! A credential takes longer to look at than anything else that a stranger can ask for, so that all of them, of requests and of
//! `auth` commands, wait in queues of which a turn works off its share, strangers in one and those that are let in in another;
//! whoever brought it waits too, and nothing that it sends behind is read. One that is not accepted is answered late, and nothing more is read of who brought it: so guessing is slow,
//! and costs the broker a slot that strangers have anyway, since those who are not let in count with those who are upgrading.

pub mod quotas;
mod rights;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;

use quotas::Quotas;

use super::{
    admission::usages::Usages,
    connection::{Pause, Phase},
    deadline::{Due, Since, TokenLeft},
    desk::Desk,
    pending::HeldId,
    share,
};
use crate::{
    access::{
        Access, Read, Refused,
        grants::{Action, RoleSet, Verdict},
        keys::KeyKind,
        principal::{Named, Principal, Source},
        revocation::{Revocations, Why},
        token::TokenFault,
    },
    metrics::Trouble,
    protocol::{
        Speech,
        close::CloseReason,
        command::{CommandError, ErrorCode, RequestId},
        deflate::Agreement,
        reply::{self, Identity, Reply},
        secret::Secret,
        tenant::Tenant,
    },
    pubsub::subscription::ConnectionId,
    uring::token::GENERATION_MASK,
    work::price,
};

/// So many whose credential was not accepted wait to be told; more are told at once.
const REFUSED_MAX: usize = if cfg!(test) { 2 } else { 1_024 };
/// How often a connection that is let in may bring another credential, in milliseconds.
const RENEWAL_MS: u32 = 5_000;
/// A client is told so long before its token ends, or a quarter of its time where that is less.
const WARNING_MS: u64 = 60_000;

/// What is known of who connections are: nothing, and no memory, where nobody is asked.
#[derive(Debug, Default)]
pub struct Gate {
    access: Option<Arc<Access>>,
    /// Who is not let in all the same.
    revocations: Arc<Revocations>,
    /// Of those that are let in, by slot.
    members: Vec<Option<Member>>,
    /// Of those that were, when nobody was asked any more, by slot: they go a few at a time, the last first.
    gone: Vec<Option<Member>>,
    /// Whose credentials wait, as they came; some may have gone.
    waiting: VecDeque<(ConnectionId, u64)>,
    /// Likewise of those that are let in.
    renewing: VecDeque<ConnectionId>,
    /// The one that was looked at last was of these.
    was_renewing: bool,
    /// The one that was looked at last came last.
    was_last: bool,
    /// What they brought, by slot.
    credentials: HashMap<u32, Waiting, RandomState>,
    quotas: Quotas,
    /// A credential was in a message that was just read.
    was_shown: bool,
    /// How many wait to be told that they are not let in.
    refused_count: usize,
    /// What the wall clock shows in this turn, in milliseconds since the Unix epoch.
    wall_ms: u64,
    /// The time of this turn, in nanoseconds.
    now_ns: u64,
    /// What was done, in [`price`]s, and not counted yet.
    work: u64,
}

/// Who a connection is.
#[derive(Debug)]
struct Member {
    principal: Arc<Principal>,
    /// As of which configuration this is.
    version: u64,
    roles: RoleSet,
    /// When it is to be told that its token ends soon, in milliseconds since the Unix epoch; never, once it was.
    warns_ms: u64,
    /// When it last brought a credential by a command, in milliseconds (wrapping), if it did.
    asked_ms: Option<u32>,
}

// One for each slot.
const _: () = assert!(size_of::<Option<Member>>() <= 40);

/// A credential that waits.
#[derive(Debug)]
struct Waiting {
    credential: Secret,
    /// How it came.
    asked: Asked,
}

/// How a credential came, and what is answered.
#[derive(Debug)]
enum Asked {
    /// With the request to upgrade: by a `hello`.
    Request,
    /// With an `auth`, which has this id: by an `ok`.
    Command(Option<HeldId>),
}

impl Gate {
    /// One that lets in whom `access` says but for those of `revocations`; without `access` everybody, and nobody is asked.
    pub fn new(access: Option<Arc<Access>>, revocations: Arc<Revocations>, usages: Arc<Usages>) -> Gate {
        Gate { access, revocations, quotas: Quotas::new(usages), ..Gate::default() }
    }

    /// A turn begins at `now_ns`, when the wall clock shows `wall_ms`.
    pub fn begin_turn(&mut self, now_ns: u64, wall_ms: u64) {
        (self.now_ns, self.wall_ms) = (now_ns, wall_ms);
    }

    /// Goes by `access` from now on.
    pub fn set_access(&mut self, access: Option<Arc<Access>>) {
        if access.is_none() {
            self.gone = std::mem::take(&mut self.members);
        }
        self.access = access;
    }

    /// Lets in nobody any more of whom these say so; whoever is let in already stays.
    pub fn set_revocations(&mut self, revocations: Arc<Revocations>) {
        self.revocations = revocations;
    }

    /// Why whoever the connection is should not be let in any more; none if it is nobody, or may stay.
    pub fn revoked(&self, slot: u32) -> Option<Why> {
        self.principal(slot).and_then(|principal| self.revokes(principal))
    }

    fn revokes(&self, principal: &Principal) -> Option<Why> {
        self.revocations.revokes(principal, self.wall_ms / 1_000)
    }

    /// Whether anybody is asked who they are.
    #[inline]
    pub fn asks(&self) -> bool {
        self.access.is_some()
    }

    /// What was just read may have a credential in it. Where nobody is asked there is none that is worth anything here.
    pub fn note_shown(&mut self) {
        self.was_shown = self.asks();
    }

    /// Whether what was just read had a credential in it, which is to be overwritten wherever it was.
    #[inline]
    pub fn take_shown(&mut self) -> bool {
        std::mem::take(&mut self.was_shown)
    }

    /// Whether credentials wait to be looked at.
    pub fn has_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.renewing.is_empty())
    }

    /// Whether the connection may do that with a topic, or with all that a filter matches; none if nobody is asked.
    pub fn may(&mut self, slot: u32, action: Action, filter: &str) -> Option<Verdict> {
        const NOTHING: Verdict = Verdict { is_allowed: false, held_count: 0 };
        self.access.as_ref()?;
        if !self.find_again(slot) {
            return Some(NOTHING);
        }
        let (access, member) = (self.access.as_ref()?, self.members[slot as usize].as_ref()?);
        Some(access.may(&member.principal, member.roles, action, filter))
    }

    /// Whose the topics are that the connection names; nobody's without one.
    #[inline]
    pub fn tenant(&self, slot: u32) -> Option<&Tenant> {
        self.principal(slot)?.tenant.as_deref()
    }

    /// Whether who connections were is still known, though nobody is asked any more.
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Forgets who the next connection was; tells its slot, and whether that was somebody of a tenant.
    pub fn forget_gone(&mut self) -> Option<(u32, bool)> {
        let member = self.gone.pop()?;
        let slot = self.gone.len() as u32;
        if slot == 0 {
            self.gone = Vec::new();
        }
        Some((slot, member.is_some_and(|member| member.principal.tenant.is_some())))
    }

    /// Whether the connection is let in as nobody in particular.
    pub fn is_anonymous(&self, slot: u32) -> bool {
        self.principal(slot).is_none_or(|principal| principal.source == Source::Anonymous)
    }

    /// The connection is over.
    pub fn forget(&mut self, slot: u32) {
        for members in [&mut self.members, &mut self.gone] {
            if let Some(member) = members.get_mut(slot as usize) {
                *member = None;
            }
        }
        self.count_out(slot);
    }

    /// Sees that what is known of the connection is as of now; false if it is nobody any more.
    pub fn find_again(&mut self, slot: u32) -> bool {
        let Some(access) = &self.access else { return false };
        let member = self.members.get(slot as usize).and_then(Option::as_ref);
        if member.is_some_and(|member| member.version == access.version()) {
            return true;
        }
        let principal = match member {
            Some(member) => access.find_again(&member.principal),
            // It came when nobody was asked.
            None => access.anonymous().cloned(),
        };
        let Some(principal) = principal else { return false };
        self.let_in(slot, principal);
        true
    }

    /// The connection is `principal` from now on.
    fn let_in(&mut self, slot: u32, principal: Arc<Principal>) {
        // After a reload its token may be another user's.
        if self.principal(slot).is_some_and(|before| before.named() != principal.named()) {
            self.count_out(slot);
        }
        // Who was there before there were limits is counted whatever they are.
        self.count_in(slot, &principal);
        let access = self.access.as_ref().expect("nobody is let in where nobody is asked");
        let (version, roles) = (access.version(), access.roles_of(&principal));
        self.work += price::MEMBERSHIP + access.lookup_count(&principal) as u64 * price::VISIT / 4;
        if self.members.len() <= slot as usize {
            self.members.resize_with(slot as usize + 1, || None);
        }
        let member = &mut self.members[slot as usize];
        let warns_ms = match (&member, ends_ms(&principal)) {
            // As of another configuration.
            (Some(member), _) if Arc::ptr_eq(&member.principal, &principal) => member.warns_ms,
            (_, Some(ends_ms)) => ends_ms - WARNING_MS.min(ends_ms.saturating_sub(self.wall_ms) / 4),
            (_, None) => u64::MAX,
        };
        let asked_ms = member.as_ref().and_then(|member| member.asked_ms);
        *member = Some(Member { principal, version, roles, warns_ms, asked_ms });
    }

    /// How long the connection's token goes on, if it has an end.
    pub fn token_left(&self, slot: u32) -> Option<TokenLeft> {
        let member = self.members.get(slot as usize)?.as_ref()?;
        let left_ms = |at_ms: u64| at_ms.saturating_sub(self.wall_ms);
        Some(TokenLeft {
            ends_in_ms: left_ms(ends_ms(&member.principal)?),
            warns_in_ms: (member.warns_ms < u64::MAX).then(|| left_ms(member.warns_ms)),
        })
    }

    /// The connection is told that its token ends soon.
    pub fn note_warned(&mut self, slot: u32) {
        if let Some(member) = self.members.get_mut(slot as usize).and_then(Option::as_mut) {
            member.warns_ms = u64::MAX;
        }
    }

    /// What was done since this was asked last.
    pub fn take_work(&mut self) -> u64 {
        std::mem::take(&mut self.work)
    }

    /// Who the connection is, as far as that is known.
    #[inline]
    pub fn principal(&self, slot: u32) -> Option<&Arc<Principal>> {
        Some(&self.members.get(slot as usize)?.as_ref()?.principal)
    }

    /// The name of whoever the connection is, if that is somebody with one.
    pub fn user(&self, slot: u32) -> Option<&str> {
        self.principal(slot)?.user()
    }

    /// Who that is, if it is somebody with a name.
    pub fn named(&self, slot: u32) -> Option<Named<'_>> {
        self.principal(slot)?.named()
    }

    /// How much the connection's credential takes while it waits, in bytes.
    pub fn held_bytes(&self, slot: u32) -> usize {
        match self.credentials.is_empty() {
            true => 0,
            false => self.credentials.get(&slot).map_or(0, |waiting| waiting.credential.get().len()),
        }
    }

    /// Whose credential is to be looked at next: by turns of one that is let in, however many strangers there are, and of a stranger.
    fn next(&mut self, now_ms: u64, patience_ms: u64) -> Option<ConnectionId> {
        self.was_renewing = !self.renewing.is_empty() && (self.waiting.is_empty() || !self.was_renewing);
        match self.was_renewing {
            true => self.renewing.pop_front(),
            false => self.next_stranger(now_ms, patience_ms),
        }
    }

    /// Which stranger's is: of the one that came first; but by turns of the last one as well once the first
    /// has waited for half of `patience_ms`, since whoever has waited for so long is mostly gone when its turn comes, and so
    /// would be all others. The first goes on all the same, so that the queue is no longer than what comes in that time.
    fn next_stranger(&mut self, now_ms: u64, patience_ms: u64) -> Option<ConnectionId> {
        let is_late = self.waiting.front().is_some_and(|(_, since_ms)| now_ms - since_ms > patience_ms / 2);
        self.was_last = is_late && !self.was_last;
        let next = if self.was_last { self.waiting.pop_back() } else { self.waiting.pop_front() };
        next.map(|(connection, _)| connection)
    }
}

impl Desk {
    /// The connection's upgrade is complete: it is let in, or what it brought is looked at, or it is to bring something.
    pub(super) fn handle_upgraded(
        &mut self,
        slot: u32,
        speech: Speech,
        agreement: Option<Agreement>,
        response: &[u8],
        credential: Option<Secret>,
    ) {
        let connection = &mut self.connections[slot];
        connection.speech = speech;
        connection.agreement = agreement;
        self.meter.spend(price::UPGRADE);
        self.replies(slot).extend_from_slice(response);
        self.stats.upgrades_total += 1;
        let Some(access) = self.gate.access.clone() else { return self.let_in(slot, Greeting::Hello) };
        match (credential, access.anonymous()) {
            (Some(credential), _) => {
                self.connections.enter(slot, Phase::Authenticating);
                self.keep_waiting(slot, credential, Asked::Request);
            }
            (None, Some(anonymous)) => {
                self.gate.let_in(slot, anonymous.clone());
                self.let_in(slot, Greeting::Hello);
            }
            // It has no commands.
            (None, None) if speech == Speech::Echo => {
                self.connections.enter(slot, Phase::Authenticating);
                self.shared.troubles.note(Trouble::CredentialRefused);
                self.refuse_credential(slot);
            }
            (None, None) => {
                self.connections.enter(slot, Phase::Authenticating);
                self.say_hello(slot, Identity { is_awaited: true, ..Identity::default() });
                let deadline_ms = self.now_ms() + self.shared.config.auth.deadline_ms;
                self.connections.timers.set(slot, deadline_ms);
            }
        }
    }

    /// What the connection sends has meaning from now on, and it is told so.
    fn let_in(&mut self, slot: u32, greeting: Greeting<'_>) {
        self.connections.enter(slot, Phase::Open);
        // Whoever is let in as nobody can still guess.
        if !self.gate.is_anonymous(slot) || !self.door.counts_failures() {
            self.door.forget(slot);
        }
        let principal = self.gate.principal(slot).cloned();
        let identity = principal.as_ref().map_or(Identity::default(), |principal| self.identity(principal));
        match greeting {
            Greeting::Hello => self.say_hello(slot, identity),
            Greeting::Ok(id) => self.write_reply(slot, &Reply::Authenticated { id, identity }),
        }
        let now_ms = self.now_ms();
        let connection = &mut self.connections[slot];
        (connection.active_ms, connection.is_pinged) = (now_ms as u32, false);
        self.meters.note_message(slot, now_ms as u32);
        self.set_open_deadline(slot);
    }

    /// The first thing that may be due of a connection that has just done something.
    fn set_open_deadline(&mut self, slot: u32) {
        let fresh = Since { token: self.gate.token_left(slot), ..Since::default() };
        let left_ms = match fresh.due(&self.shared.config.timeouts) {
            Due::Wait(left_ms) => left_ms,
            // Of its token alone: every timeout is longer than nothing.
            _ => 0,
        };
        self.connections.timers.set(slot, self.now_ms() + left_ms);
    }

    /// As whom a client is told that it is taken.
    fn identity<'a>(&self, principal: &'a Principal) -> Identity<'a> {
        let now_s = self.gate.wall_ms / 1_000;
        let expires_in_s = principal.expires_s.map(|expires_s| expires_s.get().saturating_sub(now_s));
        Identity { is_awaited: false, user: principal.user(), expires_in_s }
    }

    fn say_hello(&mut self, slot: u32, identity: Identity<'_>) {
        let connection = &self.connections[slot];
        let Speech::Commands(format) = connection.speech else { return };
        let name = (self.exchange.index() as u64) << 56
            | u64::from(connection.generation & GENERATION_MASK) << 32
            | u64::from(slot);
        let hello = Reply::Hello {
            epoch: self.shared.epoch,
            connection: self.shared.veil.cover(name),
            message_bytes_max: self.limits.message_bytes_max,
            ping_s: self.shared.config.timeouts.ping_ms.div_ceil(1_000),
            identity,
        };
        reply::write(format, &hello, self.replies(slot));
    }

    /// The credential is looked at in its turn, and nothing is read of the connection before.
    fn keep_waiting(&mut self, slot: u32, credential: Secret, asked: Asked) {
        self.connections[slot].pause = Pause::Gate;
        let (connection, since_ms) = (self.connections.id_of(slot), self.now_ms());
        // Whoever is nobody in particular brings as many as strangers do, and waits with them.
        match self.connections[slot].phase == Phase::Open && !self.gate.is_anonymous(slot) {
            true => self.gate.renewing.push_back(connection),
            false => self.gate.waiting.push_back((connection, since_ms)),
        }
        self.gate.credentials.insert(slot, Waiting { credential, asked });
    }

    /// Looks at credentials that wait: as many as their share of the turn has room for, and one in any case.
    pub fn look_at_credentials(&mut self) {
        if !self.gate.has_waiting() {
            return;
        }
        let until = self.meter.spent() + share::GATE;
        let patience_ms = self.shared.config.timeouts.handshake_ms;
        while let Some(connection) = self.gate.next(self.now_ms(), patience_ms) {
            self.meter.spend(price::LOOK);
            let slot = connection.slot;
            let is_there = self.connections.has(connection) && self.connections[slot].pause == Pause::Gate;
            if is_there && let Some(waiting) = self.gate.credentials.remove(&slot) {
                self.look_at(slot, waiting);
                self.note_buffered(slot);
            }
            if self.meter.spent() >= until {
                break;
            }
        }
        self.take_work();
    }

    /// What the connection brought was looked at: it goes on, at once where nothing of it waits and it is still received from.
    fn go_on_behind_gate(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let is_empty = connection.unread.as_ref().is_none_or(|unread| unread.is_empty());
        match connection.pause == Pause::Gate && connection.is_receiving && is_empty {
            true => {
                connection.unread = None;
                self.queues.end_pause(connection);
            }
            false => self.let_go_on(slot, Pause::Gate),
        }
    }

    fn look_at(&mut self, slot: u32, Waiting { credential, asked }: Waiting) {
        self.meter.spend(price::CREDENTIAL + credential.get().len() as u64 * price::CREDENTIAL_BYTE);
        let Some(access) = self.gate.access.clone() else {
            // Nobody is asked any more.
            self.go_on_behind_gate(slot);
            return self.let_in(slot, Greeting::of(&asked));
        };
        let is_open = self.connections[slot].phase == Phase::Open;
        if (!is_open || self.gate.is_anonymous(slot)) && self.is_banned_since(slot) {
            let text = "your address has brought too many tokens that were not accepted; try again later";
            return self.close(slot, CloseReason::Banned, text);
        }
        let found = access.read(&credential).and_then(|read| {
            self.meter.spend(proof_price(&read));
            access.prove(read, self.gate.wall_ms / 1_000)
        });
        let found = found.and_then(|principal| match self.gate.revokes(&principal) {
            Some(_) => Err(Refused::Revoked),
            None => Ok(principal),
        });
        if let Err(why) = found {
            self.note_refused(slot, &access, why, &credential);
        }
        match found {
            Ok(principal) if is_open => {
                if !self.renew(slot, principal, &asked) {
                    return;
                }
            }
            Ok(principal) => {
                if let Err(whose) = self.gate.may_have_another(slot, &principal) {
                    return self.close_for_quota(slot, whose);
                }
                self.gate.let_in(slot, principal);
                self.let_in(slot, Greeting::of(&asked));
            }
            Err(why) if access.awaits_keys(why) => {
                // At once: nothing of it was guessed at, and its client is not at fault.
                if !is_open {
                    return self.close(slot, CloseReason::KeysUnavailable, "try again");
                }
                let message = "the key that proves the token is not there yet; try again";
                self.refuse_command(slot, &auth_error(asked.id(), ErrorCode::Unavailable, message.into()));
            }
            Err(why) if is_open => {
                self.strike_for(slot, why);
                let message = "the token was not accepted";
                self.refuse_command(slot, &auth_error(asked.id(), ErrorCode::Unauthorized, message.into()));
            }
            Err(why) => {
                self.strike_for(slot, why);
                return self.refuse_credential(slot);
            }
        }
        self.go_on_behind_gate(slot);
    }

    /// A connection that is let in brought another credential, which is good. False if it is closed: it said who it is, and is
    /// one too many.
    fn renew(&mut self, slot: u32, principal: Arc<Principal>, asked: &Asked) -> bool {
        let before = self.gate.principal(slot);
        // Whoever was nobody may be anybody.
        let may =
            before.is_none_or(|before| before.source == Source::Anonymous || before.is_same_as(&principal));
        if !may {
            let message = "the token is somebody else's: one of the same user and issuer is allowed";
            self.refuse_command(slot, &auth_error(asked.id(), ErrorCode::Forbidden, message.into()));
            return true;
        }
        // By the same names it means other topics from now on.
        let is_elsewhere = !before.is_some_and(|before| before.is_of_same_tenant(&principal));
        if is_elsewhere && principal.tenant.is_some() && self.fanout.subscriptions_of(slot) > 0 {
            let message = "the token is a tenant's, and this connection has subscriptions of none: \
                           a token before any of them is allowed";
            self.refuse_command(slot, &auth_error(asked.id(), ErrorCode::Forbidden, message.into()));
            return true;
        }
        if let Err(whose) = self.gate.may_have_another(slot, &principal) {
            self.close_for_quota(slot, whose);
            return false;
        }
        self.gate.let_in(slot, principal.clone());
        // It may be allowed less than before.
        self.review.note_changed(self.connections.id_of(slot));
        self.door.forget(slot);
        let identity = self.identity(&principal);
        self.write_reply(slot, &Reply::Authenticated { id: asked.id(), identity });
        self.connections.timers.set(slot, self.now_ms());
        true
    }

    /// The connection brought a credential that is not accepted, of which nothing is known if it is let in as somebody.
    fn strike_for(&mut self, slot: u32, why: Refused) {
        // Without keys nobody can bring one that is accepted.
        if !matches!(why, Refused::Token(TokenFault::NoKeys { .. })) {
            self.strike(slot);
        }
    }

    /// Says later that the connection is not let in, and reads nothing more of it.
    fn refuse_credential(&mut self, slot: u32) {
        if self.gate.refused_count >= REFUSED_MAX {
            return self.close_unauthorized(slot);
        }
        self.gate.refused_count += 1;
        self.connections[slot].pause = Pause::Refusal;
        let delay_ms = self.shared.config.auth.failure_delay_ms;
        let life = u64::from(self.connections[slot].generation);
        let random_ms = self.shared.homes.spread(slot, self.shared.epoch ^ life) % (delay_ms + 1);
        self.connections.timers.set(slot, self.now_ms() + delay_ms + random_ms);
    }

    fn close_unauthorized(&mut self, slot: u32) {
        self.close(slot, CloseReason::Unauthorized, "unauthorized");
    }

    /// The deadline has passed of a connection that is not let in.
    pub(super) fn handle_stranger_deadline(&mut self, slot: u32) {
        match self.connections[slot].pause {
            Pause::Refusal => self.close_unauthorized(slot),
            Pause::Gate => {
                let text = "too many tokens are being looked at; come back later";
                self.close(slot, CloseReason::TryAgainLater, text);
            }
            _ => self.close(slot, CloseReason::AuthTimeout, "no token came in time"),
        }
    }

    /// The connection is closed, and need not wait at the gate any more.
    pub(super) fn leave_gate(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let pause = connection.pause;
        self.gate.refused_count -= usize::from(pause == Pause::Refusal);
        if matches!(pause, Pause::Refusal | Pause::Gate) {
            self.gate.credentials.remove(&slot);
            match connection.is_reading() {
                true => self.let_go_on(slot, pause),
                false => self.queues.end_pause(&mut self.connections[slot]),
            }
        }
    }

    /// A client says who it is, or goes on to be who it was.
    pub(super) fn handle_auth<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        token: &str,
    ) -> Result<(), CommandError<'a>> {
        self.gate.note_shown();
        if self.gate.access.is_none() {
            let message = "this broker asks nobody who they are; go on without";
            return Err(auth_error(id, ErrorCode::Unsupported, message.into()));
        }
        let now_ms = self.now_ms() as u32;
        if let Some(member) = self.gate.members.get_mut(slot as usize).and_then(Option::as_mut) {
            let since_ms = member.asked_ms.map_or(u32::MAX, |asked_ms| now_ms.wrapping_sub(asked_ms));
            if since_ms < RENEWAL_MS {
                let left_ms = RENEWAL_MS - since_ms;
                let message = format!("another token is allowed in {left_ms} ms");
                let retry_after_ms = Some(u64::from(left_ms));
                return Err(CommandError {
                    retry_after_ms,
                    ..auth_error(id, ErrorCode::RateLimited, message)
                });
            }
            member.asked_ms = Some(now_ms);
        }
        self.keep_waiting(slot, Secret::new(token), Asked::Command(id.map(HeldId::new)));
        Ok(())
    }
}

/// When its token ends, in milliseconds since the Unix epoch, if it does.
fn ends_ms(principal: &Principal) -> Option<u64> {
    principal.expires_s.map(|expires_s| expires_s.get().saturating_mul(1_000))
}

/// What it takes to prove a credential: of the keys that may have signed it, all.
fn proof_price(read: &Read<'_>) -> u64 {
    const BITS: u64 = 2_048;
    let Read::Signed(unverified) = read else { return 0 };
    let prices = unverified.keys().map(|key| match key.kind() {
        KeyKind::Hmac => price::PROOF_HMAC,
        KeyKind::Rsa => price::PROOF_RSA * u64::from(key.bits()).pow(2) / BITS.pow(2),
        KeyKind::EcP256 => price::PROOF_P256,
        KeyKind::EcP384 => price::PROOF_P384,
        KeyKind::Ed25519 => price::PROOF_ED25519,
    });
    prices.sum()
}

/// What a connection is told that is let in.
enum Greeting<'a> {
    Hello,
    /// To an `auth` with this id.
    Ok(Option<RequestId<'a>>),
}

impl Greeting<'_> {
    fn of(asked: &Asked) -> Greeting<'_> {
        match asked {
            Asked::Request => Greeting::Hello,
            Asked::Command(_) => Greeting::Ok(asked.id()),
        }
    }
}

impl Asked {
    fn id(&self) -> Option<RequestId<'_>> {
        match self {
            Asked::Request => None,
            Asked::Command(id) => id.as_ref().map(HeldId::get),
        }
    }
}

fn auth_error(id: Option<RequestId<'_>>, code: ErrorCode, message: String) -> CommandError<'_> {
    CommandError { op: Some("auth"), id, topic: None, code, message: message.into(), retry_after_ms: None }
}
