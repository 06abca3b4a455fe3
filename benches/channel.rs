//! Handing over between two reactors' threads: entries per second through a queue, a round trip, and what
//! telling a reactor that is awake and finding who has sent something cost.
//!
//! Run with `cargo bench --bench channel`. It needs two cores; on one it measures the scheduler.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare::channel::{Mesh, Parker, Port};

/// As large as a batch.
type Entry = [u64; 6];
type Ports = (Port<Entry, Entry, ()>, Port<Entry, Entry, ()>);

fn ports() -> Ports {
    let (_, mut ports) = Mesh::new(2, 0, 8_192);
    let second = ports.pop().expect("there are two");
    (ports.pop().expect("there are two"), second)
}

/// What a turn does with 64 entries for another reactor, and that one with them, on one thread.
fn uncontended(criterion: &mut Criterion) {
    let (mut home, mut other) = ports();
    let mut group = criterion.benchmark_group("hand over 64 entries");
    group.throughput(Throughput::Elements(64));
    group.bench_function("on one thread", |bencher| {
        bencher.iter(|| {
            for number in 0..64 {
                home.send_delivery(1, [number; 6]).expect("the queue is empty");
            }
            black_box(home.notify(1));
            black_box(other.senders());
            while let Some(entry) = other.receive_delivery(0) {
                black_box(entry);
            }
        });
    });
    group.finish();
}

/// What a turn of a receiver among `count` reactors does for one delivery: it finds who has sent it, takes it,
/// and looks whether it may sleep. One thread stands in for all, so that nothing but this is measured.
fn one_sender_among(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one delivery, and a look whether to sleep");
    for count in [2, 8, 64] {
        let (_, mut ports) = Mesh::<Entry, Entry, ()>::new(count, 0, 64);
        let mut receiver = ports.pop().expect("there are some");
        let sender = &mut ports[0];
        group.bench_function(format!("among {count} reactors"), |bencher| {
            bencher.iter(|| {
                sender.send_delivery(count - 1, [7; 6]).expect("the queue is empty");
                black_box(sender.notify(count - 1));
                let mut senders = receiver.senders();
                while senders != 0 {
                    let from = senders.trailing_zeros() as usize;
                    senders &= senders - 1;
                    while let Some(entry) = receiver.receive_request(from) {
                        black_box(entry);
                    }
                    while let Some(entry) = receiver.receive_delivery(from) {
                        black_box(entry);
                    }
                }
                assert!(receiver.announce_sleep(true));
                receiver.announce_awake();
            });
        });
    }
    group.finish();
}

/// The other thread sends every entry back; both spin.
fn round_trip(criterion: &mut Criterion) {
    let (mut home, mut other) = ports();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                while let Some(entry) = other.receive_delivery(0) {
                    other.send_request(0, entry).expect("one entry is on its way");
                }
                std::hint::spin_loop();
            }
        });
        criterion.bench_function("round trip between two threads", |bencher| {
            bencher.iter(|| {
                home.send_delivery(1, [7; 6]).expect("one entry is on its way");
                loop {
                    if let Some(entry) = home.receive_request(1) {
                        break entry;
                    }
                    std::hint::spin_loop();
                }
            });
        });
        is_over.store(true, Ordering::Relaxed);
    });
}

fn notify(criterion: &mut Criterion) {
    let parker = Parker::new();
    criterion.bench_function("notify a reactor that is awake", |bencher| bencher.iter(|| parker.notify()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = uncontended, one_sender_among, round_trip, notify
}
criterion_main!(benches);
