//! A reactor's view of one topic's log in one encoding: what is still owed, and to whom.
//!
//! It is a `Tail` and members, each with a position in it. Invariants, which [`View::check`] asserts:
//!
//! - a member's position is at the head, or inside a segment that is still here;
//! - a segment stays while a position is inside it, or a send of it is in flight, or an older segment
//!   stays; so memory is what the furthest-behind member pins;
//! - when every member is at the head and nothing is in flight, there are no segments at all: an idle
//!   topic pins no chunk.

use std::sync::Arc;

pub use super::tail::{Owed, Pin, Position};
use super::{
    message::{Batch, PendingId},
    policy::{Bound, Policy, Rule},
    subscription::ConnectionId,
    tail::{INDEX_MS, Tail},
    walk::Walk,
};
use crate::{
    protocol::{Encoding, topic::TopicName},
    work::price,
};

/// One topic in one encoding, as this reactor's connections receive it.
#[derive(Debug)]
pub struct View {
    /// The topic.
    pub name: Arc<str>,
    /// What the home knows of our exact subscriptions.
    pub registration: Registration,
    /// Connections whose exact subscription waits for the home's answer, in order.
    pub waiting: Vec<Waiting>,
    /// Of which state of the filters the wildcard members are; 0: all of them are to be looked for anew.
    pub filters_generation: u64,
    /// How many replays of the topic's past are under way, and pages of it asked for, each of which may register us.
    pub replaying_count: u32,
    /// Nothing moved for long and only filters hold members, who are being let go of.
    pub is_dropping: bool,
    /// The cursor's state; kept by the fan-out.
    pub sweep: Sweep,
    rule: Rule,
    /// Of which generation of the policy the rule is.
    rule_generation: u32,
    tail: Tail,
    members: Vec<Member>,
    /// Members that have an exact subscription.
    exact_count: u32,
    /// Members whose position is the head.
    at_head_count: u32,
}

// Every topic that somebody receives has one, and every subscription a member.
const _: () = assert!(size_of::<View>() == 248 && size_of::<Member>() == 16);

/// Whether the home sends this topic's batches because of exact subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It was not asked, or was told to stop.
    None,
    /// It was asked and has not answered.
    Pending,
    /// It does, from `seq` on.
    Active,
}

/// A question that is answered when the topic's `seq` is known.
#[derive(Debug)]
pub struct Waiting {
    /// Who asks.
    pub connection: ConnectionId,
    /// The question to answer with `ok`.
    pub pending: Option<PendingId>,
}

/// Where a topic's cursor is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// Which members it has visited.
    pub(super) walk: Walk,
    /// When it began, in nanoseconds.
    pub started_ns: u64,
    /// Where the head was then, and when the sweep before it began, in bytes that were ever appended.
    pub started_bytes: [u64; 2],
    /// The head has moved since it began: another sweep is due after it.
    pub is_outrun: bool,
    /// The view is on the fan-out's list of those that sweep or wait for their next sweep.
    pub is_listed: bool,
}

/// Where a view has a member. It is another's as soon as somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberSlot(u32);

impl MemberSlot {
    /// No member's.
    pub(super) const NONE: MemberSlot = MemberSlot(u32::MAX);

    /// That of the member with this number, from 0 on.
    pub(super) fn new(number: u32) -> MemberSlot {
        MemberSlot(number)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connection as a receiver of this view.
#[derive(Debug)]
pub struct Member {
    /// The connection's slot.
    pub connection: u32,
    /// Where the connection's own list has this membership.
    pub subscription: u32,
    position: Position,
}

/// A member has another place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) connection: u32,
    pub(super) subscription: u32,
    pub(super) slot: MemberSlot,
}

impl View {
    /// A view without members or log, which goes by `policy`; and the price of looking into that.
    pub fn new(name: Arc<str>, encoding: Encoding, policy: &Policy) -> (View, u64) {
        let (rule, visited) = policy.rule_of(&name);
        let view = View {
            name,
            registration: Registration::None,
            waiting: Vec::new(),
            filters_generation: 0,
            replaying_count: 0,
            is_dropping: false,
            rule,
            rule_generation: policy.generation(),
            sweep: Sweep::default(),
            tail: Tail::new(encoding),
            members: Vec::new(),
            exact_count: 0,
            at_head_count: 0,
        };
        (view, u64::from(visited) * price::MATCH)
    }

