//! The command line.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{RangedU64ValueParser, TypedValueParser},
    value_parser,
};

use crate::{
    broker::BrokerProbe,
    client::{Pace, Threads},
    connect::Target,
    dialect::Dialect,
    duration::{self, LONGEST_S},
    output::Outputs,
};

/// Open-loop load test for fanfare and its peers.
///
/// Publications are due on a timetable and latency counts from the instant in the timetable, so that a
/// broker that falls behind is seen as latency (no coordinated omission). Every run verifies: on sampled
/// subscribers each delivery's place and checksum, on the others the exact number of bytes.
///
/// Exit codes: 0 all is well; 1 something was lost, duplicated, reordered or corrupted, a connection ended, or
/// the result could not be printed; 2 it could not run.
#[derive(Debug, Parser)]
#[command(version, about, args_override_self = true, max_term_width = 100, arg_required_else_help = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Few publishers, one topic, many subscribers: deliveries per second, latency, CPU per delivery
    #[command(after_help = "Examples:\n  \
        fanfare-loadtest fanout --pid $(pgrep -x fanfare) --rate 14000 --cores 1 --html fanout.html\n  \
        fanfare-loadtest fanout --find-max --p99-ms 50 --duration 5s\n  \
        fanfare-loadtest fanout --closed --window 64")]
    Fanout(Fanout),
    /// Many publishers, one topic, few subscribers: what it takes to put everyone in one order
    #[command(after_help = "Example:\n  \
        fanfare-loadtest fanin --publishers 1000 --rate 100000 --pid $(pgrep -x fanfare)")]
    Fanin(Fanin),
    /// Chat: publishers in many rooms of some subscribers each
    #[command(after_help = "Example:\n  \
        fanfare-loadtest rooms --rooms 200 --members 20 --publishers 200 --rate 5000")]
    Rooms(Rooms),
    /// Prices: many topics, every subscriber on some of them
    #[command(after_help = "Example:\n  \
        fanfare-loadtest ticker --topics 1000 --per-subscriber 20 --rate 20000")]
    Ticker(Ticker),
    /// Upgrades per second in an open loop, or everybody reconnecting at once: latency, CPU per upgrade
    #[command(after_help = "Examples:\n  \
        fanfare-loadtest connect --rate 5000 --pid $(pgrep -x fanfare)\n  \
        fanfare-loadtest connect --storm 10000 --pid $(pgrep -x fanfare)")]
    Connect(Connect),
    /// Connections that subscribe and stay idle: memory per connection
    #[command(after_help = "Example:\n  \
        fanfare-loadtest idle --connections 15000 --hold 1m --pid $(pgrep -x fanfare)")]
    Idle(Idle),
    /// A fan-out, rooms and a fan-in for hours, with clients that come and go, reconnect and dawdle
    ///
    /// Everybody is verified, in both of fanfare's languages, by name and by filter. The broker's memory is
    /// reported as its slope in the first and in the last hour.
    #[command(after_help = "Example:\n  \
        fanfare-loadtest soak --duration 8h --pid $(pgrep -x fanfare) --html soak.html")]
    Soak(Soak),
    /// A small topic beside a large one: does the large one's fan-out hold up the small one's?
    #[command(after_help = "Example:\n  \
        fanfare-loadtest beside --large-subscribers 10000 --cores 1")]
    Beside(Beside),
    /// Subscribers that do not read beside others that do, in rounds without and with them
    #[command(
        after_help = "Example, with a broker that lets little be owed, so that its policy has work:\n  \
        fanfare serve --reactors 1 --set delivery.owed_bytes_max=2097152 &\n  \
        fanfare-loadtest stalled --pid $! --cores 1 --memory-max 256 --html stalled.html"
    )]
    Stalled(Stalled),
    /// Clients that were away come back all at once and must get exactly what they missed, beside others that stayed
    ///
    /// The broker must be started with a policy that keeps what is missed: a `[[topic]]` that matches resume/#, with a
    /// history_count of --missed at least, and room for it in history.bytes_max.
    #[command(after_help = "Example:\n  \
        taskset -c 0 fanfare serve --reactors 1 --set 'topic=[{ match = \"resume/#\", history_count = 100000 }]' &\n  \
        fanfare-loadtest resume --pid $! --cores 1 --ratio-max 2 --p99-ms 2 --within 10s --memory-max 64")]
    Resume(Resume),
    /// A client gets the newest of many topics by one filter, another what changed while it was away, beside others
    ///
    /// The broker must be started with a policy that keeps what is published: a `[[topic]]` that matches retained/topic/#,
    /// with a history_count of 1 at least, and room for --topics in limits.topics_max and history.bytes_max.
    #[command(after_help = "Example:\n  \
        taskset -c 0 fanfare serve --reactors 1 --set 'topic=[{ match = \"retained/topic/#\", history_count = 1 }]' &\n  \
        fanfare-loadtest retained --pid $! --metrics http://127.0.0.1:7601/metrics --cores 1 \\\n      \
            --tour-ms 500 --return-ms 200 --ratio-max 2 --p99-ms 2 --topic-bytes-max 1200")]
    Retained(Retained),
    /// Hostile clients beside healthy ones, one kind of attack after the other: what do they cost the others?
    ///
    /// During each attack, healthy clients send JSON pings, publish and subscribe on connections of their
    /// own. It fails if they wait longer than the bounds, lose what was acknowledged, or are closed.
    #[command(after_help = "Examples:\n  \
        taskset -c 0 fanfare serve --reactors 1 --set deflate.enabled=true &\n  \
        fanfare-loadtest hostile --pid $! --metrics http://127.0.0.1:7601/metrics --cores 1\n\n  \
        taskset -c 0 fanfare serve --reactors 1 --set limits.log_bytes_max=16777216 \\\n      \
            --set delivery.owed_bytes_max=2097152 &\n  \
        fanfare-loadtest hostile --attack shed --log-bytes 134217728 --subscribers 1000 --cores 1\n\n\
        Filters deeper than a broker takes unless it is told to, and what a broker without that limit is held up by:\n  \
        taskset -c 0 fanfare serve --reactors 1 --set limits.plus_levels_max=32 \\\n      \
            --set limits.filter_levels_max=20480 &\n  \
        fanfare-loadtest hostile --attack unsubscribe,idle-filters --levels 20 --cores 1\n  \
        fanfare-loadtest hostile --attack filter-bomb --levels 32 --cores 1")]
    Hostile(Hostile),
    /// The same fan-out by a bare io_uring loop: what the kernel costs, for comparison
    #[command(after_help = "Example:\n  \
        fanfare-loadtest floor --rate 14000 --server-core 0 --cores 1")]
    Floor(Floor),
    /// A scenario from a TOML file: `scenario = "fanout"` and the same names as the flags
    #[command(after_help = "The file:\n  \
        scenario = \"fanout\"\n  rate = 14000\n  subscribers = 1000\n  cores = [1]\n  html = \"out.html\"\n\n\
        Flags after the file's name take precedence:\n  fanfare-loadtest run fanout.toml --rate 100")]
    Run(RunFile),
    /// The same against several brokers in turn, and one table.
    Compare(Compare),
    /// The bare loop itself, as `floor` starts it.
    #[command(hide = true)]
    FloorServer(FloorServer),
}

