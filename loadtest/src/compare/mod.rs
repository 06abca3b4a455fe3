//! The same scenarios against several brokers in turn, on the same cores, round after round, with the
//! floor among them: one table.
//!
//! A machine is not the same from minute to minute, so every round has everybody in it, each time
//! with another one first, and what is printed is the median of the rounds with their least and most.

mod broker;
mod config;
mod result;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cli::{self, Compare},
    client::{Pace, Unwatched},
    connect::{self, Target},
    dialect::Role,
    environment::Environment,
    floor,
    output::{Outputs, print, tell},
    process as cost,
    report::Report,
    scenario::{self, Plan, Setting, topics},
    search::{Ladder, Search},
};
use broker::Running;
use result::{BrokerResult, Comparison, Idle, Priority, Round, Step, Trouble};

const TOPIC: &str = "load/1";
const CALM_RATE: u64 = 100;
const PACED_RATE: u64 = 1000;
/// The same for all, so that rounds and brokers are tried at the same rates: each is a quarter above the one below, near
/// enough.
const LADDER: Ladder = Ladder { base: PACED_RATE, per_doubling: 3 };
const P99_MAX_MS: f64 = 50.0;
/// A rate that is only just over the edge is worth another try.
const P99_CLOSE_MS: f64 = 2.0 * P99_MAX_MS;
/// When a rate did not hold though neither side used so much of its core, somebody else did.
const BUSY_CPU_SHARE: f64 = 0.8;
const RETRIES: usize = 2;
/// Where the floor's first search begins, in publications per second.
const FLOOR_BEGIN: u64 = 32_000;
/// 63 publications per second, 64,000: from below the slowest broker to above what the kernel does.
const RUNGS: (i32, i32) = (-12, 18);
/// Sampled subscribers; more of them where the others can only be counted roughly.
const SAMPLE: usize = 64;
const SAMPLE_OF_STREAMS: usize = 128;
/// Above this share of its core the client cannot be said to have waited for the broker.
const CLIENT_CPU_SHARE_MAX: f64 = 0.95;
/// Opened and closed before memory is read, so that what is made at first use is there.
const WARM_CONNECTIONS: usize = 200;
/// Bytes of the envelope and the frame header around the data in fanfare's JSON, as the floor sends it.
const FLOOR_OVERHEAD_BYTES: u64 = 62;

/// What is asked of a broker, or of the floor.
#[derive(Clone, Copy)]
enum Load {
    /// One topic with everybody on it, at so many publications per second.
    FanOut(u64),
    /// The loads that most applications have.
    Small(Small),
}

/// Rooms that are small, each with publishers of its own.
#[derive(Clone, Copy)]
struct Small {
    rooms: usize,
    members: usize,
    publishers: usize,
    /// All rooms together, per second.
    rate: u64,
}

const PAIRS: Small = Small { rooms: 1_000, members: 1, publishers: 1_000, rate: 40_000 };
const ROOMS: Small = Small { rooms: 100, members: 10, publishers: 100, rate: 5_000 };
const FAN_IN: Small = Small { rooms: 1, members: 2, publishers: 1_000, rate: 20_000 };

impl Load {
    fn rate(self) -> u64 {
        match self {
            Load::FanOut(rate) => rate,
            Load::Small(small) => small.rate,
        }
    }
}

/// What one of the table's rows is about.
enum Subject {
    Broker(config::Broker),
    Floor,
}

/// The comparison under way.
struct Run<'a> {
    options: &'a Compare,
    directory: PathBuf,
    /// What the brokers say goes here.
    logs: PathBuf,
    subjects: Vec<Subject>,
    /// Shared with whoever ends it before its time.
    comparison: Arc<Mutex<Comparison>>,
    begun: Instant,
}

