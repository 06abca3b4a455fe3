//! Who may do what in a world where clients are asked who they are.
//!
//! Each reactor hears of another configuration in a turn of its own, and a command is carried out somewhere between when it was
//! sent and when its answer is read: so a verdict has to be that of one configuration of those that the client's reactor may have gone
//! by. Whoever asked is known for certain, since nothing that stands behind an `auth` is carried out before it. Between two moments
//! at which the world is at rest a subscription that is not granted any more may go on; then it must be taken back.

mod era;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{Asked, Oracle, Seen, policy::matches};
use crate::{
    access::grants::Action,
    reactor::simulation::client::{Ask, Event},
};
pub use era::{Era, Person, Whose};

/// Who brings no token.
pub const ANONYMOUS: usize = 0;
/// Tokens tell whole seconds, and deadlines are met some time later.
const SLACK_MS: u64 = 1_100;
/// As the configuration of these worlds has it.
const FAILURE_DELAY_MS: u64 = 500;
const DEADLINE_MS: u64 = 5_000;
const RENEWAL_MS: u64 = 5_000;
/// So many that are to be turned away wait for that; more are turned away at once.
const REFUSED_MAX: usize = 2;
/// What is known of who may do what.
pub struct Rights {
    /// Everybody that there is.
    cast: Vec<Person>,
    eras: Vec<Era>,
    /// By reactor: since when it has gone by which era.
    taken: Vec<Vec<(u64, usize)>>,
    /// Counts turns and what clients send.
    moment: u64,
    /// When the world was at rest.
    quiet: BTreeSet<u64>,
    clients: Vec<Client>,
    /// Of each publication: who sent it, when, and as which of its identities.
    published: BTreeMap<usize, (usize, u64, usize)>,
    verdicts: RefCell<BTreeMap<(usize, usize, usize, String), bool>>,
}

/// What one client said of itself, and asks.
struct Client {
    reactor: usize,
    /// Who it was: at first, and after each `auth`.
    identities: Vec<Identity>,
    /// How many of them there were when the world was last at rest.
    quiet_count: usize,
    /// When its `hello` was read.
    hello_ms: u64,
    is_warned: bool,
    /// When it was last let in or renewed, as was read.
    proved_ms: u64,
    /// Between when and when the last `auth` was carried out that was not one too many.
    renewed_ms: Option<(u64, u64)>,
    commands: BTreeMap<u64, Command>,
    /// Without an id.
    mute: Vec<Command>,
}

#[derive(Clone, Debug)]
enum Identity {
    /// Not known yet: it depends on this token, if there is one.
    Unknown {
        token: Option<usize>,
        id: Option<u64>,
        moment: u64,
        sent_ms: u64,
    },
    /// A token is to come first.
    Stranger,
    Known(usize),
}

/// What a client asked.
#[derive(Clone, Debug)]
struct Command {
    moment: u64,
    /// As which of its identities.
    identity: usize,
    /// What has to be granted.
    needs: Vec<(Action, String)>,
    /// Whoever is a stranger may.
    is_ping: bool,
}

impl Rights {
    pub fn new(reactor_count: usize, cast: Vec<Person>, era: Era) -> Rights {
        Rights {
            cast,
            eras: vec![era],
            taken: vec![vec![(0, 0)]; reactor_count],
            moment: 0,
            quiet: BTreeSet::new(),
            clients: Vec::new(),
            published: BTreeMap::new(),
            verdicts: RefCell::default(),
        }
    }

    /// Reactors go by `era` from their next turn on.
    pub fn on_reload(&mut self, era: Era) {
        self.eras.push(era);
    }

    /// When the world was first at rest behind `moment`, or now.
    fn end_of(&self, moment: u64) -> u64 {
        self.quiet.range(moment..).next().copied().unwrap_or(self.moment)
    }

    fn last_quiet(&self) -> u64 {
        self.quiet.last().copied().unwrap_or(0)
    }