    /// Goes by `policy` from now on, if it went by an older one; tells the price of that.
    #[inline]
    pub fn follow(&mut self, policy: &Policy) -> u64 {
        if self.rule_generation == policy.generation() {
            return 0;
        }
        let (rule, visited) = policy.rule_of(&self.name);
        (self.rule, self.rule_generation) = (rule, policy.generation());
        u64::from(visited) * price::MATCH
    }

    /// What becomes of a member that is too far behind, and what that is: by the policy that it follows.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The topic's name.
    pub fn topic(&self) -> TopicName<&str> {
        TopicName::checked(&*self.name)
    }

    /// The encoding.
    pub fn encoding(&self) -> Encoding {
        self.tail.encoding()
    }

    /// How many connections receive it.
    pub fn member_count(&self) -> u32 {
        self.members.len() as u32
    }

    /// How many of them have an exact subscription.
    pub fn exact_count(&self) -> u32 {
        self.exact_count
    }

    /// How many of them are behind.
    pub fn behind_count(&self) -> u32 {
        self.member_count() - self.at_head_count
    }

    /// The newest publication's `seq`.
    pub fn head_seq(&self) -> u64 {
        self.tail.head_seq()
    }

    /// How many bytes were ever appended.
    pub fn head_bytes(&self) -> u64 {
        self.tail.head_bytes()
    }

    /// How many of those the member in `slot` was sent, or does not get.
    pub fn sent_bytes(&self, slot: MemberSlot) -> u64 {
        self.head_bytes() - self.owed_bytes(slot)
    }

    /// The member in `slot`.
    pub fn member(&self, slot: MemberSlot) -> &Member {
        &self.members[slot.index()]
    }

    /// Every member, with its slot.
    pub fn members(&self) -> impl Iterator<Item = (MemberSlot, &Member)> {
        (0u32..).map(MemberSlot).zip(&self.members)
    }

    /// How many bytes of log it keeps for those who are behind, up to one segment more than the furthest
    /// behind is owed.
    pub fn kept_bytes(&self) -> u64 {
        self.tail.kept_bytes()
    }

    /// The memory of its segments and record starts, in bytes: what the log's budget is charged with.
    pub fn index_bytes(&self) -> usize {
        self.tail.index_bytes()
    }

    /// Whether its log is empty: nobody is behind, and no send of it is in flight.
    pub fn is_log_empty(&self) -> bool {
        self.tail.is_empty()
    }

    /// Whether nothing is left that needs the view: it can be dropped and made anew.
    pub fn is_unused(&self) -> bool {
        self.member_count() == 0
            && self.waiting.is_empty()
            && self.replaying_count == 0
            && self.registration == Registration::None
            && self.tail.is_empty()
    }

    /// Moves the head: what `batch` holds is now owed to every member, since `now_ms` (wrapping), which is
    /// `clock` on the log's age clock.
    pub fn append(&mut self, batch: Batch, now_ms: u32, clock: u64) {
        if self.member_count() == 0 {
            return self.tail.set_head_seq(batch.seq + u64::from(batch.count) - 1);
        }
        self.at_head_count = 0;
        self.tail.append(batch, now_ms, clock, self.members.len() as u32);
    }

    /// The next member that the cursor visits; none when the sweep is over.
    #[inline]
    pub fn next_visit(&mut self) -> Option<MemberSlot> {
        self.sweep.walk.step().map(MemberSlot)
    }

    /// Whether the cursor is still to visit the member in `slot`.
    pub fn will_visit(&self, slot: MemberSlot) -> bool {
        self.sweep.walk.is_ahead(slot.0)
    }

    /// The cursor is to visit everybody: a sweep begins.
    pub fn start_sweep(&mut self, now_ns: u64) {
        let head_bytes = self.head_bytes();
        let sweep = &mut self.sweep;
        sweep.walk = Walk::new(self.members.len());
        sweep.started_ns = now_ns;
        sweep.started_bytes = [head_bytes, sweep.started_bytes[0]];
        sweep.is_outrun = false;
    }

    /// How many bytes at most a member can be owed more than when it was visited in the sweep before this
    /// one.
    pub fn grown_bytes(&self) -> u64 {
        self.head_bytes() - self.sweep.started_bytes[1]
    }