/// Where the broker is and how to speak with it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The broker")]
pub struct Broker {
    /// Its address
    #[arg(long, default_value = "ws://127.0.0.1:7600/ws")]
    pub url: String,
    /// A token to bring along; other users of this machine see it
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file whose first line is a token to bring along
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Its protocol
    #[arg(long, value_enum, default_value_t = Dialect::Json)]
    pub protocol: Dialect,
    /// Its process, for its CPU time, memory and context switches
    #[arg(long)]
    pub pid: Option<u32>,
    /// Its metrics (http://127.0.0.1:7601/metrics), for fanfare's turns, each of which is a system call
    #[arg(long, visible_alias = "admin", value_name = "URL")]
    pub metrics: Option<String>,
}

impl Broker {
    /// Where to connect, and with what.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn target(&self) -> Result<Target, String> {
        let token = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| format!("--token-file {}: {error}", path.display()))?;
                Some(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            None => self.token.clone(),
        };
        Ok(Target::parse(&self.url)?.with_token(token))
    }

    /// Where to look for what it takes.
    pub fn probe(&self) -> BrokerProbe {
        BrokerProbe { pid: self.pid, metrics: self.metrics.clone() }
    }
}

/// How long and on which cores.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The run")]
pub struct Run {
    /// How long is measured: `30s`, `10m`, `1h`; a bare number is seconds, here and below
    #[arg(long, value_name = "DURATION", default_value_t = 10, value_parser = lasting())]
    pub duration: u64,
    /// How long before that, which does not count
    #[arg(long, value_name = "DURATION", default_value_t = 2, value_parser = waiting())]
    pub warmup: u64,
    /// The longest wait for the last deliveries
    #[arg(long, value_name = "DURATION", default_value_t = 10, value_parser = waiting())]
    pub drain: u64,
    /// Cores to run on, one thread each: `1` or `1,2`; without it wherever
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Threads, pinned to the cores in turn; 0: one per core
    #[arg(long, default_value_t = 0, value_parser = count(0, 64))]
    pub threads: usize,
    /// Where the result goes
    #[command(flatten)]
    pub outputs: Outputs,
}

