//! Those who come and go around a soak's steady plan. Each runs on its own thread until all is over.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use super::{
    Surroundings,
    connection::{Connection, End},
};
use crate::{clock, dialect::Dialect, payload::Stamp, report::soak::Tally};

/// Who watches the reconnecting publishers subscribes to this.
const OWN_FILTER: &str = "soak/own/+";
/// How long somebody stays who comes and goes, in milliseconds.
const STAY_MS: (u64, u64) = (20, 2_000);
/// How long a slow reader does not read.
const STALL_MS: (u64, u64) = (500, 90_000);
/// And how long it then does.
const READ_MS: (u64, u64) = (50, 2_000);
/// Publications of a publisher before it reconnects, and the pause between two of them.
const PUBLICATIONS: (u64, u64) = (1, 40);
const PAUSE_MS: (u64, u64) = (1, 100);
/// How long everybody looks at most before seeing whether all is over.
const LOOK: Duration = Duration::from_millis(200);
/// How often somebody who is only read says something.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// After a connection could not be opened.
const BREATH: Duration = Duration::from_secs(1);

/// What the reconnecting publishers did, for whoever watches them.
#[derive(Debug, Default)]
pub struct Publishers {
    is_watched: AtomicBool,
    acknowledged: AtomicU64,
    ended: AtomicU64,
    begun: AtomicU64,
}

impl Publishers {
    /// Whether the one who watches them is subscribed.
    pub fn are_watched(&self) -> bool {
        self.is_watched.load(SeqCst)
    }

    fn have_ended(&self) -> bool {
        self.ended.load(SeqCst) == self.begun.load(SeqCst)
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn new(kind: u64, index: usize) -> Dice {
        Dice(kind << 32 | index as u64)
    }

    /// Both ends are possible.
    fn roll(&mut self, (least, most): (u64, u64)) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        least + (mixed ^ mixed >> 31) % (most - least + 1)
    }

    fn dialect(&mut self) -> Dialect {
        if self.roll((0, 1)) == 0 { Dialect::Json } else { Dialect::Binary }
    }

    fn milliseconds(&mut self, range: (u64, u64)) -> Duration {
        Duration::from_millis(self.roll(range))
    }

    /// A topic of the run, or a filter that matches some.
    fn subscription(&mut self, surroundings: &Surroundings) -> String {
        const FILTERS: [&str; 4] = ["soak/#", "room/+", OWN_FILTER, "soak/+"];
        match self.roll((0, 2)) {
            0 => FILTERS[self.roll((0, FILTERS.len() as u64 - 1)) as usize].to_owned(),
            _ => {
                let index = self.roll((0, surroundings.topics.len() as u64 - 1));
                surroundings.topics[index as usize].clone()
            }
        }
    }
}

/// Subscribes, stays a little, leaves in one of three ways; again and again.
pub fn come_and_go(surroundings: &Surroundings, index: usize) -> Tally {
    let mut tally = Tally::new("subscribers that come and go");
    let mut dice = Dice::new(1, index);
    while !surroundings.is_over() {
        let Some(mut connection) = open(surroundings, dice.dialect(), &mut tally) else { continue };
        let subscription = dice.subscription(surroundings);
        let stay = dice.milliseconds(STAY_MS);
        let mut end = connection.subscribe(&subscription);
        if end == End::Open {
            end = connection.read_until(Instant::now() + stay, |_| surroundings.is_over());
        }
        let farewell = dice.roll((0, 2));
        if end == End::Open && farewell == 0 {
            end = connection.unsubscribe();
            if end == End::Open {
                end = connection.read_until(Instant::now() + LOOK, |_| surroundings.is_over());
            }
        }
        tally.take(&connection.seen);
        match end {
            End::Open if farewell == 1 => connection.reset(),
            End::Open => tally.judge(connection.close(), surroundings.is_over()),
            end => tally.judge(end, surroundings.is_over()),
        }
    }
    tally
}

/// Publishes some, each acknowledged, and reconnects; again and again. Nobody else publishes to its topic,
/// so each `ok` must have the `seq` after the one before, across connections too.
pub fn reconnect(surroundings: &Surroundings, index: usize) -> Tally {
    let publishers = &surroundings.publishers;
    publishers.begun.fetch_add(1, SeqCst);
    let mut tally = Tally::new("publishers that reconnect");
    let mut dice = Dice::new(2, index);
    let place = surroundings.first_own + index;
    let topic = &*surroundings.topics[place];
    let (mut sequence, mut last_seq) = (0, None);
    while !surroundings.is_over() {
        let Some(mut connection) = open(surroundings, dice.dialect(), &mut tally) else { continue };
        let mut end = End::Open;
        for _ in 0..dice.roll(PUBLICATIONS) {
            let payloads: Vec<Vec<u8>> = (0..dice.roll((1, 5)))
                .map(|_| {
                    let due_ns = clock::now_ns();
                    let stamp = Stamp { due_ns, topic: place as u16, publisher: 0, sequence };
                    sequence += 1;
                    let (text, filling) = surroundings.payload.parts(stamp);
                    [&text[..], filling].concat()
                })
                .collect();
            let acknowledged = connection.seen.oks.len();
            end = connection.publish(topic, &payloads);
            for &seq in &connection.seen.oks[acknowledged..] {
                publishers.acknowledged.fetch_add(1, SeqCst);
                tally.publications += 1;
                if let Some(last) = last_seq.filter(|it| it + 1 != seq) {
                    end = End::Fault(format!("{topic}: a publication got seq {seq} after {last}"));
                }
                last_seq = Some(seq);
            }
            if end != End::Open || surroundings.is_over() {
                break;
            }
            thread::sleep(dice.milliseconds(PAUSE_MS));
        }
        match end {
            End::Open if dice.roll((0, 1)) == 0 => connection.reset(),
            End::Open => tally.judge(connection.close(), surroundings.is_over()),
            end => tally.judge(end, surroundings.is_over()),
        }
    }
    publishers.ended.fetch_add(1, SeqCst);
    tally
}

