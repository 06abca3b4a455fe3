//! What topics keep no more: it goes bit by bit, however much it is, since each block has its price, and counts as log as long
//! as somebody refers to it.

use super::Home;
use crate::work::price;

/// How many pasts one period looks at for what is needless.
pub(super) const PASTS_PER_PERIOD: usize = if cfg!(test) { 8 } else { 1_024 };
/// How many blocks, or values by key, go in a period, of what is needless, of what is too much, and of pasts that no topic has
/// any more.
const BLOCKS_PER_PERIOD: usize = if cfg!(test) { 8 } else { 1_024 };
/// How many go together before it is asked whether what went is to be freed first.
pub(super) const BLOCKS_TOGETHER: usize = if cfg!(test) { 2 } else { 16 };
/// What was transcoded goes if nobody has asked for it for so long, in milliseconds.
const PIECES_UNUSED_MS: u32 = 10_000;
/// How many of these go in a period.
const PIECES_PER_PERIOD: usize = if cfg!(test) { 2 } else { 256 };
/// And at once where topics keep too much: more than a page makes.
const PIECES_PER_EXCESS: usize = if cfg!(test) { 4 } else { 64 };

impl Home {
    /// The topic keeps nothing any more.
    pub(super) fn drop_past(&mut self, key: usize) {
        let topic = &mut self.topics[key];
        let Some(past) = &mut topic.past else { return };
        self.pasts.remove(&*topic.name);
        past.let_go_of_retained(&mut self.pool);
        let gone = past.part_with_keyed();
        self.leave(gone);
        self.drop_records(key);
        self.note_value(key);
        let topic = &mut self.topics[key];
        let past = topic.past.take().expect("it was there");
        self.expiring.remove(&(past.due_ms, key));
    }

    /// The topic keeps nothing any more but what is retained, and values by key.
    pub(super) fn drop_records(&mut self, key: usize) {
        let past = self.topics[key].past.as_mut().expect("it keeps one");
        if past.has_blocks() {
            self.leaving.push_back(past.part_with_blocks());
            self.drop_leaving(BLOCKS_TOGETHER);
        }
    }

    /// Of pasts that no topic has any more so many blocks go, and values by key likewise, as long as what went before is free.
    pub(super) fn drop_leaving(&mut self, blocks: usize) {
        for _ in 0..blocks {
            if !self.has_leaving() || self.is_letting_go() {
                break;
            }
            self.drop_next_leaving();
        }
    }

    /// Whether something is there that no topic has any more.
    fn has_leaving(&self) -> bool {
        !self.leaving.is_empty() || !self.leaving_values.is_empty()
    }

    /// The next one goes.
    fn drop_next_leaving(&mut self) {
        self.work += price::LOOK;
        if let Some(values) = self.leaving_values.front_mut() {
            values.drop_oldest(&mut self.pool);
            if values.is_empty() {
                self.leaving_values.pop_front();
            }
            return;
        }
        let past = self.leaving.front_mut().expect("one is leaving");
        let clock = past.drop_oldest(&mut self.pool).expect("who is leaving has a block");
        self.blocks.remove(&clock);
        if !past.has_blocks() {
            self.leaving.pop_front();
        }
    }

    /// Whether what went is to be freed before more goes: until it is, it counts as log, for which publishers would wait.
    pub(super) fn is_letting_go(&self) -> bool {
        self.pool.budget().is_short()
    }

    /// What is too old goes, then what is too much, then what nobody asked for lately.
    pub(super) fn drop_old(&mut self) {
        self.drop_leaving(BLOCKS_PER_PERIOD);
        let mut left = BLOCKS_PER_PERIOD;
        for _ in 0..PASTS_PER_PERIOD {
            let Some(&(due_ms, key)) = self.expiring.first() else { break };
            if due_ms > self.now_ms || left == 0 || self.is_letting_go() {
                break;
            }
            self.expiring.pop_first();
            let past = self.topics[key].past.as_mut().expect("who is to be looked at has a past");
            past.due_ms = 0;
            let blocks = &mut self.blocks;
            let together = left.min(BLOCKS_TOGETHER);
            let count = past.drop_needless(self.now_ms as u32, together, &mut self.pool, |clock| {
                blocks.remove(&clock);
            });
            left -= count;
            self.work += (1 + count) as u64 * price::LOOK;
            left -= self.drop_needless_keyed(key, left);
            self.expect_expiry(key);
        }
        for _ in 0..BLOCKS_PER_PERIOD {
            if self.is_letting_go() || !self.drop_excess() {
                break;
            }
        }
        let mut left = PIECES_PER_PERIOD;
        for _ in 0..PIECES_PER_PERIOD.min(self.transcoded.len()) {
            let key = self.transcoded.pop_front().expect("the loop counts what is there");
            self.work += price::LOOK;
            self.drop_pieces(key, PIECES_UNUSED_MS, &mut left);
        }
    }