    /// What a reactor may have gone by between two moments.
    fn eras_between(&self, reactor: usize, from: u64, to: u64) -> std::vec::IntoIter<usize> {
        let taken = &self.taken[reactor];
        let first = taken.iter().rposition(|(moment, _)| *moment <= from).unwrap_or(0);
        let end = taken.iter().take_while(|(moment, _)| *moment <= to).count().max(first + 1);
        taken[first..end].iter().map(|(_, era)| *era).collect::<Vec<usize>>().into_iter()
    }

    fn may(&self, era: usize, who: usize, action: Action, filter: &str) -> bool {
        let key = (era, who, action as usize, filter.to_owned());
        let known = self.verdicts.borrow().get(&key).copied();
        known.unwrap_or_else(|| {
            let verdict = self.eras[era].may(&self.cast[who], action, filter);
            self.verdicts.borrow_mut().insert(key, verdict);
            verdict
        })
    }

    fn may_all(&self, era: usize, who: usize, needs: &[(Action, String)]) -> bool {
        needs.iter().all(|(action, filter)| self.may(era, who, *action, filter))
    }

    /// Whether the configurations between two moments may have accepted the token, and refused it.
    fn outcomes(&self, reactor: usize, token: usize, from: (u64, u64), now_ms: u64) -> (bool, bool) {
        let person = &self.cast[token];
        let (mut may_pass, mut may_fail) = (false, false);
        for era in self.eras_between(reactor, from.0, self.end_of(from.0)) {
            match self.eras[era].roles_of(person) {
                Some(_) => may_pass = true,
                None => may_fail = true,
            }
        }
        match person.ends_ms {
            Some(ends_ms) => {
                (may_pass && from.1 <= ends_ms + SLACK_MS, may_fail || now_ms + SLACK_MS >= ends_ms)
            }
            None => (may_pass, may_fail),
        }
    }

    /// Whether a token of `after` may take the place of one of `before`.
    fn is_same(&self, before: usize, after: usize) -> bool {
        let (before, after) = (&self.cast[before], &self.cast[after]);
        match (&before.whose, &after.whose) {
            (Whose::Anonymous, _) => true,
            (Whose::Static(_), Whose::Static(_)) | (Whose::Issuer { .. }, Whose::Issuer { .. }) => {
                before.user == after.user
            }
            _ => false,
        }
    }

    /// Who the client may have been as which it sent something.
    fn possible(&self, client: usize, identity: usize) -> Vec<usize> {
        match &self.clients[client].identities[identity] {
            Identity::Known(who) => vec![*who],
            Identity::Stranger => Vec::new(),
            Identity::Unknown { token, .. } => {
                let before = if identity > 0 { self.possible(client, identity - 1) } else { Vec::new() };
                before.into_iter().chain([token.unwrap_or(ANONYMOUS)]).collect()
            }
        }
    }

    /// Whether the client may be on its way out for what it brought: then nothing more is answered.
    fn may_be_turned_away(&self, client: usize, now_ms: u64) -> bool {
        let it = &self.clients[client];
        let identities = &it.identities;
        let unknown = identities.iter().position(|identity| matches!(identity, Identity::Unknown { .. }));
        let Some(first) = unknown else { return false };
        if first > 0 && !matches!(identities[first - 1], Identity::Stranger) {
            return false;
        }
        match &identities[first] {
            Identity::Unknown { token: Some(token), moment, sent_ms, .. } => {
                self.outcomes(it.reactor, *token, (*moment, *sent_ms), now_ms).1
            }
            _ => false,
        }
    }
}

impl Oracle {
    pub fn on_connect(&mut self, client: usize, reactor: usize, token: Option<&str>) {
        let now_ms = self.now_ms;
        let Some(rights) = &mut self.rights else { return };
        assert_eq!(rights.clients.len(), client);
        rights.moment += 1;
        let token = token.map(|token| rights.person_of(token));
        let first = Identity::Unknown { token, id: None, moment: rights.moment, sent_ms: now_ms };
        rights.clients.push(Client {
            reactor,
            identities: vec![first],
            quiet_count: 1,
            hello_ms: now_ms,
            is_warned: false,
            proved_ms: now_ms,
            renewed_ms: None,
            commands: BTreeMap::new(),
            mute: Vec::new(),
        });
    }