/// Subscribes by filter to all that the reconnecting publishers publish, and must get all of it.
pub fn watch(surroundings: &Surroundings) -> Tally {
    let publishers = &surroundings.publishers;
    let mut tally = Tally::new("who must get all of theirs");
    let mut connection = match Connection::open(surroundings, Dialect::Binary) {
        Ok(connection) => connection,
        Err(error) => {
            tally.fault(error);
            return tally;
        }
    };
    tally.connections = 1;
    let mut end = connection.subscribe(OWN_FILTER);
    publishers.is_watched.store(end == End::Open, SeqCst);
    while end == End::Open && !(surroundings.is_over() && publishers.have_ended()) {
        end = connection.read_until(Instant::now() + KEEPALIVE.min(LOOK * 5), |_| surroundings.is_over());
        connection.keep_alive();
        if surroundings.is_over() {
            thread::sleep(LOOK / 10);
        }
    }
    if end == End::Open {
        let acknowledged = publishers.acknowledged.load(SeqCst);
        let until = Instant::now() + surroundings.drain;
        end = connection.read_until(until, |seen| seen.own_deliveries >= acknowledged);
        let came = connection.seen.own_deliveries;
        if end == End::Open && came != acknowledged {
            tally.fault(format!("{OWN_FILTER}: {acknowledged} publications were acknowledged, {came} came"));
        }
    }
    tally.take(&connection.seen);
    tally.judge(end, false);
    tally
}

/// Does not read for a while, then does. It may be told that it lost something, or be cut off; but what it
/// reads has no gap that was not announced.
pub fn dawdle(surroundings: &Surroundings, index: usize) -> Tally {
    let mut tally = Tally::new("slow readers");
    let mut dice = Dice::new(3, index);
    while !surroundings.is_over() {
        let Some(mut connection) = open(surroundings, dice.dialect(), &mut tally) else { continue };
        connection.receive_little();
        let mut end = connection.subscribe(["soak/#", "soak/out"][dice.roll((0, 1)) as usize]);
        while end == End::Open && !surroundings.is_over() {
            stall(surroundings, &mut connection, dice.milliseconds(STALL_MS));
            let until = Instant::now() + dice.milliseconds(READ_MS);
            end = connection.read_until(until, |_| surroundings.is_over());
        }
        tally.take(&connection.seen);
        match end {
            End::Closed(_) => tally.cut_off += 1,
            End::Fault(fault) => tally.fault(fault),
            End::Open => {}
        }
    }
    tally
}

/// Reads nothing, but shows that it lives.
fn stall(surroundings: &Surroundings, connection: &mut Connection<'_>, time: Duration) {
    let until = Instant::now() + time;
    let mut keepalive_at = Instant::now() + KEEPALIVE;
    while Instant::now() < until && !surroundings.is_over() {
        thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        if Instant::now() >= keepalive_at {
            connection.keep_alive();
            keepalive_at += KEEPALIVE;
        }
    }
}

/// A new connection, or a fault and a breath.
fn open<'a>(surroundings: &'a Surroundings, dialect: Dialect, tally: &mut Tally) -> Option<Connection<'a>> {
    match Connection::open(surroundings, dialect) {
        Ok(connection) => {
            tally.connections += 1;
            Some(connection)
        }
        Err(error) => {
            tally.fault(error);
            thread::sleep(BREATH);
            None
        }
    }
}

impl Tally {
    fn take(&mut self, seen: &super::connection::Seen) {
        self.deliveries += seen.deliveries;
        self.gaps += seen.gaps;
    }

    /// Who is not slow must not be cut off, nor lose anything.
    fn judge(&mut self, end: End, is_over: bool) {
        match end {
            End::Open => {}
            // When all is over because the broker is gone, that is told elsewhere.
            End::Closed(_) if is_over => {}
            End::Closed(reason) | End::Fault(reason) => self.fault(reason),
        }
    }

    fn fault(&mut self, fault: String) {
        self.faults += 1;
        self.first_fault.get_or_insert(fault);
    }
}
