//! What a delivery costs before the kernel has it: a publication at its home, its batch in the fan-out, and
//! one sweep over 10, 1,000 and 10,000 subscribers, each visited, taken from and given back.
//!
//! Run with `cargo bench --bench fanout`.

use std::collections::VecDeque;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::{
    protocol::{
        Encoding,
        command::PayloadKind,
        deflate::{Deflater, Settings},
    },
    pubsub::{
        fanout::Fanout,
        home::{Home, Homes},
        log::Budget,
        message::{Delivery, Outboxes, Request},
        policy::Policy,
    },
};

const TOPIC: &str = "load/1";
/// A JSON string of 128 bytes between its quotes.
const PAYLOAD: [u8; 130] = {
    let mut text = [b'x'; 130];
    text[0] = b'"';
    text[129] = b'"';
    text
};

/// One home and one fan-out, as on a broker of one reactor.
struct Reactor {
    home: Home,
    fanout: Fanout,
    deflater: Deflater,
    outboxes: Outboxes,
    now_ns: u64,
}

impl Reactor {
    fn with_subscribers(count: u32) -> Reactor {
        let policy = Policy { owed_bytes_max: 8 << 20, skip_rules: Vec::new(), skip_by_default: false };
        let mut reactor = Reactor {
            home: Home::new(1, 1_000, Encoding::COUNT, Budget::new(1 << 30)),
            fanout: Fanout::new(Homes::new(1, 0), policy, 1_000, count as usize),
            deflater: Deflater::new(Settings { level: 1, bytes_min: 512, window_bits: 15 }),
            outboxes: vec![VecDeque::new()],
            now_ns: 1,
        };
        let mut requests = Vec::new();
        for slot in 0..count {
            let subscribed =
                reactor.fanout.handle_subscribe_topic(slot, 0, Encoding::Json, TOPIC, None, &mut requests);
            subscribed.expect("each slot subscribes once");
            for (_, request) in requests.drain(..) {
                let Request::Subscribe { topic, encoding } = request else {
                    unreachable!("nothing else is asked")
                };
                reactor.home.handle_subscribe(0, &topic, encoding, &mut reactor.outboxes);
            }
            reactor.exchange();
        }
        reactor
    }

    fn publish(&mut self) {
        let published = self.home.handle_publish(
            TOPIC,
            &PAYLOAD,
            PayloadKind::Json,
            &mut self.deflater,
            &mut self.outboxes,
        );
        published.expect("one topic is few");
    }

    fn exchange(&mut self) {
        self.home.flush(&mut self.outboxes);
        while let Some(delivery) = self.outboxes[0].pop_front() {
            match delivery {
                Delivery::Batch(batch) => self.fanout.handle_batch(batch, self.now_ns, 0),
                Delivery::Subscribed { topic, encoding, seq } => {
                    self.fanout.handle_subscribed(&topic, encoding, seq, &mut Vec::new(), &mut Vec::new());
                }
                other => unreachable!("{other:?} was not asked for"),
            }
        }
    }

    /// Visits everybody once; tells how many bytes there were to send.
    fn sweep(&mut self) -> u64 {
        let mut sum = 0;
        while let Some(view) = self.fanout.begin_turn() {
            while let Some((_, member)) = self.fanout.next_visit(view) {
                let owed = self.fanout.take(view, member, 256 << 10).expect("who is visited is behind");
                sum += u64::from(owed.len);
                self.fanout.unpin(view, owed.pin);
            }
            self.fanout.end_turn(view, self.now_ns, 0);
        }
        self.now_ns += 1;
        sum
    }
}

fn sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for count in [10u32, 1_000, 10_000] {
        let mut reactor = Reactor::with_subscribers(count);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("subscribers", count), |bencher| {
            bencher.iter(|| {
                reactor.publish();
                reactor.exchange();
                reactor.sweep()
            });
        });
    }
    group.finish();
}

/// How much merging saves: 64 publications per sweep of 1,000.
fn merged(criterion: &mut Criterion) {
    let mut reactor = Reactor::with_subscribers(1_000);
    let mut group = criterion.benchmark_group("merged");
    group.throughput(Throughput::Elements(64_000));
    group.bench_function("64 publications to 1,000 subscribers", |bencher| {
        bencher.iter(|| {
            (0..64).for_each(|_| reactor.publish());
            reactor.exchange();
            reactor.sweep()
        });
    });
    group.finish();
}

fn publish(criterion: &mut Criterion) {
    let mut reactor = Reactor::with_subscribers(1);
    criterion.bench_function("publish to one subscriber", |bencher| {
        bencher.iter(|| {
            reactor.publish();
            reactor.exchange();
            reactor.sweep()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = sweep, merged, publish
}
criterion_main!(benches);