    pub fn on_turn(&mut self, reactor: usize) {
        let Some(rights) = &mut self.rights else { return };
        rights.moment += 1;
        let newest = rights.eras.len() - 1;
        if rights.taken[reactor].last().expect("it began with one").1 != newest {
            rights.taken[reactor].push((rights.moment, newest));
        }
    }

    /// The client sends a command.
    pub fn on_ask(&mut self, client: usize, ask: &Ask, id: Option<u64>) {
        let (now_ms, number) = (self.now_ms, self.publications.len());
        let Some(rights) = &mut self.rights else { return };
        rights.moment += 1;
        let moment = rights.moment;
        let identity = rights.clients[client].identities.len() - 1;
        let needs = match ask {
            Ask::Auth { token } => {
                let token = Some(rights.person_of(token));
                let unknown = Identity::Unknown { token, id, moment, sent_ms: now_ms };
                return rights.clients[client].identities.push(unknown);
            }
            Ask::Publish { topic, .. } => {
                rights.published.insert(number - 1, (client, moment, identity));
                vec![(Action::Publish, topic.clone())]
            }
            Ask::Subscribe { filter, start } => {
                let asks = start.since.is_some() || start.last.is_some_and(|last| last > 0);
                let past = asks.then(|| (Action::History, filter.clone()));
                [(Action::Subscribe, filter.clone())].into_iter().chain(past).collect()
            }
            Ask::Tour { filter, .. } => {
                vec![(Action::Subscribe, filter.clone()), (Action::History, filter.clone())]
            }
            Ask::History { topic, .. } => vec![(Action::History, topic.clone())],
            Ask::Unsubscribe { .. } | Ask::Ping => Vec::new(),
        };
        let command = Command { moment, identity, needs, is_ping: matches!(ask, Ask::Ping) };
        let it = &mut rights.clients[client];
        match id {
            Some(id) => assert!(it.commands.insert(id, command).is_none()),
            None => it.mute.push(command),
        }
    }

    /// What was asked and is answered otherwise than by an error was granted.
    pub(super) fn check_answer(&mut self, client: usize, event: &Event) {
        let Some(rights) = &mut self.rights else { return };
        let id = match event {
            Event::Ok { id, .. } | Event::Pong { id } => *id,
            Event::History(page) => page.id,
            _ => return,
        };
        rights.check_granted(client, id);
    }

    /// Whether the client may know the topic's past, and whether it may for certain, since the world was last at rest.
    pub(super) fn knows_past(&self, client: usize, topic: &str) -> (bool, bool) {
        let Some(rights) = &self.rights else { return (true, true) };
        let it = &rights.clients[client];
        let (mut may_know, mut must_know) = (false, true);
        for identity in it.quiet_count - 1..it.identities.len() {
            for who in rights.possible(client, identity) {
                for era in rights.eras_between(it.reactor, rights.last_quiet(), rights.moment) {
                    let is_granted = rights.may(era, who, Action::History, topic);
                    (may_know, must_know) = (may_know || is_granted, must_know && is_granted);
                }
            }
        }
        (may_know, must_know)
    }

    /// The publication has a place: whoever sent it may have.
    pub(super) fn check_may_publish(&self, number: usize) {
        let Some(rights) = &self.rights else { return };
        let publication = &self.publications[number];
        if publication.seq.is_some() {
            return;
        }
        let (client, moment, identity) = rights.published[&number];
        let end = rights.end_of(moment);
        let mut eras = rights.eras_between(rights.clients[client].reactor, moment, end);
        let possible = rights.possible(client, identity);
        let is_granted = eras
            .any(|era| possible.iter().any(|who| rights.may(era, *who, Action::Publish, &publication.topic)));
        assert!(is_granted, "client {client} may not publish to {}, and did", publication.topic);
    }

