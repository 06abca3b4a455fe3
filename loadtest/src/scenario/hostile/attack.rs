//! What each kind of attack consists of: who is connected, what was done before, what is sent.

use std::{
    io::Write,
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use fanfare::protocol::topic::TOPIC_LEVELS_MAX;
use flate2::{Compress, Compression, FlushCompress};

use super::{
    client::Client,
    flood::{Attacker, Flood, Source, Tally, Until},
};
use crate::{
    cli::{Attack, Hostile},
    client::INTERRUPTED,
    clock,
    codec::{opcode, write_frame},
    connect::Target,
    dialect::Message,
    process,
};

/// The longest message that a broker takes unless it is configured otherwise.
const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of one attacker's commands, sent over and over.
const STREAM_BYTES: usize = 256 * 1024;
/// Commands of one array: as many as there may be.
const ARRAY_COMMANDS: usize = 1024;
/// Levels of the filters that [`Attack::Filters`] subscribes to, each of them one of two.
const FILTER_LEVELS: usize = 8;
/// The most levels that a broker lets a connection's filters have together unless it is configured otherwise.
const LEVELS_MAX: usize = 8_192;
/// The ratio that the second kind of bomb stays within.
const RATIO_MAX: usize = 100;
/// What a flush ends with, and is not sent.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// A block of nothing whose code tables are full: 286 codes of 8 and 9 bits, 30 of 4 and 5.
const EMPTY_BLOCK: [u8; 31] = [
    0xec, 0x9d, 0x03, 0x60, 0x18, 0x30, 0x0c, 0x00, 0x66, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6,
    0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xc6, 0x6d, 0xdb, 0xb6, 0xcd, 0xa4, 0xb6, 0x8d, 0x47,
];
/// Of 256 and one for each 4 KiB of a message: a few less, for those that the message is made of.
const BLOCKS_ALLOWED: usize = 256 + 256 - 10;
/// Topics that are published to at a time, so that nobody is owed too much of them.
const BATCH: usize = 500;
/// What a subscriber that does not read is owed, less than a broker's usual bound of 8 MiB.
const OWED_BYTES: usize = 4 << 20;
/// Of a publication to the stalled: what is not its data.
const ENVELOPE_BYTES: usize = 60;
/// Of a publication of which the log is full.
const HOT_BYTES: usize = 1000;
/// Attacks that end when their work is done are given up after so long.
const PATIENCE_NS: u64 = 60_000_000_000;
const LOOK: Duration = Duration::from_millis(10);
/// Of all attackers' frames: one that changes every byte.
const MASK: u32 = 0x5a3c_96e1;

/// One attack of a run: some kinds are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its kind.
    pub attack: Attack,
    /// As the table has it.
    pub name: &'static str,
}

/// What is run for `attack`.
pub fn variants(attack: Attack) -> Vec<Variant> {
    let names: &[&'static str] = match attack {
        Attack::Pings => &["pings"],
        Attack::Commands => &["commands"],
        Attack::Publishes => &["publishes"],
        Attack::Replies => &["replies"],
        Attack::Names => &["names"],
        Attack::Subscribes => &["subscribes"],
        Attack::Filters => &["filters"],
        Attack::FilterBomb => &["filter bomb, unmatched", "filter bomb, matched"],
        Attack::Errors => &["errors"],
        Attack::Arrays => &["arrays"],
        Attack::Dense => &["dense numbers", "dense objects", "dense spaces"],
        Attack::Bombs => &["bombs of 1000", "bombs of 100"],
        Attack::Blocks => &["blocks", "blocks allowed"],
        Attack::Unsubscribe => &["unsubscribe"],
        Attack::Stalled => &["stalled"],
        Attack::Shed => &["shed"],
        Attack::IdleFilters => &["idle-filters"],
        Attack::Wide => &["wide"],
    };
    names.iter().map(|name| Variant { attack, name }).collect()
}