/// Runs it; whether everybody who is installed was measured to the end.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Compare) -> Result<bool, String> {
    let (directory, mut brokers) = config::read(&options.config)?;
    if let Some(unknown) = options.only.iter().find(|name| !brokers.iter().any(|it| it.name == **name)) {
        return Err(format!("{}: there is no broker {unknown}", options.config.display()));
    }
    brokers.retain(|it| options.only.is_empty() || options.only.contains(&it.name));
    if options.server_core == options.client_core {
        return Err("the broker and the client need a core each".to_owned());
    }
    scenario::ensure_descriptors(options.connections.max(options.subscribers) as usize + WARM_CONNECTIONS)?;
    for path in options.json.iter().chain(&options.markdown) {
        // Better now than after twenty minutes. What is there already stays until it is replaced.
        let opened = File::options().append(true).create(true).open(path);
        opened.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    cost::pin_to_core(options.client_core)?;
    if options.realtime {
        cost::run_in_real_time()?;
        if cost::real_time_is_throttled() {
            tell(format_args!(
                "kernel.sched_rt_runtime_us is not -1: whoever needs its whole core stands still for 50 ms \
                 of each second"
            ));
        }
    }
    if options.nice {
        cost::run_before_others()?;
    }
    let logs = std::env::temp_dir().join(format!("fanfare-compare-{}", process::id()));
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;

    let mut subjects: Vec<Subject> = brokers.into_iter().map(Subject::Broker).collect();
    subjects.push(Subject::Floor);
    let results = subjects.iter().map(|it| it.result(&directory)).collect();
    let environment = Environment::read(None);
    let run = Run {
        options,
        directory,
        logs,
        subjects,
        comparison: Arc::new(Mutex::new(Comparison {
            machine: environment.machine(),
            command: environment.command,
            priority: match (options.realtime, options.nice) {
                (true, _) => Priority::RealTime,
                (_, true) => Priority::Nice,
                _ => Priority::Usual,
            },
            subscribers: options.subscribers,
            size: options.size,
            connections: options.connections,
            is_complete: false,
            elapsed_s: 0.0,
            cut: Vec::new(),
            brokers: results,
        })),
        begun: Instant::now(),
    };
    run.end_on_signal()?;
    let rounds = run.rounds();
    run.with(|it| {
        let is_whole = |broker: &BrokerResult| match &broker.trouble {
            None => broker.rounds.len() == rounds,
            Some(trouble) => matches!(trouble, Trouble::Skipped(_)),
        };
        it.is_complete = it.brokers.iter().all(is_whole);
    });
    let result = run.with(|it| publish(it, options).map(|()| it.is_complete));
    let _ = fs::remove_dir_all(&run.logs);
    result
}