    /// Who may have sent the publication: the user's name, if it is somebody with one, and whether an issuer vouches for it.
    pub(super) fn publishers(&self, number: usize) -> Vec<Option<(bool, &str)>> {
        let Some(rights) = &self.rights else { return vec![None] };
        let (client, _, identity) = rights.published[&number];
        let named = |who: usize| {
            let person = &rights.cast[who];
            Some((matches!(person.whose, Whose::Issuer { .. }), person.user.as_deref()?))
        };
        rights.possible(client, identity).into_iter().map(named).collect()
    }

    /// Takes an error that is about what the client may do; tells whether it was one.
    pub(super) fn takes_refusal(&mut self, client: usize, id: Option<u64>, code: &str) -> bool {
        let now_ms = self.now_ms;
        let Some(rights) = &mut self.rights else { return false };
        let is_of_auth =
            |identity: &Identity| matches!(identity, Identity::Unknown { id: of, .. } if *of == id);
        if id.is_some() && rights.clients[client].identities.iter().any(is_of_auth) {
            rights.on_auth_answered(client, id, code, now_ms);
            return true;
        }
        let is_ours = code == "forbidden" || code == "unauthorized";
        let Some(id) = id else {
            let mute = &rights.clients[client].mute;
            let is_right = is_ours && mute.iter().any(|command| rights.may_refuse(client, command, code));
            assert!(is_right, "client {client}: {code} without an id");
            return true;
        };
        if !is_ours {
            assert_ne!(code, "rate_limited", "client {client}: of {id}");
            rights.check_granted(client, id);
            return false;
        }
        let command = rights.clients[client].commands.remove(&id);
        let command =
            command.unwrap_or_else(|| panic!("client {client}: {code} of {id}, which it did not ask"));
        let is_right = rights.may_refuse(client, &command, code);
        assert!(is_right, "client {client} is {code} of what it may: {command:?}");
        let seen = &mut self.clients[client];
        match seen.asked.remove(&id).expect("it was asked") {
            Asked::Subscribe(place) => seen.refuse(place),
            Asked::Publish { number, .. } => {
                let publication = &mut self.publications[number];
                assert_eq!(publication.seq, None, "a refused publication has no seq");
                publication.is_refused = true;
            }
            Asked::SubscribeAgain(..)
            | Asked::Unsubscribe(_)
            | Asked::UnsubscribeNothing(_)
            | Asked::History { .. } => {}
            asked @ Asked::Ping => panic!("client {client}: {asked:?} is {code}"),
        }
        true
    }

    /// The client is told who it is, or what becomes of its rights.
    pub(super) fn on_identity(&mut self, client: usize, event: &Event) {
        let now_ms = self.now_ms;
        let Some(rights) = &mut self.rights else {
            let told = Event::Hello { is_awaited: false, user: None, ends_in_s: None };
            return assert_eq!(*event, told, "nobody is asked");
        };
        match event {
            Event::Hello { is_awaited, user, ends_in_s } => {
                rights.on_hello(client, *is_awaited, user.as_deref(), *ends_in_s, now_ms);
            }
            Event::Authenticated { id, user, ends_in_s } => {
                let who = rights.on_auth_answered(client, Some(*id), "ok", now_ms);
                rights.check_told(who, user.as_deref(), *ends_in_s, now_ms);
            }
            Event::Expiring { in_s } => {
                let it = &mut rights.clients[client];
                assert!(
                    *in_s <= 60 && !it.is_warned,
                    "client {client} is told once, and not before its time"
                );
                it.is_warned = true;
                let Some(Identity::Known(who)) = it.identities.iter().rev().find(|it| it.is_known()) else {
                    panic!("client {client} is nobody, which does not end");
                };
                let ends_ms = rights.cast[*who].ends_ms.expect("a token that ends");
                assert!(
                    (now_ms + in_s * 1_000).abs_diff(ends_ms) <= SLACK_MS,
                    "client {client} ends in {in_s} s"
                );
            }
            Event::Unsubscribed { filter, reason } => {
                assert_eq!(reason, "forbidden");
                let it = &rights.clients[client];
                let persons: Vec<usize> = (it.quiet_count - 1..it.identities.len())
                    .flat_map(|identity| rights.possible(client, identity))
                    .collect();
                let mut eras = rights.eras_between(it.reactor, rights.last_quiet(), rights.moment);
                let is_right = eras
                    .any(|era| persons.iter().any(|who| !rights.may(era, *who, Action::Subscribe, filter)));
                assert!(is_right, "client {client} may receive {filter}, which is taken back");
                self.clients[client].on_taken_back(filter);
            }
            _ => unreachable!("another event"),
        }
    }

