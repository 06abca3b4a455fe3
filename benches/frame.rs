//! A session's frames, from a receive's bytes to events; and the headers that the server writes.
//!
//! Before it measures, it proves that whole frames within one receive allocate nothing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::{
    deflate::Inflater,
    frame::{self, Opcode},
    session::{Event, Limits, Session},
};

/// Counts what it passes on to the system's allocator.
struct Counting;

static ALLOCATION_COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATION_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same, and `pointer` is one of `System`'s.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATION_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same, and `pointer` is one of `System`'s.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMITS: Limits = Limits {
    header_bytes_max: 8_192,
    message_bytes_max: 1_048_576,
    is_echo_served: false,
    deflate_window_bits: None,
};
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Frames per receive.
const FRAME_COUNT: usize = 64;

/// A session that speaks `subprotocol`.
fn open(subprotocol: &str) -> Session {
    let mut request = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    .into_bytes();
    let (mut session, mut inflater) = (Session::default(), Inflater::default());
    let mut input = request.as_mut_slice();
    assert!(matches!(session.poll(&mut input, &LIMITS, &mut inflater), Some(Event::Upgraded { .. })));
    assert!(session.poll(&mut input, &LIMITS, &mut inflater).is_none());
    session
}

/// Masked frames of `len` payload bytes each.
fn receive_of(first: u8, len: usize, frame_count: usize) -> Vec<u8> {
    let mut header = [0; frame::SERVER_HEADER_BYTES_MAX];
    let header_len = frame::write_header(Opcode::Binary, len, &mut header);
    header[0] = first;
    header[1] |= 0x80;
    let mut one = header[..header_len].to_vec();
    one.extend_from_slice(&KEY);
    one.extend((0..len).map(|index| b'a' ^ KEY[index % 4]));
    one.repeat(frame_count)
}

/// Polls a whole receive, and counts its messages.
fn take(session: &mut Session, bytes: &mut [u8]) -> usize {
    let mut input = bytes;
    let mut inflater = Inflater::default();
    let mut message_count = 0;
    while let Some(event) = session.poll(&mut input, &LIMITS, &mut inflater) {
        match black_box(event) {
            Event::Text(_) | Event::Binary(_) => message_count += 1,
            other => panic!("{other:?}"),
        }
    }
    message_count
}

fn prove_that_whole_frames_allocate_nothing() {
    for (subprotocol, first) in [("fanfare.json.v1", 0x81), ("fanfare.bin.v1", 0x82)] {
        for len in [0, 48, 128, 16_384] {
            let mut session = open(subprotocol);
            let mut bytes = receive_of(first, len, FRAME_COUNT);
            // The first poll resolves what is chosen once.
            assert_eq!(take(&mut session, &mut bytes.clone()), FRAME_COUNT);
            let before = ALLOCATION_COUNT.load(Ordering::Relaxed);
            assert_eq!(take(&mut session, &mut bytes), FRAME_COUNT);
            let allocation_count = ALLOCATION_COUNT.load(Ordering::Relaxed) - before;
            assert_eq!(allocation_count, 0, "{subprotocol}, {len} bytes");
        }
    }
}

fn poll(criterion: &mut Criterion) {
    prove_that_whole_frames_allocate_nothing();
    for (name, subprotocol, first) in
        [("poll_text", "fanfare.json.v1", 0x81), ("poll_binary", "fanfare.bin.v1", 0x82)]
    {
        let mut group = criterion.benchmark_group(name);
        for len in [48, 128, 190, 1_000, 16_384] {
            let mut session = open(subprotocol);
            let bytes = receive_of(first, len, FRAME_COUNT);
            group.throughput(Throughput::Elements(FRAME_COUNT as u64));
            group.bench_function(BenchmarkId::new("whole", len), |bencher| {
                bencher.iter_batched_ref(
                    || bytes.clone(),
                    |bytes| take(&mut session, bytes),
                    BatchSize::LargeInput,
                )
            });
        }
        // One message of 16 KiB that arrives in four receives.
        let mut session = open(subprotocol);
        let bytes = receive_of(first, 16_384, 1);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("in_four_receives", 16_384), |bencher| {
            bencher.iter_batched_ref(
                || bytes.clone(),
                |bytes| {
                    let receives = bytes.chunks_mut(4_100);
                    receives.map(|receive| take(&mut session, receive)).sum::<usize>()
                },
                BatchSize::LargeInput,
            )
        });
        group.finish();
    }
}

fn upgrade(criterion: &mut Criterion) {
    criterion.bench_function("upgrade", |bencher| bencher.iter(|| open(black_box("fanfare.json.v1"))));
}

fn write_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write_header");
    for len in [100_usize, 1_000, 100_000] {
        let mut out = [0; frame::SERVER_HEADER_BYTES_MAX];
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| frame::write_header(Opcode::Text, black_box(len), black_box(&mut out)))
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(30);
    targets = poll, upgrade, write_header
}
criterion_main!(benches);