impl Run {
    /// The client's threads.
    pub fn threads(&self) -> Threads {
        Threads { count: self.threads, cores: self.cores.clone() }
    }
}

/// Who is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// `--sample` subscribers by content, the others by the number of bytes
    Sample,
    /// Every subscriber by content
    All,
}

/// What is published and how it is looked at.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The load")]
pub struct Load {
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Subscribers that are verified by content and whose latency is measured; at least one per topic
    #[arg(long, default_value_t = 64, value_parser = count(1, 1_000_000))]
    pub sample: usize,
    /// Who is verified by content
    #[arg(long, value_enum, default_value_t = Verify::Sample)]
    pub verify: Verify,
    /// Publish when the window has room instead of by the timetable: throughput, not latency
    #[arg(long)]
    pub closed: bool,
    /// With --closed: publications of each publisher to a topic that may be on their way
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u64).range(1..1_000_000))]
    pub window: u64,
    /// Search the highest rate without loss whose p99 is within --p99-ms, beginning at --rate
    #[arg(long, conflicts_with = "closed")]
    pub find_max: bool,
    /// With --find-max: the bound
    #[arg(long, default_value_t = 50.0)]
    pub p99_ms: f64,
    /// With --find-max: the most tries
    #[arg(long, default_value_t = 14, value_parser = count(1, 100))]
    pub tries: usize,
}

impl Default for Load {
    /// As without a flag.
    fn default() -> Load {
        Load {
            size: 128,
            sample: 64,
            verify: Verify::Sample,
            closed: false,
            window: 16,
            find_max: false,
            p99_ms: 50.0,
            tries: 14,
        }
    }
}

impl Load {
    /// By the timetable or by a window.
    pub fn pace(&self) -> Pace {
        match self.closed {
            true => Pace::Closed { window: self.window },
            false => Pace::Open,
        }
    }

    /// How many of so many subscribers are sampled.
    pub fn sampled_of(&self, subscribers: usize) -> usize {
        match self.verify {
            Verify::All => subscribers,
            Verify::Sample => subscribers.min(self.sample),
        }
    }
}