    /// Whether the client may be closed with 4001 and this text.
    pub fn may_turn_away(&self, client: usize, text: &str) -> bool {
        let now_ms = self.now_ms;
        let Some(rights) = &self.rights else { return false };
        let it = &rights.clients[client];
        let last = it.identities.len() - 1;
        match text {
            "unauthorized" => {
                let others = (0..rights.clients.len()).filter(|&other| {
                    rights.clients[other].reactor == it.reactor && rights.may_be_turned_away(other, now_ms)
                });
                let is_crowded = others.count() > REFUSED_MAX;
                let sent_ms = it.identities.iter().find_map(|identity| match identity {
                    Identity::Unknown { sent_ms, .. } => Some(*sent_ms),
                    _ => None,
                });
                let is_late = sent_ms.is_some_and(|sent_ms| now_ms >= sent_ms + FAILURE_DELAY_MS - 1);
                assert!(is_late || is_crowded, "client {client} is told at once");
                rights.may_be_turned_away(client, now_ms)
            }
            "no token came in time" => {
                let is_late = now_ms + SLACK_MS >= it.hello_ms + DEADLINE_MS;
                is_late && it.identities.iter().any(|identity| matches!(identity, Identity::Stranger))
            }
            "token expired" => {
                let mut possible = rights.possible(client, last).into_iter();
                let is_over = |who: usize| rights.cast[who].ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms);
                let had_time = it.proved_ms + 4 * SLACK_MS < now_ms;
                assert!(it.is_warned || !had_time, "client {client} is told before");
                possible.any(is_over)
            }
            "the token is not accepted any more" => {
                let possible = rights.possible(client, last);
                let mut eras = rights.eras_between(it.reactor, rights.last_quiet(), rights.moment);
                eras.any(|era| {
                    possible.iter().any(|who| rights.eras[era].roles_of(&rights.cast[*who]).is_none())
                })
            }
            _ => false,
        }
    }

    /// Whether the client is on its way out, and answered nothing.
    pub(super) fn is_turned_away(&self, client: usize) -> bool {
        let Some(rights) = &self.rights else { return false };
        rights.may_be_turned_away(client, self.now_ms)
    }

    /// The world is at rest: all have heard of the newest configuration, and nobody has what they may not have by it.
    pub fn check_rights(&mut self) {
        let now_ms = self.now_ms;
        let Some(rights) = &mut self.rights else { return };
        let newest = rights.eras.len() - 1;
        for (client, seen) in self.clients.iter().enumerate() {
            let Some(it) = rights.clients.get(client) else { continue };
            if seen.is_over || seen.got_close || rights.may_be_turned_away(client, now_ms) {
                continue;
            }
            let of_reactor = rights.taken[it.reactor].last().expect("it began with one");
            assert_eq!(of_reactor.1, newest, "a reactor has had a turn");
            match it.identities.last().expect("it began as somebody") {
                unknown @ Identity::Unknown { .. } => {
                    panic!("client {client} is not told who it is: {unknown:?}")
                }
                Identity::Stranger => {
                    assert!(
                        now_ms <= it.hello_ms + DEADLINE_MS + SLACK_MS,
                        "client {client} has had its time"
                    );
                }
                Identity::Known(who) => {
                    let person = &rights.cast[*who];
                    let is_accepted = rights.eras[newest].roles_of(person).is_some();
                    assert!(is_accepted, "client {client} is {person:?}, whom nothing vouches for any more");
                    let is_over = person.ends_ms.is_some_and(|ends_ms| ends_ms + SLACK_MS < now_ms);
                    assert!(!is_over, "client {client} has a token that has ended: {person:?}");
                    for held in seen.subscriptions.iter().filter(|it| it.ok_step.is_some() && !it.is_left) {
                        let is_granted = rights.may(newest, *who, Action::Subscribe, &held.filter);
                        assert!(is_granted, "client {client} may not receive {}, and does", held.filter);
                    }
                }
            }
        }
        rights.moment += 1;
        rights.quiet.insert(rights.moment);
        rights.clients.iter_mut().for_each(|it| it.quiet_count = it.identities.len());
    }
}

