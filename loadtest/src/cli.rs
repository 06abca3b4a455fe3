//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::dialect::Dialect;

/// Open-loop load test for fanfare and its peers.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One topic, many subscribers: deliveries per second, latency, loss, CPU per delivery.
    Fanout(Fanout),
    /// A small topic beside a large one: the latency of both.
    Beside(Beside),
    /// Connections that subscribe and stay idle: memory per connection.
    Idle(Idle),
    /// The same fan-out by a bare io_uring loop: what the kernel costs, for comparison.
    Floor(Floor),
    /// The same against several brokers in turn, and one table.
    Compare(Compare),
    /// The bare loop itself, as `floor` starts it.
    #[command(hide = true)]
    FloorServer(FloorServer),
}

/// Where the broker is and how to speak with it.
#[derive(Debug, Args)]
pub struct Broker {
    /// Its address.
    #[arg(long, default_value = "ws://127.0.0.1:7600/ws")]
    pub url: String,
    /// The subprotocol.
    #[arg(long, value_enum, default_value_t = Dialect::Json)]
    pub protocol: Dialect,
    /// Its process, for its CPU time and memory.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// How long, on which cores, and where the result goes.
#[derive(Debug, Args)]
pub struct Run {
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub duration: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    pub warmup: u64,
    /// Seconds to wait for the last deliveries.
    #[arg(long, default_value_t = 10)]
    pub drain: u64,
    /// Cores to run on, one thread each: `1` or `1,2`. Without it one thread, wherever.
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
    /// Also write the result to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Who is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// `--sample` subscribers by content, the others by the number of bytes.
    Sample,
    /// Every subscriber by content.
    All,
}

/// `fanout`.
#[derive(Debug, Args)]
pub struct Fanout {
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
    /// The topic.
    #[arg(long, default_value = "load/1")]
    pub topic: String,
    /// Connections that subscribe to it.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Connections that publish to it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..65536))]
    pub publishers: u64,
    /// Publications per second, all publishers together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Bytes of a publication's data, at least 32.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(32..65536))]
    pub size: u64,
    /// Subscribers that are verified by content and whose latency is measured.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
    /// Who is verified by content.
    #[arg(long, value_enum, default_value_t = Verify::Sample)]
    pub verify: Verify,
}

/// `beside`.
#[derive(Debug, Args)]
pub struct Beside {
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
    /// Subscribers of the small topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub small_subscribers: u64,
    /// Publications per second on the small topic.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub small_rate: u64,
    /// Subscribers of the large topic.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub large_subscribers: u64,
    /// Publications per second on the large topic.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub large_rate: u64,
    /// Bytes of a publication's data.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(32..65536))]
    pub size: u64,
}

/// `idle`.
#[derive(Debug, Args)]
pub struct Idle {
    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,
    /// How many connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Topics that they are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub topics: u64,
    /// Seconds to stay after the memory was read.
    #[arg(long, default_value_t = 0)]
    pub hold: u64,
    /// Also write the result to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// `floor`.
#[derive(Debug, Args)]
pub struct Floor {
    /// How to run.
    #[command(flatten)]
    pub run: Run,
    /// Sockets that are sent to.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Frames per second and socket.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Bytes of a frame, header included.
    #[arg(long, default_value_t = 190, value_parser = clap::value_parser!(u64).range(130..4096))]
    pub frame_bytes: u64,
    /// Send only whole multiples of this many frames. 1: whatever is due.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub merge: u64,
    /// The core that the bare loop runs on.
    #[arg(long)]
    pub server_core: Option<usize>,
    /// Subscribers that are verified by content and whose latency is measured.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
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
    #[arg(long, default_value_t = 18)]
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
    /// Sockets to wait for.
    #[arg(long)]
    pub subscribers: usize,
    /// Frames per second and socket.
    #[arg(long)]
    pub rate: u64,
    /// Bytes of a frame.
    #[arg(long)]
    pub frame_bytes: usize,
    /// Send only whole multiples of this many frames.
    #[arg(long)]
    pub merge: u64,
    /// The core to run on.
    #[arg(long)]
    pub server_core: Option<usize>,
}