    /// What follows is after `seq`; what was owed so far stays owed.
    pub fn set_head_seq(&mut self, seq: u64) {
        self.tail.set_head_seq(seq);
    }

    /// Adds a member at the head: it gets what is appended from now on.
    pub fn join(&mut self, connection: u32, subscription: u32, is_exact: bool) -> MemberSlot {
        let position = self.tail.count_head();
        self.at_head_count += 1;
        self.exact_count += u32::from(is_exact);
        self.members.push(Member { connection, subscription, position });
        MemberSlot(self.members.len() as u32 - 1)
    }

    /// A member gains or loses its exact subscription; it stays.
    pub fn set_exact(&mut self, is_exact: bool) {
        self.exact_count = self
            .exact_count
            .checked_add_signed(if is_exact { 1 } else { -1 })
            .expect("a member loses the exact subscription that it has");
    }

    /// Removes the member in `slot`, and tells who has another place for it.
    pub(super) fn leave(&mut self, slot: MemberSlot, was_exact: bool) -> impl Iterator<Item = Moved> + use<> {
        if !self.is_behind(slot) {
            self.at_head_count -= 1;
        }
        self.tail.uncount(self.member(slot).position);
        self.exact_count -= u32::from(was_exact);
        let moves = self.sweep.walk.close(slot.0, self.members.len()).map(|(from, to)| {
            if from == to {
                return None;
            }
            self.members.swap(from as usize, to as usize);
            let Member { connection, subscription, .. } = self.members[to as usize];
            Some(Moved { connection, subscription, slot: MemberSlot(to) })
        });
        self.members.pop();
        if self.members.is_empty() {
            self.members = Vec::new();
        }
        self.release();
        moves.into_iter().flatten()
    }

    /// The connection's list has this membership elsewhere now.
    pub fn set_subscription(&mut self, slot: MemberSlot, subscription: u32) {
        self.members[slot.index()].subscription = subscription;
    }

    /// Whether the member in `slot` is owed anything.
    #[inline]
    pub fn is_behind(&self, slot: MemberSlot) -> bool {
        !self.tail.is_head(self.member(slot).position)
    }

    /// How many bytes the member in `slot` is owed.
    pub fn owed_bytes(&self, slot: MemberSlot) -> u64 {
        self.tail.bytes_from(self.member(slot).position)
    }

    /// When the oldest publication that the member in `slot` is owed was appended, or up to `INDEX_MS`
    /// before that, in milliseconds (wrapping).
    pub fn owed_since_ms(&self, slot: MemberSlot) -> Option<u32> {
        self.tail.appended_ms(self.member(slot).position)
    }

    /// Which bound of its topic's rule the member in `slot` is beyond at `now_ms` (wrapping).
    pub fn exceeded(&self, slot: MemberSlot, now_ms: u32) -> Option<Bound> {
        if self.owed_bytes(slot) > self.rule.owed_bytes_max {
            return Some(Bound::OwedBytes);
        }
        let (ms_max, since_ms) = (self.rule.owed_ms_max?.get(), self.owed_since_ms(slot)?);
        (now_ms.wrapping_sub(since_ms) > ms_max + INDEX_MS).then_some(Bound::OwedMs)
    }

    /// Where a member that is beyond a bound of its topic's rule goes on: with half of what each allows.
    pub fn position_within_rule(&self, now_ms: u32) -> Position {
        let by_bytes = self.position_within(self.rule.owed_bytes_max / 2);
        match self.rule.owed_ms_max.map(|ms_max| self.position_within_ms(ms_max.get() / 2, now_ms)) {
            Some(by_age) => self.tail.later(by_age, by_bytes),
            None => by_bytes,
        }
    }

    /// Takes the next bytes that the member in `slot` is owed: at most `bytes_max` of whole records, but
    /// at least one record. They count as sent, and are pinned until [`View::unpin`].
    pub fn take(&mut self, slot: MemberSlot, bytes_max: u32) -> Option<Owed> {
        let position = &mut self.members[slot.index()].position;
        let (owed, is_at_head) = self.tail.take(position, bytes_max)?;
        self.at_head_count += u32::from(is_at_head);
        Some(owed)
    }

    /// [`View::unpin`] if that lets go of nothing: somebody is behind, and another send of the segment is in flight or
    /// a position is in it. Else does nothing; tells which.
    #[inline]
    pub fn unpin_kept(&mut self, pin: Pin) -> bool {
        self.behind_count() > 0 && self.tail.unpin_kept(pin)
    }