impl Rights {
    fn person_of(&self, token: &str) -> usize {
        self.cast.iter().position(|person| person.token == token).expect("somebody's token")
    }

    /// The command was carried out, or refused for another reason than rights: it was granted.
    fn check_granted(&mut self, client: usize, id: u64) {
        let command = self.clients[client].commands.remove(&id);
        let command =
            command.unwrap_or_else(|| panic!("client {client}: an answer to {id}, which it did not ask"));
        let it = &self.clients[client];
        let who = match &it.identities[command.identity] {
            Identity::Known(who) => *who,
            Identity::Stranger => {
                return assert!(command.is_ping, "client {client} is nobody yet: {command:?}");
            }
            unknown => panic!("client {client}: {id} is answered before {unknown:?}"),
        };
        let mut eras = self.eras_between(it.reactor, command.moment, self.end_of(command.moment));
        let is_granted = eras.any(|era| self.may_all(era, who, &command.needs));
        assert!(is_granted, "client {client} does what it may not: {command:?} as {:?}", self.cast[who]);
    }

    fn may_refuse(&self, client: usize, command: &Command, code: &str) -> bool {
        let it = &self.clients[client];
        let who = match &it.identities[command.identity] {
            Identity::Stranger => return code == "unauthorized",
            Identity::Known(who) => *who,
            unknown => panic!("client {client}: {command:?} is answered before {unknown:?}"),
        };
        let mut eras = self.eras_between(it.reactor, command.moment, self.end_of(command.moment));
        code == "forbidden" && eras.any(|era| !self.may_all(era, who, &command.needs))
    }

    fn on_hello(
        &mut self,
        client: usize,
        is_awaited: bool,
        user: Option<&str>,
        ends_in_s: Option<u64>,
        now_ms: u64,
    ) {
        let it = &self.clients[client];
        let Identity::Unknown { token, moment, sent_ms, .. } = it.identities[0].clone() else {
            panic!("client {client} is told twice who it is");
        };
        let mut eras = self.eras_between(it.reactor, moment, self.end_of(moment));
        let identity = match token {
            Some(token) => {
                let (may_pass, _) = self.outcomes(it.reactor, token, (moment, sent_ms), now_ms);
                assert!(may_pass && !is_awaited, "client {client} is let in as {:?}", self.cast[token]);
                Identity::Known(token)
            }
            None if is_awaited => {
                assert!(eras.any(|era| self.eras[era].anonymous.is_none()), "client {client} needs no token");
                Identity::Stranger
            }
            None => {
                assert!(eras.any(|era| self.eras[era].anonymous.is_some()), "client {client} needs a token");
                Identity::Known(ANONYMOUS)
            }
        };
        if let Identity::Known(who) = identity {
            self.check_told(who, user, ends_in_s, now_ms);
        }
        let it = &mut self.clients[client];
        it.identities[0] = identity;
        (it.hello_ms, it.proved_ms) = (now_ms, now_ms);
    }