/// Prints the table and writes the files.
fn publish(comparison: &Comparison, options: &Compare) -> Result<(), String> {
    print(comparison);
    if let Some(path) = &options.markdown {
        fs::write(path, comparison.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Outputs { json: options.json.clone(), html: None }.write_json(comparison)
}

impl Subject {
    /// Nothing yet, but whether it can be started.
    fn result(&self, directory: &Path) -> BrokerResult {
        let (name, protocol, version) = match self {
            Subject::Broker(broker) => {
                (&*broker.name, Some(broker.protocol), broker::version(broker, directory))
            }
            Subject::Floor => (table::FLOOR, None, Ok(String::new())),
        };
        let (version, trouble) = match version {
            Ok(version) => (version, None),
            Err(reason) => {
                tell(format_args!("{name}: skipped: {reason}"));
                (String::new(), Some(Trouble::Skipped(reason)))
            }
        };
        BrokerResult { name: name.to_owned(), protocol, version, trouble, rounds: Vec::new() }
    }
}

impl Run<'_> {
    fn with<T>(&self, change: impl FnOnce(&mut Comparison) -> T) -> T {
        let mut comparison = self.comparison.lock().expect("nobody panics with it");
        comparison.elapsed_s = self.begun.elapsed().as_secs_f64();
        change(&mut comparison)
    }

    /// On a signal: ends the broker, tells what there is, exits.
    fn end_on_signal(&self) -> Result<(), String> {
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| format!("signals: {error}"))?;
        let (comparison, options) = (self.comparison.clone(), self.options.clone());
        let (begun, logs) = (self.begun, self.logs.clone());
        thread::spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            let mut comparison = comparison.lock().unwrap_or_else(|it| it.into_inner());
            if let Some(pid) = Pid::from_raw(broker::RUNNING_PID.load(SeqCst) as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            comparison.elapsed_s = begun.elapsed().as_secs_f64();
            tell(format_args!("fanfare-loadtest: interrupted; this is what there is so far"));
            if let Err(error) = publish(&comparison, &options) {
                tell(format_args!("fanfare-loadtest: {error}"));
            }
            let _ = fs::remove_dir_all(&logs);
            process::exit(128 + signal);
        });
        Ok(())
    }

    /// How many were run.
    fn rounds(&self) -> usize {
        let count = self.subjects.len();
        let limit = Duration::from_secs(60 * self.options.minutes);
        let rounds = self.options.rounds;
        let mut last = Duration::ZERO;
        for round in 0..rounds {
            let begun = self.begun.elapsed();
            if begun + last > limit {
                self.cut(format!("{round} of {rounds} rounds"));
                return round;
            }
            // What is ahead of its share of the time may try again what seems to have been spoilt.
            let due = limit.mul_f64((round + 1) as f64 / rounds as f64);
            for (place, index) in (0..count).map(|it| (it + round) % count).enumerate() {
                let (name, guess, is_out) = self.with(|it| {
                    let broker = &it.brokers[index];
                    let knee = broker.rounds.iter().rev().find_map(|it| it.knee.as_ref());
                    (broker.name.clone(), knee.map(|it| it.rate), broker.trouble.is_some())
                });
                if is_out {
                    continue;
                }
                if self.begun.elapsed() > limit {
                    self.cut(format!("round {} without {name} and what would have followed", round + 1));
                    return rounds;
                }
                let title = format!("round {} of {rounds}: {name}", round + 1);
                let retry_until = begun + (due - begun.min(due)).mul_f64((place + 1) as f64 / count as f64);
                self.one_round(index, &title, guess, retry_until);
            }
            last = self.begun.elapsed() - begun;
        }
        rounds
    }

    /// Keeps, for the report, what there was no time for.
    fn cut(&self, what: String) {
        tell(format_args!("for want of time: {what}"));
        self.with(|it| it.cut.push(what));
    }

    /// One round of one subject. What was measured before something went wrong is kept.
    fn one_round(&self, index: usize, title: &str, guess: Option<u64>, retry_until: Duration) {
        tell(title);
        self.with(|it| it.brokers[index].rounds.push(Round::default()));
        let mut round = Round::default();
        // Whoever ends this early has what there is.
        let keep = |round: &Round| {
            self.with(|it| *it.brokers[index].rounds.last_mut().expect("it was pushed") = round.clone())
        };
        let outcome = match &self.subjects[index] {
            Subject::Broker(broker) => {
                let guess = guess.unwrap_or(broker.begin);
                self.broker_round(broker, (guess, retry_until), &mut round, &keep)
            }
            Subject::Floor => {
                self.loads(None, (guess.unwrap_or(FLOOR_BEGIN), retry_until), &mut round, &keep)
            }
        };
        keep(&round);
        self.with(|it| {
            let broker = &mut it.brokers[index];
            if let Err(reason) = outcome {
                tell(format_args!("{title}: failed: {reason}"));
                broker.trouble = Some(Trouble::Failed(reason));
            }
            if round.is_empty() {
                broker.rounds.pop();
            }
        });
    }

    fn broker_round(
        &self,
        broker: &config::Broker,
        search: (u64, Duration),
        round: &mut Round,
        keep: &dyn Fn(&Round),
    ) -> Result<(), String> {
        let log = self.logs.join(format!("{}.log", broker.name.replace('/', "-")));
        let mut running = Running::start(broker, &self.directory, self.options.server_core, log)?;
        match self.idle(broker, &running) {
            Ok(idle) => {
                tell(format_args!(
                    "  idle: {:.0} B each, {:.1} µs per upgrade",
                    idle.bytes_per_connection, idle.upgrade_us
                ));
                round.idle = Some(idle);
            }
            Err(reason) => round.notes.push(format!("idle: {reason}")),
        }
        keep(round);
        self.loads(Some((broker, &mut running)), search, round, keep)
    }

    /// The memory and the upgrades of many connections.
    fn idle(&self, broker: &config::Broker, running: &Running) -> Result<Idle, String> {
        let target = Target::parse(&broker.url)?;
        let open = |count| connect::connect(&target, broker.protocol, Role::Subscriber("idle/1"), 0, count);
        drop(open(WARM_CONNECTIONS)?);
        settle(running.pid());
        let look = || {
            let pid = running.pid();
            cost::resident_bytes(pid).zip(cost::cpu_ns(pid)).ok_or(format!("process {pid} is not readable"))
        };
        let (before, begun) = (look()?, Instant::now());
        let connections = open(self.options.connections as usize)?;
        let elapsed_s = begun.elapsed().as_secs_f64();
        settle(running.pid());
        let after = look()?;
        let count = connections.len() as f64;
        Ok(Idle {
            bytes_per_connection: (after.0 as f64 - before.0 as f64) / count,
            upgrade_us: after.1.saturating_sub(before.1) as f64 / 1e3 / count,
            upgrades_per_s: count / elapsed_s,
        })
    }

    /// The steady rates and the search for the highest that holds, from a guess on; until when rates may
    /// be tried again.
    fn loads(
        &self,
        mut subject: Option<(&config::Broker, &mut Running)>,
        (guess, retry_until): (u64, Duration),
        round: &mut Round,
        keep: &dyn Fn(&Round),
    ) -> Result<(), String> {
        let mut step = |load: Load, seconds: u64, round: &mut Round| -> Result<Option<Step>, String> {
            let report = match &mut subject {
                None => self.floor_report(load, seconds),
                Some((broker, running)) => {
                    settle(running.pid());
                    let report = self.broker_report(broker, running.pid(), load, seconds);
                    if let Some(end) = running.end() {
                        return Err(end);
                    }
                    report
                }
            };
            let step = match report {
                Ok(report) => Step::of(load.rate(), &report),
                Err(reason) => {
                    round.notes.push(format!("{} pub/s: {reason}", load.rate()));
                    return Ok(None);
                }
            };
            tell(format_args!("  {step}"));
            Ok(Some(step))
        };
        let seconds = self.options.seconds;
        let mut patiently = |load: Load, seconds: u64, round: &mut Round| -> Result<Option<Step>, String> {
            let mut best = step(load, seconds, round)?;
            for _ in 0..RETRIES {
                if best.as_ref().is_some_and(|it| !it.is_worth_another_try()) {
                    break;
                }
                if self.begun.elapsed() > retry_until {
                    round.retries_cut += 1;
                    break;
                }
                if let Some(again) = step(load, seconds, round)?
                    && best.as_ref().is_none_or(|it| again.is_better_than(it))
                {
                    best = Some(again);
                }
            }
            Ok(best)
        };
        let calm = patiently(Load::FanOut(CALM_RATE), seconds + 1, round)?;
        round.calm = calm.filter(|it| it.is_clean);
        keep(round);
        for (small, place) in [
            (PAIRS, (|round| &mut round.pairs) as fn(&mut Round) -> &mut Option<Step>),
            (ROOMS, |round| &mut round.rooms),
            (FAN_IN, |round| &mut round.fan_in),
        ] {
            let tried = patiently(Load::Small(small), seconds + 1, round)?;
            *place(round) = tried.filter(|it| it.is_clean);
            keep(round);
        }
        let paced = patiently(Load::FanOut(PACED_RATE), seconds + 1, round)?;
        // A guess is mostly a good one: the first step is a short one.
        let mut search = Search::new(LADDER, LADDER.nearest(guess), 1, RUNGS);
        if paced.as_ref().is_some_and(|it| !it.is_clean) {
            round.notes.push(format!("{PACED_RATE} pub/s is more than it holds without loss"));
        }
        round.paced = paced.filter(|it| it.is_clean);
        keep(round);
        let mut client_was_busy = false;
        while let Some(rate) = search.next() {
            let tried = patiently(Load::FanOut(rate), seconds, round)?;
            let has_held = tried.as_ref().is_some_and(Step::has_held);
            search.tell(has_held);
            keep(round);
            match tried {
                Some(tried) if has_held => round.knee = Some(tried),
                tried => client_was_busy = tried.is_some_and(|it| it.client_cpu_share > CLIENT_CPU_SHARE_MAX),
            }
        }
        if round.knee.is_none() {
            round.notes.push(format!("in a round, no rate held p99 below {P99_MAX_MS} ms"));
        }
        round.knee_is_least = client_was_busy || search.has_reached_the_top();
        Ok(())
    }

    fn run_options(&self, seconds: u64) -> cli::Run {
        cli::Run {
            duration: seconds,
            warmup: 1,
            drain: 2,
            cores: vec![self.options.client_core],
            threads: 0,
            outputs: Outputs::default(),
        }
    }

    fn broker_report(
        &self,
        broker: &config::Broker,
        pid: u32,
        load: Load,
        seconds: u64,
    ) -> Result<Report, String> {
        let address = cli::Broker {
            url: broker.url.clone(),
            token: None,
            token_file: None,
            protocol: broker.protocol,
            pid: Some(pid),
            metrics: None,
        };
        let run = self.run_options(seconds);
        let sample = if broker.protocol.is_stream() { SAMPLE_OF_STREAMS } else { SAMPLE };
        let plan = match load {
            Load::FanOut(rate) => topics::fanout(
                &cli::Fanout {
                    subscribers: self.options.subscribers as usize,
                    publishers: 1,
                    rate,
                    topic: TOPIC.to_owned(),
                    load: cli::Load { size: self.options.size, sample, ..cli::Load::default() },
                    broker: address.clone(),
                    run: run.clone(),
                },
                rate,
            ),
            Load::Small(Small { rooms, members, publishers, rate }) => {
                let mut plan = Plan::new(format!("rooms: {rooms} of {members}, {rate} pub/s"));
                let group =
                    topics::add_rooms(&mut plan, (rooms, members, publishers), rate, self.options.size);
                plan.sample(group, sample);
                plan
            }
        };
        let setting = Setting { broker: &address, run: &run, pace: Pace::Open, parameters: Vec::new() };
        scenario::measure_watched(&setting, &plan, &mut Unwatched)
    }

    fn floor_report(&self, load: Load, seconds: u64) -> Result<Report, String> {
        let cli::Compare { subscribers, size, server_core, .. } = *self.options;
        let shape = match load {
            Load::FanOut(_) => cli::FloorShape::fan_out(subscribers as usize, size + FLOOR_OVERHEAD_BYTES),
            Load::Small(Small { rooms, members, publishers, .. }) => {
                cli::FloorShape::rooms(rooms, members, publishers, size)
            }
        };
        let floor = cli::Floor {
            run: self.run_options(seconds),
            shape,
            rate: load.rate(),
            server_core: Some(server_core),
            sample: SAMPLE,
        };
        floor::measure(&floor, Vec::new(), &mut Unwatched)
    }
}