/// `fanout`.
#[derive(Clone, Debug, Args)]
pub struct Fanout {
    /// Connections that subscribe to the topic
    #[arg(long, default_value_t = 1000, value_parser = count(1, 1_000_000))]
    pub subscribers: usize,
    /// Connections that publish to it
    #[arg(long, default_value_t = 1, value_parser = count(1, 65_536))]
    pub publishers: usize,
    /// Publications per second, all publishers together
    #[arg(long, default_value_t = 1000, value_parser = rate())]
    pub rate: u64,
    /// The topic
    #[arg(long, default_value = "load/1")]
    pub topic: String,
    /// What is published.
    #[command(flatten)]
    pub load: Load,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `fanin`.
#[derive(Clone, Debug, Args)]
pub struct Fanin {
    /// Connections that publish to the topic
    #[arg(long, default_value_t = 1000, value_parser = count(1, 65_536))]
    pub publishers: usize,
    /// Connections that subscribe to it
    #[arg(long, default_value_t = 5, value_parser = count(1, 1_000_000))]
    pub subscribers: usize,
    /// Publications per second, all publishers together
    #[arg(long, default_value_t = 20_000, value_parser = rate())]
    pub rate: u64,
    /// What is published.
    #[command(flatten)]
    pub load: Load,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `rooms`.
#[derive(Clone, Debug, Args)]
pub struct Rooms {
    /// Rooms, a topic each
    #[arg(long, default_value_t = 100, value_parser = count(1, 65_536))]
    pub rooms: usize,
    /// Subscribers of each room
    #[arg(long, default_value_t = 10, value_parser = count(1, 1_000_000))]
    pub members: usize,
    /// Connections that publish, spread over the rooms
    #[arg(long, default_value_t = 100, value_parser = count(1, 65_536))]
    pub publishers: usize,
    /// Publications per second, all rooms together
    #[arg(long, default_value_t = 2000, value_parser = rate())]
    pub rate: u64,
    /// What is published.
    #[command(flatten)]
    pub load: Load,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `ticker`.
#[derive(Clone, Debug, Args)]
pub struct Ticker {
    /// Topics
    #[arg(long, default_value_t = 500, value_parser = count(1, 65_536))]
    pub topics: usize,
    /// Connections that subscribe
    #[arg(long, default_value_t = 500, value_parser = count(1, 1_000_000))]
    pub subscribers: usize,
    /// Topics that each of them subscribes to
    #[arg(long, default_value_t = 10, value_parser = count(1, 1024))]
    pub per_subscriber: usize,
    /// Connections that publish, the topics dealt out to them
    #[arg(long, default_value_t = 4, value_parser = count(1, 65_536))]
    pub publishers: usize,
    /// Publications per second, all topics together
    #[arg(long, default_value_t = 5000, value_parser = rate())]
    pub rate: u64,
    /// Let subscribers that are behind lose what is not the newest: order must rise and the last must come
    #[arg(long)]
    pub conflate: bool,
    /// What is published.
    #[command(flatten)]
    pub load: Load,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `connect`.
#[derive(Clone, Debug, Args)]
pub struct Connect {
    /// Upgrades per second
    #[arg(long, default_value_t = 2000, value_parser = rate())]
    pub rate: u64,
    /// Instead: open so many, drop them all at once, and have them come back in the same instant
    #[arg(long, value_parser = count(1, 1_000_000))]
    pub storm: Option<usize>,
    /// Connections that stay open at a time; the oldest go first
    #[arg(long, default_value_t = 1000, value_parser = count(1, 1_000_000))]
    pub open: usize,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `soak`.
#[derive(Clone, Debug, Args)]
pub struct Soak {
    /// How long is measured: `30s`, `10m`, `8h`; a bare number is seconds, here and below
    #[arg(long, value_name = "DURATION", default_value_t = 3600, value_parser = lasting())]
    pub duration: u64,
    /// Subscribers of the one large topic
    #[arg(long, default_value_t = 500, value_parser = count(1, 1_000_000))]
    pub subscribers: usize,
    /// Rooms of ten
    #[arg(long, default_value_t = 50, value_parser = count(1, 10_000))]
    pub rooms: usize,
    /// Publishers to one topic with two subscribers
    #[arg(long, default_value_t = 50, value_parser = count(1, 65_536))]
    pub publishers: usize,
    /// Connections at a time that subscribe, stay for up to two seconds and leave, again and again
    #[arg(long, default_value_t = 8, value_parser = count(0, 64))]
    pub visitors: usize,
    /// Publishers that reconnect after some publications each, all of them acknowledged
    #[arg(long, default_value_t = 4, value_parser = count(0, 64))]
    pub reconnecting: usize,
    /// Subscribers that stop reading for up to a minute and a half
    #[arg(long, default_value_t = 2, value_parser = count(0, 64))]
    pub slow: usize,
    /// Publications per second: a tenth to the large topic, the rest to rooms and fan-in
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(10..10_000_000))]
    pub rate: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// How long before it counts
    #[arg(long, value_name = "DURATION", default_value_t = 2, value_parser = waiting())]
    pub warmup: u64,
    /// The longest wait for the last deliveries
    #[arg(long, value_name = "DURATION", default_value_t = 30, value_parser = waiting())]
    pub drain: u64,
    /// Cores to run on, one thread each
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Threads, pinned to the cores in turn; 0: one per core
    #[arg(long, default_value_t = 0, value_parser = count(0, 64))]
    pub threads: usize,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// Where the result goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// `beside`.
#[derive(Clone, Debug, Args)]
pub struct Beside {
    /// Subscribers of the small topic
    #[arg(long, default_value_t = 10, value_parser = count(1, 100_000))]
    pub small_subscribers: usize,
    /// Publications per second on the small topic
    #[arg(long, default_value_t = 100, value_parser = rate())]
    pub small_rate: u64,
    /// Subscribers of the large topic
    #[arg(long, default_value_t = 10_000, value_parser = count(1, 1_000_000))]
    pub large_subscribers: usize,
    /// Publications per second on the large topic
    #[arg(long, default_value_t = 20, value_parser = rate())]
    pub large_rate: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// `stalled`.
#[derive(Clone, Debug, Args)]
pub struct Stalled {
    /// Subscribers that do not read, in every second round
    #[arg(long, default_value_t = 1_000, value_parser = count(1, 100_000))]
    pub stalled: usize,
    /// Subscribers that do
    #[arg(long, default_value_t = 1_000, value_parser = count(1, 100_000))]
    pub healthy: usize,
    /// Connections that publish to those
    #[arg(long, default_value_t = 1, value_parser = count(1, 10_000))]
    pub publishers: usize,
    /// Publications per second on their topic; and once more on the topics of those who do not read
    #[arg(long, default_value_t = 1_000, value_parser = rate())]
    pub rate: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Topics that those who do not read have to themselves; 0: they have the others' topic
    #[arg(long, default_value_t = 0, value_parser = count(0, 100_000))]
    pub own_topics: usize,
    /// Rounds of each kind, in turn
    #[arg(long, default_value_t = 3, value_parser = count(1, 1_000))]
    pub rounds: usize,
    /// Fail if the broker has more than so many MiB resident at any time; needs --pid
    #[arg(long, requires = "pid")]
    pub memory_max: Option<u64>,
    /// Fail if p99 with them is more than so many times the p99 without
    #[arg(long)]
    pub ratio_max: Option<f64>,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// What p99 of others may be beside what a scenario does.
#[derive(Clone, Copy, Debug, Default, Args, serde::Serialize)]
pub struct OthersBounds {
    /// Fail if p99 of the others is more than so many times what it is when they are alone
    #[arg(long)]
    pub ratio_max: Option<f64>,
    /// With --ratio-max: a p99 of so many milliseconds is good enough whatever the ratio
    #[arg(long, requires = "ratio_max")]
    pub p99_ms: Option<f64>,
}

/// `resume`.
#[derive(Clone, Debug, Args)]
pub struct Resume {
    /// Clients that were away
    #[arg(long, default_value_t = 1_000, value_parser = count(1, 100_000))]
    pub clients: usize,
    /// Publications that they missed
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub missed: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 190, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Subscribers of another topic, which stay
    #[arg(long, default_value_t = 100, value_parser = count(1, 100_000))]
    pub live: usize,
    /// Publications per second to those
    #[arg(long, default_value_t = 1_000, value_parser = rate())]
    pub rate: u64,
    /// Of both kinds, those that are verified by content
    #[arg(long, default_value_t = 64, value_parser = count(1, 1_000_000))]
    pub sample: usize,
    /// Who is verified by content
    #[arg(long, value_enum, default_value_t = Verify::Sample)]
    pub verify: Verify,
    /// What those who stay may see.
    #[command(flatten)]
    pub others: OthersBounds,
    /// Fail if it takes longer until everybody has everything; it is given up after --duration in any case
    #[arg(long, value_name = "DURATION", value_parser = lasting())]
    pub within: Option<u64>,
    /// Fail if the broker grows by more than so many MiB meanwhile; needs --pid
    #[arg(long, requires = "pid")]
    pub memory_max: Option<u64>,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run: each phase has this duration.
    #[command(flatten)]
    pub run: Run,
}

/// `retained`.
#[derive(Clone, Debug, Args)]
pub struct Retained {
    /// Topics that keep what was published to them
    #[arg(long, default_value_t = 100_000, value_parser = count(1, 1_000_000))]
    pub topics: usize,
    /// Of those, how many are published to again before somebody comes back
    #[arg(long, default_value_t = 1_000, value_parser = count(1, 1_000_000))]
    pub changed: usize,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Subscribers of another topic
    #[arg(long, default_value_t = 1, value_parser = count(1, 100_000))]
    pub live: usize,
    /// Publications per second to those
    #[arg(long, default_value_t = 1_000, value_parser = rate())]
    pub rate: u64,
    /// Rounds: the others alone, the others beside tours, a return
    #[arg(long, default_value_t = 5, value_parser = count(1, 1_000))]
    pub rounds: usize,
    /// What the others may see.
    #[command(flatten)]
    pub others: OthersBounds,
    /// Fail if the median tour, from its subscribe to `replayed`, takes more than so many milliseconds
    #[arg(long)]
    pub tour_ms: Option<f64>,
    /// Fail if the median return takes more than so many milliseconds
    #[arg(long)]
    pub return_ms: Option<f64>,
    /// Fail if the broker grows by more than so many bytes for each topic; needs --pid, and a broker that is new to them
    #[arg(long, requires = "pid")]
    pub topic_bytes_max: Option<u64>,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run: in each round the others alone, and beside tours, have this duration.
    #[command(flatten)]
    pub run: Run,
}

/// `hostile`.
#[derive(Clone, Debug, Args)]
pub struct Hostile {
    /// Kinds of attack, `pings,replies`; without it all of them in turn
    #[arg(long, value_enum, value_delimiter = ',')]
    pub attack: Vec<Attack>,
    /// Connections that attack; without it as many as the kind needs
    #[arg(long, value_parser = count(1, 100_000))]
    pub attackers: Option<usize>,
    /// The most that the attackers of a kind that has no end send per second, all together; without it as much
    /// as the broker takes
    #[arg(long, value_parser = value_parser!(u64).range(1..))]
    pub bytes_per_s: Option<u64>,
    /// How long each attack lasts: `30s`, `10m`, `1h`; a bare number is seconds, here and below
    #[arg(long, value_name = "DURATION", default_value_t = 5, value_parser = lasting())]
    pub duration: u64,
    /// How long healthy clients are alone before each attack
    #[arg(long, value_name = "DURATION", default_value_t = 1, value_parser = waiting())]
    pub warmup: u64,
    /// The longest wait for what the healthy are owed after an attack
    #[arg(long, value_name = "DURATION", default_value_t = 10, value_parser = waiting())]
    pub drain: u64,
    /// Healthy connections that send a JSON ping every 2 ms: several, so that there is one on each reactor, most likely
    #[arg(long, default_value_t = 4, value_parser = count(1, 256))]
    pub healthy: usize,
    /// Healthy subscribers of the topic that is published to 50 times a second
    #[arg(long, default_value_t = 10, value_parser = count(1, 1_000))]
    pub subscribers: usize,
    /// Topics that `unsubscribe`, `stalled` and `wide` publish to
    #[arg(long, default_value_t = 20_000, value_parser = count(1, 1_000_000))]
    pub topics: usize,
    /// Filters of each attacker of `unsubscribe`, `idle-filters` and `filter-bomb`; the broker's limit is 1,024
    #[arg(long, default_value_t = 1_024, value_parser = count(2, 100_000))]
    pub filters: usize,
    /// Levels of those filters; without it as many as a broker's usual limits take: 8, and 10 for `filter-bomb`.
    /// More take a broker with limits.plus_levels_max, and but for `filter-bomb` limits.filter_levels_max, to match
    #[arg(long, value_parser = count(2, 32))]
    pub levels: Option<usize>,
    /// What `shed` takes for the broker's limits.log_bytes_max, to publish twice as much in each second: run the
    /// broker with a small one, or nothing is shed
    #[arg(long, default_value_t = 16 << 20, value_parser = value_parser!(u64).range(1 << 20..1 << 36))]
    pub log_bytes: u64,
    /// Fail if 1 % of the pings of any healthy connection take longer than so many milliseconds
    #[arg(long, default_value_t = 5.0)]
    pub ping_p99_ms: f64,
    /// Fail if any ping takes longer
    #[arg(long, default_value_t = 20.0)]
    pub ping_max_ms: f64,
    /// Fail if 1 % of the healthy deliveries take longer
    #[arg(long, default_value_t = 20.0)]
    pub delivery_p99_ms: f64,
    /// Fail if more healthy connections are closed during an attack
    #[arg(long, default_value_t = 0)]
    pub closed_max: u64,
    /// Fail if the broker has more than so many MiB resident at any time; needs --pid
    #[arg(long, requires = "pid")]
    pub memory_max: Option<u64>,
    /// Cores to run on: the healthy on the last, the attackers on the others, if there are others
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// Where the result goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// What the attackers of `hostile` do. They send as fast as the broker takes it, and read what comes unless
/// it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// WebSocket pings without end
    Pings,
    /// JSON pings without end
    Commands,
    /// Publish to one topic without asking for an answer
    Publishes,
    /// Publish to one topic and ask for each answer
    Replies,
    /// Publish to ever new topics
    Names,
    /// Subscribe to one topic and unsubscribe again
    Subscribes,
    /// Subscribe to overlapping filters of 8 levels and unsubscribe again
    Filters,
    /// Publish to ever new topics that have every node of all filters on their way: filters of a and +, as many as
    /// there may be, of which first none matches, then all do
    FilterBomb,
    /// Commands that are refused with long errors, which are not read
    Errors,
    /// Messages of 1,024 commands
    Arrays,
    /// Messages of 1 MiB: arrays of numbers, of objects, and spaces
    Dense,
    /// Compressed messages of 1 MiB: a thousandth on the wire, and a hundredth; needs deflate.enabled
    Bombs,
    /// Compressed messages of blocks that say nothing: 1 MiB of them, and as many as may be; needs deflate.enabled
    Blocks,
    /// One of many filters is unsubscribed by a client that received from many topics, which then leaves
    Unsubscribe,
    /// A subscriber of # that does not read and is owed something of many topics unsubscribes, then leaves
    Stalled,
    /// Subscribers that do not read fill the log; who keeps up must not be closed for it
    Shed,
    /// Connections with many filters each, which then leave: memory of each
    IdleFilters,
    /// Subscribers of one filter that matches many topics, which then leave: memory of each pair
    Wide,
}

/// `idle`.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    /// How many connections
    #[arg(long, default_value_t = 10_000, value_parser = count(1, 1_000_000))]
    pub connections: usize,
    /// Topics that they are spread over
    #[arg(long, default_value_t = 1, value_parser = count(1, 1_000_000))]
    pub topics: usize,
    /// How long to stay after the memory was read: `30s`, `10m`, `1h`; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value_t = 0, value_parser = duration::within(0..=LONGEST_S))]
    pub hold: u64,
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// Where the result goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// `floor`.
#[derive(Clone, Debug, Args)]
pub struct Floor {
    /// What it sends to whom.
    #[command(flatten)]
    pub shape: FloorShape,
    /// Frames per second and socket; with --rooms, publications per second, all rooms together
    #[arg(long, default_value_t = 100, value_parser = rate())]
    pub rate: u64,
    /// The core that the bare loop runs on
    #[arg(long)]
    pub server_core: Option<usize>,
    /// Subscribers that are verified by content and whose latency is measured
    #[arg(long, default_value_t = 64, value_parser = count(1, 1_000_000))]
    pub sample: usize,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// What the floor sends to whom: its own frames to everybody, or each publication that comes to a room.
#[derive(Clone, Debug, Args)]
pub struct FloorShape {
    /// Sockets that are sent to
    #[arg(long, default_value_t = 1000, value_parser = count(1, 1_000_000))]
    pub subscribers: usize,
    /// Bytes of a frame, header included
    #[arg(long, default_value_t = 190, value_parser = value_parser!(u64).range(130..4096))]
    pub frame_bytes: u64,
    /// Send only whole multiples of this many frames. 1: whatever is due
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..=1024))]
    pub merge: u64,
    /// Receive publications and send each to one of so many rooms, instead
    #[arg(long, value_parser = count(1, 65_536), conflicts_with_all = ["subscribers", "frame_bytes", "merge"])]
    pub rooms: Option<usize>,
    /// Members of each room; 1: pairs
    #[arg(long, default_value_t = 10, value_parser = count(1, 1_000_000), requires = "rooms")]
    pub members: usize,
    /// Connections that publish, dealt out to the rooms: one each where this is not said
    #[arg(long, value_parser = count(1, 65_536), requires = "rooms")]
    pub publishers: Option<usize>,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u64).range(32..=4000), requires = "rooms")]
    pub size: u64,
}

impl FloorShape {
    /// A fan-out of this program's own frames.
    pub fn fan_out(subscribers: usize, frame_bytes: u64) -> FloorShape {
        FloorShape { subscribers, frame_bytes, merge: 1, rooms: None, members: 0, publishers: None, size: 0 }
    }