    fn check_told(&self, who: usize, user: Option<&str>, ends_in_s: Option<u64>, now_ms: u64) {
        let person = &self.cast[who];
        assert_eq!(user, person.user.as_deref());
        let told_ms = ends_in_s.map(|ends_in_s| now_ms + ends_in_s * 1_000);
        match (told_ms, person.ends_ms) {
            (Some(told_ms), Some(ends_ms)) => {
                assert!(told_ms.abs_diff(ends_ms) <= 2 * SLACK_MS, "{person:?}")
            }
            (told_ms, ends_ms) => assert_eq!(told_ms, ends_ms, "{person:?}"),
        }
    }

    /// An `auth` is answered, by `ok` or an error; tells who the client is.
    fn on_auth_answered(&mut self, client: usize, id: Option<u64>, code: &str, now_ms: u64) -> usize {
        let it = &self.clients[client];
        let place = it.identities.iter().position(|identity| !identity.is_known());
        let place = place.expect("an auth that is not answered");
        let Identity::Unknown { token: Some(token), id: of, moment, sent_ms } = it.identities[place].clone()
        else {
            panic!("client {client}: an auth is answered before the hello");
        };
        assert_eq!(of, id, "client {client}: each auth in its turn");
        let (may_pass, may_fail) = self.outcomes(it.reactor, token, (moment, sent_ms), now_ms);
        let before = match &it.identities[place - 1] {
            Identity::Known(who) => Some(*who),
            _ => None,
        };
        let may_renew = before.is_none_or(|before| self.is_same(before, token));
        let is_limited =
            before.is_some() && it.renewed_ms.is_some_and(|(from_ms, _)| now_ms < from_ms + RENEWAL_MS);
        let may_be_limited = it.renewed_ms.is_some_and(|(_, to_ms)| sent_ms < to_ms + RENEWAL_MS);
        let is_right = match code {
            "ok" => may_pass && may_renew && !is_limited,
            "forbidden" => may_pass && !may_renew && !is_limited,
            "unauthorized" => may_fail && before.is_some() && !is_limited,
            "rate_limited" => may_be_limited,
            _ => false,
        };
        let (was, asks) = (before.map(|who| &self.cast[who]), &self.cast[token]);
        assert!(is_right, "client {client}, {was:?}, is {code} as {asks:?}");
        let it = &mut self.clients[client];
        if code == "ok" {
            it.identities[place] = Identity::Known(token);
            (it.is_warned, it.proved_ms) = (false, now_ms);
        } else {
            it.identities[place] = it.identities[place - 1].clone();
        }
        // Who was a stranger has not renewed anything.
        if code != "rate_limited" && before.is_some() {
            it.renewed_ms = Some((sent_ms, now_ms));
        }
        token
    }
}

impl Identity {
    /// Not as long as something is awaited.
    fn is_known(&self) -> bool {
        !matches!(self, Identity::Unknown { .. })
    }
}

impl Seen {
    /// The subscription never came to be.
    fn refuse(&mut self, place: usize) {
        let subscription = &mut self.subscriptions[place];
        (subscription.is_refused, subscription.is_left) = (true, true);
        let filter = subscription.filter.clone();
        if self.held.get(&filter) == Some(&place) {
            self.held.remove(&filter);
        }
    }

    /// The broker took a subscription back: of those that are there the one that began first.
    fn on_taken_back(&mut self, filter: &str) {
        let is_there = |has_begun: bool| {
            self.subscriptions.iter().position(|it| {
                it.filter == filter && !it.is_ended && !it.is_refused && it.ok_step.is_some() == has_begun
            })
        };
        let place = is_there(true).or_else(|| is_there(false));
        let place = place.unwrap_or_else(|| panic!("{filter} is taken back from who has it not"));
        let subscription = &mut self.subscriptions[place];
        (subscription.is_left, subscription.is_ended) = (true, true);
        // Whoever left it as well was too late: nothing of its own is due.
        subscription.left_count = 0;
        // Nor is the past refused of what it received by that alone.
        let asked =
            self.subscriptions.iter_mut().filter(|it| it.ok_step.is_none() && matches(filter, &it.filter));
        asked.for_each(|it| it.is_received = false);
        if self.held.get(filter) == Some(&place) {
            self.held.remove(filter);
        }
        self.forget_uncovered(filter);
    }
}