    /// Some of what was transcoded of the topic, which was taken out of the list, goes if nobody asked for it for so long.
    fn drop_pieces(&mut self, key: usize, unused_ms: u32, left: &mut usize) {
        let past = self.topics.get_mut(key).and_then(|topic| topic.past.as_mut());
        let Some(past) = past else { return };
        if !past.drop_pieces(self.now_ms as u32, unused_ms, left, &mut self.pool) {
            self.transcoded.push_back(key);
        }
    }

    /// Of the topic's values by key those go that are needless, at most `count_max`; tells how many did. Many are too old at a time
    /// where many were published at a time.
    fn drop_needless_keyed(&mut self, key: usize, count_max: usize) -> usize {
        let past = self.topics[key].past.as_mut().expect("it keeps one");
        if !past.has_keyed() {
            return 0;
        }
        let mut gone = 0;
        loop {
            let together = BLOCKS_TOGETHER.min(count_max - gone);
            let count = past.drop_needless_keyed(self.now_ms as u32, together, &mut self.pool);
            gone += count;
            self.work += count as u64 * price::LOOK;
            if count < together || gone == count_max || self.pool.budget().is_short() {
                self.note_value(key);
                return gone;
            }
        }
    }

    /// If topics keep more than they may all together, something goes: what was transcoded first, since it can be made anew;
    /// else the oldest block of this home that is older than what may be kept, or where there is far too much, whatever it is.
    /// Tells whether something went.
    fn drop_excess(&mut self) -> bool {
        let budget = self.pool.budget();
        let Some(before) = budget.kept_too_long_before() else { return false };
        if self.has_leaving() {
            self.drop_next_leaving();
            return true;
        }
        if let Some(key) = self.transcoded.pop_front() {
            self.work += price::LOOK;
            self.drop_pieces(key, 0, &mut { PIECES_PER_EXCESS });
            return true;
        }
        let Some((&clock, &key)) = self.blocks.first_key_value() else { return false };
        if clock >= before && !budget.is_far_too_much_kept() {
            return false;
        }
        self.work += price::LOOK;
        self.blocks.remove(&clock);
        let past = self.topics[key].past.as_mut().expect("who has a block has a past");
        assert_eq!(
            past.drop_oldest(&mut self.pool),
            Some(clock),
            "blocks are listed as long as they are there"
        );
        true
    }

    /// The topic's oldest block is looked at when it may be needless.
    pub(super) fn expect_expiry(&mut self, key: usize) {
        let Some(past) = self.topics[key].past.as_mut().filter(|past| past.due_ms == 0) else { return };
        if let Some(in_ms) = past.expires_in_ms(self.now_ms as u32) {
            past.due_ms = self.now_ms + u64::from(in_ms) + 1;
            self.expiring.insert((past.due_ms, key));
        }
    }

    /// As [`Home::expect_expiry`], where what it was expected by is over.
    pub(super) fn expect_expiry_anew(&mut self, key: usize) {
        let past = self.topics[key].past.as_mut().expect("it keeps one");
        self.expiring.remove(&(std::mem::take(&mut past.due_ms), key));
        self.expect_expiry(key);
    }

    /// So many bytes more are kept: twice as many go where there is too much, so that in the end there is not.
    pub(super) fn make_up_for(&mut self, bytes: usize) {
        let mut left = 2 * bytes;
        while left > 0 {
            let before = self.pool.kept_bytes();
            if !self.drop_excess() {
                break;
            }
            left = left.saturating_sub((before - self.pool.kept_bytes()).max(1));
        }
    }
}
