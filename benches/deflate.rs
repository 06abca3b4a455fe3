//! What compressing a publication costs at some levels, and what it leaves of it; and what blocks cost that say
//! nothing, from which [`fanfare::work::price::INFLATED_BLOCK`] comes.
//!
//! `cargo bench --bench deflate`. The payloads are made up, of two kinds that brokers carry: quotes, JSON
//! objects with the same keys and other numbers, and chat, words of a few dozen in no order. What is left of
//! them, in percent, is printed first.

use std::{fmt::Write, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::{
    Format,
    command::PayloadKind,
    deflate::{BLOCKS_FREE, BYTES_PER_BLOCK, Bounds, Deflater, Inflater, Settings},
    publication::Publication,
};
use flate2::{Compress, Compression, FlushCompress};

const LEVELS: [u8; 5] = [1, 2, 3, 6, 9];
const LENS: [usize; 3] = [600, 2_000, 10_000];
const WORDS: &str = "the of and to in is you that it he was for on are as with his they at be this have from or \
    one had by word but not what all were we when your can said there use an each which she do how their if will \
    up other about out many then them these so some her would make like him";

/// Makes a payload of about this length.
type Payload = fn(&mut Numbers, usize) -> String;

/// A generator of numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn quotes(numbers: &mut Numbers, len: usize) -> String {
    let mut data = String::from("[");
    while data.len() < len {
        let mut below = |bound| numbers.below(bound);
        let (symbol, bid, ask) = (below(500), below(100_000), below(100_000));
        let (volume, time) = (below(100_000), below(100_000_000));
        write!(
            data,
            "{}{{\"symbol\":\"SYM{symbol}\",\"bid\":{}.{:02},\"ask\":{}.{:02},\"volume\":{volume},\"time\":17637{time:08}}}",
            if data.len() > 1 { "," } else { "" },
            bid / 100,
            bid % 100,
            ask / 100,
            ask % 100,
        )
        .expect("a string takes everything");
    }
    data + "]"
}

fn chat(numbers: &mut Numbers, len: usize) -> String {
    let words: Vec<&str> = WORDS.split_ascii_whitespace().collect();
    let mut data = String::from("\"");
    while data.len() < len {
        data.push_str(words[numbers.below(words.len() as u64) as usize]);
        data.push(' ');
    }
    data + "\""
}

fn publications(criterion: &mut Criterion) {
    let kinds: [(&str, Payload); 2] = [("quotes", quotes), ("chat", chat)];
    for (kind, make) in kinds {
        for len in LENS {
            let mut numbers = Numbers(7692);
            let payloads: Vec<String> = (0..20).map(|_| make(&mut numbers, len)).collect();
            let publications = || {
                payloads.iter().map(|payload| Publication {
                    topic: "room/1",
                    seq: 123_456,
                    user: None,
                    time_ms: None,
                    payload: payload.as_bytes(),
                    kind: PayloadKind::Json,
                })
            };
            let mut group = criterion.benchmark_group(format!("{kind}/{len}"));
            group.throughput(Throughput::Elements(1));
            for level in LEVELS {
                let mut deflater = Deflater::new(Settings { level, bytes_min: 0, window_bits: 15 });
                for publication in publications() {
                    deflater.publication(&publication, Format::Json);
                }
                let left = 100 * deflater.out_bytes_total() / deflater.in_bytes_total();
                println!("{kind}/{len}/level {level}: {left} % left");
                let mut publications = publications().cycle();
                group.bench_function(BenchmarkId::new("level", level), |bencher| {
                    bencher.iter(|| {
                        let publication = publications.next().expect("a cycle has no end");
                        deflater.publication(black_box(&publication), Format::Json).map(<[u8]>::len)
                    })
                });
            }
            group.finish();
        }
    }
}

/// A block of nothing whose only code is its end, one whose code tables are full, and a stream.
const SINGLE: [u8; 12] = [0x04, 0xc0, 0x81, 0x08, 0x00, 0x00, 0x00, 0x00, 0x20, 0x7f, 0xe9, 0x3a];
const FULL: [u8; 31] = [
    0xec, 0x9d, 0x03, 0x60, 0x18, 0x30, 0x0c, 0x00, 0x66, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6,
    0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xc6, 0x6d, 0xdb, 0xb6, 0xcd, 0xa4, 0xb6, 0x8d, 0x47,
];
const STREAM: [u8; 2] = [0x03, 0x00];

/// As many blocks as may be: by themselves, and behind a message of 1 MiB, which is also inflated alone.
fn blocks(criterion: &mut Criterion) {
    let quotes = quotes(&mut Numbers(7692), 1 << 20);
    let mut before = Vec::with_capacity(quotes.len());
    let mut compress = Compress::new(Compression::new(6), false);
    compress.compress_vec(quotes.as_bytes(), &mut before, FlushCompress::Sync).expect("it shrinks");
    let bounds = Bounds::of_len(2 << 20);
    let mut inflater = Inflater::default();
    let mut inflate = |payload: &[u8]| inflater.inflate(payload, &bounds).expect("as many as may be").len();
    let mut group = criterion.benchmark_group("blocks");
    for (name, block) in [("single", &SINGLE[..]), ("full", &FULL), ("stream", &STREAM)] {
        let payload = [&block.repeat(BLOCKS_FREE as usize - 1)[..], &STREAM].concat();
        group.throughput(Throughput::Elements(BLOCKS_FREE));
        group.bench_function(BenchmarkId::new("of", name), |bencher| {
            bencher.iter(|| inflate(black_box(&payload)))
        });
    }
    // Its own blocks are long ones.
    let block_count = BLOCKS_FREE + quotes.len() as u64 / BYTES_PER_BLOCK - 20;
    for block_count in [0, block_count] {
        let payload = [&before[..], &FULL.repeat(block_count as usize), &STREAM].concat();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("a MiB and", block_count), |bencher| {
            bencher.iter(|| inflate(black_box(&payload)))
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = publications, blocks
}
criterion_main!(benches);