    /// A send of what [`View::take`] gave is over.
    pub fn unpin(&mut self, pin: Pin) {
        self.tail.unpin(pin);
        self.release();
    }

    /// Moves the member in `slot` forward to `to` and tells which `seq`s it will not get; none if it is
    /// there or beyond.
    pub fn skip(&mut self, slot: MemberSlot, to: Position) -> Option<(u64, u64)> {
        let position = &mut self.members[slot.index()].position;
        let skipped = self.tail.skip(position, to)?;
        self.at_head_count += u32::from(self.tail.is_head(*position));
        self.release();
        Some(skipped)
    }

    /// Whether publication `seq` is among what the member in `slot` is owed, if it was ever published.
    pub fn is_owed(&self, slot: MemberSlot, seq: u64) -> bool {
        self.tail.position_before(self.members[slot.index()].position, seq + 1).is_some()
    }

    /// Moves the member in `slot` behind what was published before `seq`, which it does not get; unless it is there or beyond.
    pub fn skip_before(&mut self, slot: MemberSlot, seq: u64) {
        let position = self.members[slot.index()].position;
        if let Some(to) = self.tail.position_before(position, seq) {
            self.skip(slot, to);
        }
    }

    /// The first record from which on at most `bytes` are owed; the head if the newest record alone is more.
    pub fn position_within(&self, bytes: u64) -> Position {
        self.tail.position_within(bytes)
    }

    /// The first record that is known to be at most `ms_max` old at `now_ms` (wrapping); else the head.
    pub fn position_within_ms(&self, ms_max: u32, now_ms: u32) -> Position {
        self.tail.position_within_ms(ms_max, now_ms)
    }

    /// The first record that lies, as all before it do not, in a segment that is not stale: one whose chunk is
    /// still being written, or whose newest content was appended at `clock` or later; else the head. None where
    /// that is already the oldest.
    pub fn position_fresh(&self, clock: u64) -> Option<Position> {
        self.tail.position_fresh(clock)
    }

    /// Whether the position of the member in `slot` is before `position`.
    pub fn is_before(&self, slot: MemberSlot, position: Position) -> bool {
        self.tail.is_before(self.member(slot).position, position)
    }

    /// Whether `pin` keeps a segment that is stale: see [`View::position_fresh`].
    pub fn pins_stale(&self, pin: Pin, clock: u64) -> bool {
        self.tail.pins_stale(pin, clock)
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        let at_head = self.members().filter(|(slot, _)| !self.is_behind(*slot)).count();
        assert_eq!(at_head, self.at_head_count as usize);
        self.tail.check(self.members.iter().map(|member| member.position));
    }