/// How many attack, unless it is said.
pub fn attackers(options: &Hostile, attack: Attack) -> usize {
    options.attackers.unwrap_or(match attack {
        Attack::Pings | Attack::Replies => 2000,
        Attack::Dense | Attack::Bombs | Attack::Blocks => 4,
        Attack::Unsubscribe | Attack::Stalled => 1,
        Attack::Shed => 16,
        Attack::IdleFilters | Attack::Wide => 10,
        Attack::FilterBomb => 60,
        _ => 100,
    })
}

/// How many levels the filters have, unless it is said: what usual limits take.
fn levels(options: &Hostile, attack: Attack) -> usize {
    options.levels.unwrap_or(if attack == Attack::FilterBomb { 10 } else { 8 })
}

/// Everything that is there before an attack begins.
pub enum Prepared {
    /// Threads of attackers that go on until time is up.
    Flood(Vec<Flood>),
    /// Clients that say something, and leave in the middle of the attack.
    Leave(Leave),
    /// Attackers that leave when everything is sent and has come: what was kept for them is measured.
    Settle(Settle),
    /// It cannot be run against this broker.
    Skipped(&'static str),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// What was sent and read.
    pub tally: Tally,
    /// What the broker kept for each of what it counts.
    pub bytes_each: Option<f64>,
}

/// Connects and prepares it, for so many threads.
///
/// # Errors
/// One line: why the broker did not let it.
pub fn prepare(
    options: &Hostile,
    variant: Variant,
    target: &Target,
    threads: usize,
) -> Result<Prepared, String> {
    let count = attackers(options, variant.attack);
    let share = options.bytes_per_s.map(|it| it.div_ceil(threads as u64));
    let is_compressed = matches!(variant.attack, Attack::Bombs | Attack::Blocks);
    let flood_after =
        |filters: &dyn Fn(usize) -> Vec<String>, source: &dyn Fn(usize) -> Source, reads: bool| {
            let mut attackers: Vec<Vec<Attacker>> = (0..threads).map(|_| Vec::new()).collect();
            for index in 0..count {
                let mut client = Client::open(target, index, is_compressed)?;
                if is_compressed && !client.is_compressed {
                    return Ok(Prepared::Skipped("the broker agrees to no compression (deflate.enabled)"));
                }
                if !reads {
                    client.receive_little();
                }
                for filter in filters(index) {
                    client.subscribe(&filter)?;
                }
                attackers[index % threads].push(Attacker::new(client, source(index), reads));
            }
            let floods = attackers.into_iter().map(|it| Flood::new(target, it, share));
            Ok(Prepared::Flood(floods.collect::<Result<_, String>>()?))
        };
    let flood = |source: &dyn Fn(usize) -> Source, reads: bool| flood_after(&|_| Vec::new(), source, reads);
    let same = |frames: Vec<u8>| {
        let stream = Arc::new(frames.repeat((STREAM_BYTES / frames.len()).max(1)));
        move |_: usize| Source::again(Arc::clone(&stream))
    };
    match variant.attack {
        Attack::Pings => flood(&same(frame(opcode::PING, b"")), true),
        Attack::Commands => flood(&same(text(r#"{"op":"ping"}"#)), true),
        Attack::Publishes => flood(&same(text(r#"{"op":"publish","topic":"hostile/flood","data":1}"#)), true),
        Attack::Replies => {
            flood(&same(text(r#"{"op":"publish","topic":"hostile/flood","data":1,"id":1}"#)), true)
        }
        Attack::Names => {
            flood(&|index| Source::ever_new(0, Arc::new(new_names("hostile/name/".to_owned(), index))), true)
        }
        Attack::Subscribes => {
            let commands = ["subscribe", "unsubscribe"].map(|op| on_topic(op, "hostile/churn"));
            flood(&same(commands.concat()), true)
        }
        Attack::Filters => flood(&same(filter_churn()), true),
        Attack::FilterBomb => {
            let levels = levels(options, variant.attack);
            let filters = |index: usize| match variant.name {
                "filter bomb, matched" => matching_filters(levels, options.filters),
                _ => filters_on_the_way(index, levels, options.filters),
            };
            let prefix = "a/".repeat(levels.min(TOPIC_LEVELS_MAX - 1));
            flood_after(
                &filters,
                &|index| Source::ever_new(0, Arc::new(new_names(prefix.clone(), index))),
                true,
            )
        }
        Attack::Errors => {
            // What is escaped in the error that names it.
            flood(&same(on_topic("unsubscribe", &"\\u0001".repeat(40))), false)
        }
        Attack::Arrays => flood(&same(array()), true),
        Attack::Dense => flood(&same(text(&dense(variant.name))), true),
        Attack::Bombs => flood(&same(compressed_frame(&deflate(bomb(variant.name).as_bytes()))), true),
        Attack::Blocks => flood(&same(compressed_frame(&blocks(variant.name))), true),
        Attack::Unsubscribe => Ok(Prepared::Leave(unsubscribe(options, target, count)?)),
        Attack::Stalled => Ok(Prepared::Leave(stalled(options, target, count)?)),
        Attack::Shed => shed(options, target, count),
        Attack::IdleFilters => idle_filters(options, target, count),
        Attack::Wide => wide(options, target, count),
    }
}

/// Clients that say something and leave.
pub struct Leave {
    clients: Vec<Client>,
    farewell: Vec<u8>,
}

impl Leave {
    /// Says it, leaves after half of the time, and is over when all of it is.
    pub fn run(mut self, begin_ns: u64, end_ns: u64) -> Outcome {
        let mut tally = Tally::default();
        for client in &mut self.clients {
            match client.socket.write_all(&self.farewell) {
                Ok(()) => tally.sent_bytes += self.farewell.len() as u64,
                Err(_) => tally.closed += 1,
            }
        }
        sleep_until(begin_ns + (end_ns - begin_ns) / 2);
        drop(self.clients);
        sleep_until(end_ns);
        Outcome { tally, bytes_each: None }
    }
}

/// Attackers whose work has an end.
pub struct Settle {
    flood: Flood,
    /// What the memory is divided by.
    things: u64,
}

impl Settle {
    /// Does it, has the broker's memory read, leaves, and looks for half of `duration_ns` what that costs.
    ///
    /// # Errors
    /// One line.
    pub fn run(mut self, duration_ns: u64, pid: Option<u32>) -> Result<Outcome, String> {
        let begin_ns = clock::now_ns();
        let resident = || pid.and_then(process::resident_now_bytes);
        let before = resident();
        self.flood.run(begin_ns + PATIENCE_NS.max(duration_ns), Until::Settled)?;
        let after = resident();
        let tally = self.flood.tally();
        let is_whole = tally.closed == 0;
        drop(self.flood);
        sleep_until((clock::now_ns() + duration_ns / 2).max(begin_ns + duration_ns));
        let bytes_each =
            before.zip(after).map(|(before, after)| (after as f64 - before as f64) / self.things as f64);
        Ok(Outcome { tally, bytes_each: bytes_each.filter(|_| is_whole) })
    }
}

/// Filters of which only the last matches what is published; one of the others goes.
fn unsubscribe(options: &Hostile, target: &Target, count: usize) -> Result<Leave, String> {
    let Hostile { filters, topics, .. } = *options;
    let levels = levels(options, Attack::Unsubscribe);
    let filter = |index: usize| format!("{}z{index}", "+/".repeat(levels - 1));
    let mut clients = Vec::new();
    for index in 0..count {
        let mut client = Client::open(target, index, false)?;
        for place in 0..filters - 1 {
            let command = on_topic("subscribe", &filter(place));
            client.socket.write_all(&command).map_err(|error| error.to_string())?;
        }
        client.subscribe("a/#")?;
        clients.push(client);
    }
    let mut publisher = Client::open(target, count, false)?;
    let prefix = "a/".repeat(levels - 1);
    for first in (0..topics).step_by(BATCH) {
        let batch = BATCH.min(topics - first);
        let publications: Vec<u8> =
            (first..first + batch).flat_map(|it| publication(&format!("{prefix}n{it}"), "1")).collect();
        publisher.socket.write_all(&publications).map_err(|error| error.to_string())?;
        for client in &mut clients {
            let mut received = 0;
            client.read_until(|message| {
                received += matches!(message, Message::Delivery { .. }) as usize;
                received == batch
            })?;
        }
    }
    Ok(Leave { clients, farewell: on_topic("unsubscribe", &filter(filters.saturating_sub(2))) })
}

/// Subscribed to everything, and owed something of every topic.
fn stalled(options: &Hostile, target: &Target, count: usize) -> Result<Leave, String> {
    let mut clients = Vec::new();
    for index in 0..count {
        let mut client = Client::open(target, index, false)?;
        client.receive_little();
        client.subscribe("#")?;
        clients.push(client);
    }
    let mut publisher = Client::open(target, count, false)?;
    let size = (OWED_BYTES / options.topics).saturating_sub(ENVELOPE_BYTES).clamp(1, HOT_BYTES);
    let data = "x".repeat(size);
    for topic in 0..options.topics {
        let publication = publication(&format!("hostile/owed/{topic}"), &data);
        publisher.socket.write_all(&publication).map_err(|error| error.to_string())?;
    }
    // An answer after them says that they are taken.
    publisher.socket.write_all(&text(r#"{"op":"ping"}"#)).map_err(|error| error.to_string())?;
    publisher.read_until(|message| message == Message::Other)?;
    Ok(Leave { clients, farewell: on_topic("unsubscribe", "#") })
}

/// Each who does not read has a hot topic; one publisher publishes to all of them.
fn shed(options: &Hostile, target: &Target, count: usize) -> Result<Prepared, String> {
    let mut attackers = Vec::new();
    let data = "y".repeat(HOT_BYTES);
    let mut stream = Vec::new();
    for index in 0..count {
        let topic = format!("hostile/hot/{index}");
        let mut client = Client::open(target, index, false)?;
        client.receive_little();
        client.subscribe(&topic)?;
        attackers.push(Attacker::returning(client, on_topic("subscribe", &topic)));
        stream.extend(publication(&topic, &data));
    }
    let publisher = Client::open(target, count, false)?;
    attackers.push(Attacker::new(publisher, Source::again(Arc::new(stream)), true));
    Ok(Prepared::Flood(vec![Flood::new(target, attackers, Some(2 * options.log_bytes))?]))
}

/// Each has filters of its own, which share nothing with the others'.
fn idle_filters(options: &Hostile, target: &Target, count: usize) -> Result<Prepared, String> {
    let levels = "ab/".repeat(levels(options, Attack::IdleFilters) - 2);
    let mut attackers = Vec::new();
    for index in 0..count {
        let subscribe =
            |it| text(&format!(r#"{{"op":"subscribe","topic":"{index}.{it}/{levels}+","id":{it}}}"#));
        let stream = (0..options.filters).flat_map(subscribe).collect();
        attackers.push(Attacker::new(Client::open(target, index, false)?, Source::once(stream), true));
    }
    let flood = Flood::new(target, attackers, None)?;
    Ok(Prepared::Settle(Settle { flood, things: count as u64 }))
}

/// Each gets a publication of every topic.
fn wide(options: &Hostile, target: &Target, count: usize) -> Result<Prepared, String> {
    let mut attackers = Vec::new();
    for index in 0..count {
        let mut client = Client::open(target, index, false)?;
        client.subscribe("hostile/wide/#")?;
        attackers.push(Attacker::new(client, Source::silent(), true));
    }
    let publications = (0..options.topics).flat_map(|it| publication(&format!("hostile/wide/{it}"), "1"));
    let publisher = Client::open(target, count, false)?;
    attackers.push(Attacker::new(publisher, Source::once(publications.collect()), true));
    let flood = Flood::new(target, attackers, None)?;
    Ok(Prepared::Settle(Settle { flood, things: (count * options.topics) as u64 }))
}

/// What the kinds that are many are called by the memory that they are measured in.
pub fn memory_unit(attack: Attack) -> &'static str {
    match attack {
        Attack::Wide => "B per topic and subscriber",
        _ => "B per connection",
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    write_frame(opcode, MASK, &[payload], &mut frame);
    frame
}

fn text(command: &str) -> Vec<u8> {
    frame(opcode::TEXT, command.as_bytes())
}

fn on_topic(op: &str, topic: &str) -> Vec<u8> {
    text(&format!(r#"{{"op":"{op}","topic":"{topic}"}}"#))
}

fn publication(topic: &str, data: &str) -> Vec<u8> {
    text(&format!(r#"{{"op":"publish","topic":"{topic}","data":"{data}"}}"#))
}

/// Publications to names that nobody else uses, and each time others.
fn new_names(prefix: String, attacker: usize) -> impl Fn(u64, &mut Vec<u8>) {
    move |round, out| {
        for index in 0..BATCH {
            out.extend(publication(&format!("{prefix}{attacker}.{round}.{index}"), "1"));
        }
    }
}

/// Filters of an attacker that the names of [`Attack::FilterBomb`] are held against to their ends, and which do not
/// match them unless they are as deep: what has the same beginning differs as early as may be, so that the tree gets
/// as many nodes as so many levels can.
fn filters_on_the_way(attacker: usize, levels: usize, filters_max: usize) -> Vec<String> {
    let count = filters_max.min(LEVELS_MAX / levels) as u64;
    // The one that is `a` throughout is no filter.
    let first = attacker as u64 * count;
    (first..first + count).map(|it| a_or_plus(it % ((1 << levels) - 1) + 1, levels)).collect()
}

/// Filters that all match these names, from the shortest on.
fn matching_filters(levels: usize, filters_max: usize) -> Vec<String> {
    let mut left = LEVELS_MAX;
    let prefixes = (0..levels).flat_map(|count| (0..1u64 << count).map(move |bits| (bits, count)));
    let fits = |&(_, count): &(u64, usize)| {
        let fits = left > count;
        left = left.saturating_sub(count + 1);
        fits
    };
    let filter = |(bits, count): (u64, usize)| match count {
        0 => "#".to_owned(),
        _ => a_or_plus(bits, count) + "/#",
    };
    prefixes.take(filters_max).take_while(fits).map(filter).collect()
}

/// So many levels: `+` where a bit is set, `a` elsewhere.
fn a_or_plus(bits: u64, levels: usize) -> String {
    let levels = (0..levels).map(|level| if bits >> level & 1 == 1 { "+" } else { "a" });
    levels.collect::<Vec<_>>().join("/")
}

/// Every filter of so many levels that are `a` or `+`: subscribed, then unsubscribed.
fn filter_churn() -> Vec<u8> {
    let filter = |bits: u64| a_or_plus(bits, FILTER_LEVELS);
    let commands = |op| (0..1 << FILTER_LEVELS).flat_map(move |bits| on_topic(op, &filter(bits)));
    commands("subscribe").chain(commands("unsubscribe")).collect()
}

/// Half of them are answered by this reactor, half by the topic's home.
fn array() -> Vec<u8> {
    let pair = r#"{"op":"ping","id":1},{"op":"publish","topic":"hostile/array","data":1,"id":2}"#;
    text(&format!("[{}]", vec![pair; ARRAY_COMMANDS / 2].join(",")))
}

/// A message as long as may be, of as many values as fit, or of none.
fn dense(name: &str) -> String {
    let (before, part, after) = match name {
        "dense numbers" => (r#"{"op":"publish","topic":"hostile/dense","data":[0"#, ",0", "]}"),
        "dense objects" => (r#"{"op":"publish","topic":"hostile/dense","data":[{}"#, ",{}", "]}"),
        _ => (r#"{"op":"ping""#, " ", "}"),
    };
    let count = (MESSAGE_BYTES - before.len() - after.len()) / part.len();
    format!("{before}{}{after}", part.repeat(count))
}

/// A message as long as may be that compresses to a thousandth, or to a little more than a hundredth.
fn bomb(name: &str) -> String {
    let plain = dense("dense numbers");
    if name == "bombs of 1000" {
        return plain;
    }
    // What cannot be compressed much stands at its end: letters, of which each takes about five bits.
    let mut noise = String::new();
    let mut state = 1u32;
    let mut len = plain.len() / RATIO_MAX * 3 / 2;
    loop {
        while noise.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.push((b'A' + (state >> 24) as u8 % 26) as char);
        }
        let before = plain.len() - noise.len() - 10;
        let bomb = format!("{}0,\"{noise}\"]}}", &plain[..before - before % 2]);
        if bomb.len() / deflate(bomb.as_bytes()).len() < RATIO_MAX {
            return bomb;
        }
        len += 512;
    }
}

/// As RFC 7692 has it: without the tail of an empty block.
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() + 1024);
    let status = compress.compress_vec(message, &mut out, FlushCompress::Sync);
    assert!(status.is_ok() && out.ends_with(&TAIL), "there was room for all of it");
    out.truncate(out.len() - TAIL.len());
    out
}

/// The payload of a command, among blocks that say nothing: of a short one behind as many as fit, or of one as
/// long as may be, at whose end there are as many as that allows.
fn blocks(name: &str) -> Vec<u8> {
    if name == "blocks" {
        let end = deflate(br#"{"op":"ping"}"#);
        return [EMPTY_BLOCK.repeat((MESSAGE_BYTES - end.len()) / EMPTY_BLOCK.len()), end].concat();
    }
    let plain = dense("dense spaces");
    let (before, after) = plain.as_bytes().split_at(plain.len() - 1);
    // What a flush ends with makes a block of what comes before it.
    let before = [&deflate(before)[..], &TAIL].concat();
    [before, EMPTY_BLOCK.repeat(BLOCKS_ALLOWED), deflate(after)].concat()
}

fn compressed_frame(payload: &[u8]) -> Vec<u8> {
    const RSV1: u8 = 0x40;
    let mut frame = frame(opcode::TEXT, payload);
    frame[0] |= RSV1;
    frame
}

/// Sleeps until then, or until the run is interrupted.
pub fn sleep_until(at_ns: u64) {
    while clock::now_ns() < at_ns && !INTERRUPTED.load(SeqCst) {
        thread::sleep(LOOK.min(Duration::from_nanos(at_ns.saturating_sub(clock::now_ns()))));
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use fanfare::protocol::{
        close::BrokenRule,
        deflate::{Bounds, Inflater},
    };
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    #[test]
    fn every_message_is_as_long_as_may_be_and_json() {
        for variant in variants(Attack::Dense) {
            let message = dense(variant.name);
            assert!((MESSAGE_BYTES - 4..=MESSAGE_BYTES).contains(&message.len()), "{variant:?}");
            let value: serde_json::Value = serde_json::from_str(&message).unwrap();
            assert!(value["op"].is_string());
        }
    }

    #[test]
    fn bombs_inflate_to_what_they_were_by_the_ratio_that_they_are_named_for() {
        for (variant, ratios) in variants(Attack::Bombs).into_iter().zip([500..1100, 80..100]) {
            let message = bomb(variant.name);
            let compressed = deflate(message.as_bytes());
            assert!(message.len() <= MESSAGE_BYTES && ratios.contains(&(message.len() / compressed.len())));
            let value: serde_json::Value = serde_json::from_str(&message).unwrap();
            assert_eq!(value["op"], "publish");
            let whole = [&compressed[..], &[0, 0, 0xff, 0xff]].concat();
            let mut inflated = Vec::with_capacity(MESSAGE_BYTES + 1);
            let mut inflater = Decompress::new(false);
            inflater.decompress_vec(&whole, &mut inflated, FlushDecompress::Sync).unwrap();
            assert_eq!(inflated, message.as_bytes());
        }
    }

    #[test]
    fn blocks_are_a_command_and_many_that_say_nothing() {
        let broken = [Some(BrokenRule::TooManyBlocks), None];
        for ((variant, len), broken) in
            variants(Attack::Blocks).into_iter().zip([13, MESSAGE_BYTES]).zip(broken)
        {
            let payload = blocks(variant.name);
            assert!(payload.len() <= MESSAGE_BYTES, "{variant:?}");
            let whole = [&payload[..], &TAIL].concat();
            let mut inflated = Vec::with_capacity(MESSAGE_BYTES + 1);
            Decompress::new(false).decompress_vec(&whole, &mut inflated, FlushDecompress::Sync).unwrap();
            assert!(inflated.len() <= len && inflated.len() > len - 10, "{variant:?}");
            let value: serde_json::Value = serde_json::from_slice(&inflated).unwrap();
            assert_eq!(value["op"], "ping");
            let result = Inflater::default().inflate(&payload, &Bounds::of_len(MESSAGE_BYTES)).err();
            assert_eq!(result, broken, "{variant:?}");
        }
    }

    #[test]
    fn an_array_has_as_many_commands_as_there_may_be() {
        let frame = array();
        // Header, extended length, mask.
        let unmasked: Vec<u8> = frame[8..]
            .iter()
            .zip(MASK.to_ne_bytes().iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        let commands: Vec<serde_json::Value> = serde_json::from_slice(&unmasked).unwrap();
        assert_eq!(commands.len(), ARRAY_COMMANDS);
    }

    #[test]
    fn names_are_never_the_same() {
        let mut out = [Vec::new(), Vec::new(), Vec::new()];
        new_names("a/".to_owned(), 1)(0, &mut out[0]);
        new_names("a/".to_owned(), 1)(1, &mut out[1]);
        new_names("a/".to_owned(), 2)(0, &mut out[2]);
        assert!(out[0] != out[1] && out[0] != out[2]);
    }

    #[test]
    fn bombs_of_filters_are_as_many_as_usual_limits_take_and_all_different() {
        let unmatched = [0, 1].map(|attacker| filters_on_the_way(attacker, 10, 1_024));
        let matched = matching_filters(10, 1_024);
        for filters in [&unmatched[0], &unmatched[1], &matched] {
            let levels: usize = filters.iter().map(|it| it.split('/').count()).sum();
            assert!((LEVELS_MAX - 10..=LEVELS_MAX).contains(&levels), "{levels} levels");
            assert!(filters.iter().all(|it| it.split('/').count() <= 10 && it.contains(['+', '#'])));
            let mut distinct = filters.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), filters.len());
        }
        // Two have all that there are, and more have them again.
        let mut all = unmatched.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1_023);
        assert_eq!(matched.len(), 920);
        assert_eq!(filters_on_the_way(7, 32, 1_024).len(), 256);
        assert_eq!(matching_filters(3, 1_024), ["#", "a/#", "+/#", "a/a/#", "+/a/#", "a/+/#", "+/+/#"]);
        assert_eq!(matching_filters(10, 2), ["#", "a/#"]);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let all = Attack::value_variants();
        let mut names: Vec<&str> = all.iter().flat_map(|it| variants(*it)).map(|it| it.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len() + 5);
    }
}