    /// Rooms that are published to by one connection each, or by `publishers`.
    pub fn rooms(rooms: usize, members: usize, publishers: usize, size: u64) -> FloorShape {
        let publishers = Some(publishers);
        FloorShape { rooms: Some(rooms), members, publishers, size, ..FloorShape::fan_out(0, 0) }
    }

    /// The flags that say it.
    pub fn arguments(&self) -> Vec<String> {
        let FloorShape { subscribers, frame_bytes, merge, rooms, members, publishers, size } = *self;
        let flags = match rooms {
            None => vec![
                ("--subscribers", subscribers as u64),
                ("--frame-bytes", frame_bytes),
                ("--merge", merge),
            ],
            Some(rooms) => vec![
                ("--rooms", rooms as u64),
                ("--members", members as u64),
                ("--publishers", publishers.unwrap_or(rooms) as u64),
                ("--size", size),
            ],
        };
        flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
    }
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunFile {
    /// The file
    pub file: PathBuf,
    /// Flags that take precedence over it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub flags: Vec<String>,
}

/// `compare`.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// The list of brokers: how to start each and how to speak with it.
    #[arg(default_value = "loadtest/peers/compare.toml")]
    pub config: PathBuf,
    /// Only these of them: `fanfare,bun`. The floor is always there.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// How often everybody has a turn, if there is time.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds that are measured at each rate of the search, after one to warm up; one more at the
    /// fixed rates.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// No round begins that would not be over after so many minutes.
    #[arg(long, default_value_t = 25)]
    pub minutes: u64,
    /// The core that brokers run on.
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// The core that the client runs on.
    #[arg(long, default_value_t = 1)]
    pub client_core: usize,
    /// Connections that subscribe to the topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Bytes of a publication's data.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(72..4000))]
    pub size: u64,
    /// Connections that stay idle while memory is read.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Run brokers and client before everything else on the machine (SCHED_FIFO), if that is allowed.
    /// The kernel stops them for 50 ms of each second in which they would use it all, unless
    /// `sysctl kernel.sched_rt_runtime_us=-1` was said before.
    #[arg(long)]
    pub realtime: bool,
    /// Leave other programs a hundredth of the processor (nice -20, the session's autogroup too).
    #[arg(long, conflicts_with = "realtime")]
    pub nice: bool,
    /// Also write everything that was measured to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Also write the table to this file.
    #[arg(long)]
    pub markdown: Option<PathBuf>,
}

/// `floor-server`.
#[derive(Debug, Args)]
pub struct FloorServer {
    /// What it sends to whom.
    #[command(flatten)]
    pub shape: FloorShape,
    /// Frames per second and socket; with --rooms it follows from what comes
    #[arg(long)]
    pub rate: u64,
    /// The core to run on.
    #[arg(long)]
    pub server_core: Option<usize>,
}

/// The most publications, or upgrades, per second.
pub const RATE_MAX: u64 = 10_000_000;

fn rate() -> RangedU64ValueParser<u64> {
    value_parser!(u64).range(1..=RATE_MAX)
}

/// How long a run, or a part of it, lasts.
fn lasting() -> impl TypedValueParser<Value = u64> {
    duration::within(1..=LONGEST_S)
}

/// How long something is waited for.
fn waiting() -> impl TypedValueParser<Value = u64> {
    duration::within(0..=3_600)
}

fn count(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::<usize>::new().range(least..=most)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Bounded in count and time, whatever is asked for.
    #[test]
    fn nothing_is_without_a_bound() {
        for (flag, value) in [
            ("--duration", "604801"),
            ("--duration", "0"),
            ("--duration", "8d"),
            ("--warmup", "61m"),
            ("--drain", "1d"),
            ("--rate", "10000001"),
            ("--subscribers", "1000001"),
            ("--threads", "65"),
            ("--size", "31"),
        ] {
            let parsed = Cli::try_parse_from(["fanfare-loadtest", "fanout", flag, value]);
            assert!(parsed.is_err(), "{flag} {value}");
        }
    }

    #[test]
    fn every_duration_takes_a_unit() {
        let read = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command;
        let times = "--duration 10m --warmup 5s --drain 1h";
        let Command::Fanout(Fanout { run, .. }) = read(&format!("it fanout {times}")) else { panic!() };
        assert_eq!((run.duration, run.warmup, run.drain), (600, 5, 3_600));
        let Command::Soak(soak) = read(&format!("it soak {times}")) else { panic!() };
        assert_eq!((soak.duration, soak.warmup, soak.drain), (600, 5, 3_600));
        let Command::Hostile(hostile) = read(&format!("it hostile {times}")) else { panic!() };
        assert_eq!((hostile.duration, hostile.warmup, hostile.drain), (600, 5, 3_600));
        let Command::Idle(idle) = read("it idle --hold 2d") else { panic!() };
        assert_eq!(idle.hold, 172_800);
        let Command::Fanout(Fanout { run, .. }) = read("it fanout --duration 30") else { panic!() };
        assert_eq!((run.duration, run.warmup, run.drain), (30, 2, 10));
    }

    #[test]
    fn a_wrong_duration_is_named_with_what_is_allowed() {
        let error = Cli::try_parse_from(["it", "fanout", "--duration", "10ms"]).unwrap_err().to_string();
        let expected = "invalid value '10ms' for '--duration <DURATION>': it must be from 1s to 7d, as in 30s, 10m, \
                        1h or 1d; a bare number is seconds";
        assert!(error.contains(expected), "{error}");
    }
}