impl Step {
    fn of(rate: u64, report: &Report) -> Step {
        let latency = &report.topics[0].latency_ms;
        Step {
            rate,
            deliveries_per_s: report.deliveries_per_s,
            ns_per_delivery: report.broker_ns_per_delivery.unwrap_or(f64::NAN),
            broker_cpu_share: report.broker_cpu_share.unwrap_or(f64::NAN),
            p50_ms: latency.p50,
            p99_ms: latency.p99,
            p999_ms: latency.p999,
            client_cpu_share: report.client_cpu_share,
            is_clean: report.is_clean(),
        }
    }

    fn has_held(&self) -> bool {
        self.is_clean && self.p99_ms < P99_MAX_MS
    }

    /// Whether it may have been something else on the machine that spoilt it.
    fn is_worth_another_try(&self) -> bool {
        let was_idle = self.broker_cpu_share.max(self.client_cpu_share) < BUSY_CPU_SHARE;
        let is_close = self.is_clean && self.p99_ms < P99_CLOSE_MS;
        !self.has_held() && (was_idle || is_close)
    }

    fn is_better_than(&self, other: &Step) -> bool {
        (self.is_clean, -self.p99_ms) > (other.is_clean, -other.p99_ms)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pub/s: {:.2} M deliveries/s, {:.0} ns each, p50 {:.1} p99 {:.1} p99.9 {:.1} ms, broker {:.0} % client {:.0} %{}",
            self.rate,
            self.deliveries_per_s / 1e6,
            self.ns_per_delivery,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.broker_cpu_share * 100.0,
            self.client_cpu_share * 100.0,
            if self.is_clean { "" } else { ", not everything arrived" }
        )
    }
}

/// Waits until process `pid` does next to nothing, so that nobody pays for what came before.
fn settle(pid: u32) {
    const LOOK: Duration = Duration::from_millis(100);
    let until = Instant::now() + Duration::from_secs(3);
    let mut before = cost::cpu_ns(pid);
    while Instant::now() < until {
        thread::sleep(LOOK);
        let now = cost::cpu_ns(pid);
        let used = now.zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        if used < LOOK.as_nanos() as u64 / 50 {
            return;
        }
        before = now;
    }
}