    /// Lets go of the segments that nobody needs.
    fn release(&mut self) {
        self.tail.release(self.behind_count() == 0);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::{
        prelude::*,
        sample::Index,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{
        protocol::frame,
        pubsub::log::{Appender, Budget, ChunkPool, Range},
    };

    #[derive(Clone, Debug)]
    enum Step {
        /// Payload lengths; into which of two chunks; how many `seq`s are jumped before.
        Append(Vec<usize>, usize, u64),
        /// The home said where its numbering is.
        SetHead(u64),
        Join(bool),
        Leave(Index),
        Take(Index, u32),
        Unpin(Index),
        /// Forward until at most so many bytes are owed.
        SkipBytes(Index, u64),
        /// Forward to what was appended so many milliseconds ago, or later.
        SkipMs(Index, u32),
        Pass(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lens = prop::collection::vec(0usize..40, 1..5);
        let jump = prop_oneof![9 => Just(0u64), 1 => 1u64..5];
        prop_oneof![
            6 => (lens, 0usize..2, jump).prop_map(|(lens, chunk, jump)| Step::Append(lens, chunk, jump)),
            1 => (0u64..5).prop_map(Step::SetHead),
            2 => any::<bool>().prop_map(Step::Join),
            2 => any::<Index>().prop_map(Step::Leave),
            6 => (any::<Index>(), 0u32..200).prop_map(|(member, bytes_max)| Step::Take(member, bytes_max)),
            5 => any::<Index>().prop_map(Step::Unpin),
            1 => (any::<Index>(), 0u64..300).prop_map(|(member, bytes)| Step::SkipBytes(member, bytes)),
            1 => (any::<Index>(), 0u32..1_000).prop_map(|(member, ms)| Step::SkipMs(member, ms)),
            2 => (1u32..300).prop_map(Step::Pass),
        ]
    }

    const RULE: Rule = Rule { may_skip: true, owed_bytes_max: 200, owed_ms_max: NonZeroU32::new(500) };

    /// The naive twin: every record that was ever appended, and how many of them each member has had.
    #[derive(Default)]
    struct Twin {
        records: Vec<TwinRecord>,
        members: Vec<TwinMember>,
        pins: Vec<(Pin, *const u8, Vec<u8>)>,
    }

    #[derive(Clone)]
    struct TwinRecord {
        seq: u64,
        bytes: Vec<u8>,
        appended_ms: u32,
    }

    struct TwinMember {
        slot: MemberSlot,
        connection: u32,
        is_exact: bool,
        had: usize,
    }

    impl Twin {
        fn owed(&self, member: &TwinMember) -> &[TwinRecord] {
            &self.records[member.had..]
        }

        /// The member misses the oldest `count` records that it is owed: the gap.
        fn skip(&mut self, place: usize, count: usize) -> Option<(u64, u64)> {
            let owed = self.owed(&self.members[place]);
            let first = owed[..count].first()?.seq;
            let last = owed.get(count).map_or(owed[count - 1].seq, |next| next.seq - 1);
            self.members[place].had += count;
            Some((first, last))
        }
    }

    fn record_of(seq: u64, payload_len: usize) -> Vec<u8> {
        let payload = vec![seq as u8; payload_len];
        let mut record = vec![0; frame::header_len(payload_len)];
        frame::write_header(frame::Opcode::Text, payload_len, &mut record);
        record.extend(payload);
        record
    }

    /// Appends to one of two small chunks in turn, so that ranges join, do not join, and come back to a
    /// chunk that an older range ends in.
    fn write(pool: &mut ChunkPool, chunk: &mut Option<Appender>, bytes: &[u8]) -> Range {
        if chunk.as_ref().is_none_or(|chunk| chunk.room() < bytes.len()) {
            chunk.replace(pool.acquire(400, 0)).into_iter().for_each(|full| pool.retire(full));
        }
        let chunk = chunk.as_mut().expect("it was just put there");
        chunk.append(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    proptest! {
        #![proptest_config(Config {
            cases: 250,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(11),
            ..Config::default()
        })]

        #[test]
        fn a_view_owes_what_a_list_of_records_would(steps in prop::collection::vec(step(), 1..80)) {
            let mut pool = ChunkPool::new(Budget::new(1 << 20));
            let mut chunks = [None, None];
            let (mut view, _) = View::new("t".into(), Encoding::Json, &Policy::new(200, RULE, []));
            // Shortly before it wraps.
            let mut now_ms = u32::MAX - 1_000;
            let mut twin = Twin::default();
            let mut next_connection = 0;
            for step in steps {
                match step {
                    Step::Append(lens, chunk, jump) => {
                        let first = view.head_seq() + 1 + jump;
                        let record = |(seq, &len)| {
                            TwinRecord { seq, bytes: record_of(seq, len), appended_ms: now_ms }
                        };
                        let records: Vec<_> = (first..).zip(&lens).map(record).collect();
                        let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.clone()).collect();
                        let range = write(&mut pool, &mut chunks[chunk], &bytes);
                        let count = lens.len() as u32;
                        let batch = Batch { topic: "t".into(), encoding: Encoding::Json, seq: first, count, range };
                        view.append(batch, now_ms, 0);
                        prop_assert_eq!(view.head_seq(), first + lens.len() as u64 - 1);
                        if !twin.members.is_empty() {
                            twin.records.extend(records);
                        }
                    }
                    Step::SetHead(jump) => view.set_head_seq(view.head_seq() + jump),
                    Step::Join(is_exact) => {
                        let connection = next_connection;
                        next_connection += 1;
                        let slot = view.join(connection, connection + 100, is_exact);
                        let had = twin.records.len();
                        twin.members.push(TwinMember { slot, connection, is_exact, had });
                    }
                    Step::Leave(member) if !twin.members.is_empty() => {
                        let member = twin.members.remove(member.index(twin.members.len()));
                        for moved in view.leave(member.slot, member.is_exact) {
                            assert_eq!(moved.subscription, moved.connection + 100);
                            let twin = twin.members.iter_mut().find(|it| it.connection == moved.connection);
                            twin.expect("whoever moves has not left").slot = moved.slot;
                        }
                    }
                    Step::Take(member, bytes_max) if !twin.members.is_empty() => {
                        let place = member.index(twin.members.len());
                        let owed = twin.owed(&twin.members[place]).to_vec();
                        let taken = view.take(twin.members[place].slot, bytes_max);
                        prop_assert_eq!(taken.is_some(), !owed.is_empty());
                        let Some(taken) = taken else { continue };
                        // SAFETY: the pin keeps the bytes there, and no range is written twice.
                        let bytes = unsafe { std::slice::from_raw_parts(taken.bytes, taken.len as usize) };
                        let mut count = 0;
                        let mut expected = Vec::new();
                        while expected.len() < bytes.len() {
                            expected.extend_from_slice(&owed[count].bytes);
                            count += 1;
                        }
                        prop_assert_eq!(bytes, expected.as_slice());
                        prop_assert!(count == 1 || taken.len <= bytes_max);
                        twin.members[place].had += count;
                        twin.pins.push((taken.pin, taken.bytes, expected));
                    }
                    Step::Unpin(pin) if !twin.pins.is_empty() => {
                        let (pin, start, expected) = twin.pins.remove(pin.index(twin.pins.len()));
                        // SAFETY: as above.
                        let bytes = unsafe { std::slice::from_raw_parts(start, expected.len()) };
                        prop_assert_eq!(bytes, expected.as_slice());
                        view.unpin(pin);
                    }
                    Step::SkipBytes(member, bytes) if !twin.members.is_empty() => {
                        let place = member.index(twin.members.len());
                        let owed = twin.owed(&twin.members[place]);
                        let kept = |from: usize| owed[from..].iter().map(|it| it.bytes.len()).sum::<usize>();
                        let count = (0..).find(|from| kept(*from) as u64 <= bytes).unwrap();
                        let expected = twin.skip(place, count);
                        let position = view.position_within(bytes);
                        prop_assert_eq!(view.skip(twin.members[place].slot, position), expected);
                    }
                    Step::SkipMs(member, ms) if !twin.members.is_empty() => {
                        let place = member.index(twin.members.len());
                        let slot = twin.members[place].slot;
                        let owed = twin.owed(&twin.members[place]).to_vec();
                        let gap = view.skip(slot, view.position_within_ms(ms, now_ms));
                        let kept_bytes = view.owed_bytes(slot) as usize;
                        let kept = |from: usize| owed[from..].iter().map(|it| it.bytes.len()).sum::<usize>();
                        let count = (0..=owed.len()).find(|from| kept(*from) == kept_bytes).expect("whole records");
                        prop_assert_eq!(gap, twin.skip(place, count));
                        let age = |it: &TwinRecord| now_ms.wrapping_sub(it.appended_ms);
                        prop_assert!(owed[count..].iter().all(|kept| age(kept) <= ms));
                        prop_assert!(owed[..count].iter().all(|missed| age(missed) + INDEX_MS > ms));
                    }
                    Step::Pass(ms) => now_ms = now_ms.wrapping_add(ms),
                    _ => {}
                }
                view.check();
                prop_assert_eq!(view.member_count() as usize, twin.members.len());
                prop_assert_eq!(
                    view.exact_count() as usize,
                    twin.members.iter().filter(|member| member.is_exact).count()
                );
                for member in &twin.members {
                    prop_assert_eq!(view.member(member.slot).connection, member.connection);
                    let oldest = twin.owed(member).first();
                    let early_ms = oldest.zip(view.owed_since_ms(member.slot));
                    let early_ms = early_ms.map(|(oldest, since)| oldest.appended_ms.wrapping_sub(since));
                    prop_assert!(early_ms.is_none_or(|early_ms| early_ms < INDEX_MS));
                    prop_assert_eq!(view.owed_since_ms(member.slot).is_some(), oldest.is_some());
                    let owed: usize = twin.owed(member).iter().map(|record| record.bytes.len()).sum();
                    prop_assert_eq!(view.owed_bytes(member.slot), owed as u64);
                    prop_assert_eq!(view.is_behind(member.slot), owed > 0);
                }
            }
        }
    }
}
