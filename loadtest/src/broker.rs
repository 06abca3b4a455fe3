//! What the broker takes, by its process and by its own metrics.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use fanfare::cli::url::Server;

use crate::{
    connect::resolve,
    process::{self, ThreadTime},
};

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct BrokerProbe {
    /// Its process.
    pub pid: Option<u32>,
    /// Its metrics, `http://host:port/path`.
    pub metrics: Option<String>,
}

/// Its figures at one instant, all counted from its start.
#[derive(Clone, Debug, Default)]
pub struct BrokerSample {
    /// CPU time, user and system.
    pub cpu_ns: u64,
    /// Its threads, by id.
    pub threads: BTreeMap<u32, ThreadTime>,
    /// The same in the kernel's coarse ticks, user and system apart.
    pub ticks: (u64, u64),
    /// Resident memory.
    pub resident_bytes: u64,
    /// Context switches: voluntary, involuntary.
    pub switches: (u64, u64),
    /// Turns of fanfare's reactors, each one system call.
    pub turns: Option<u64>,
}

impl BrokerProbe {
    /// Looks now; `None`: no process is known, or it is gone.
    pub fn sample(&self, with_metrics: bool) -> Option<BrokerSample> {
        let pid = self.pid?;
        let threads = process::thread_times(pid)?;
        Some(BrokerSample {
            cpu_ns: threads.values().map(|it| it.cpu_ns).sum(),
            threads,
            ticks: process::cpu_ticks(pid)?,
            resident_bytes: process::resident_now_bytes(pid)?,
            switches: process::context_switches(pid)?,
            turns: self.metrics.as_deref().filter(|_| with_metrics).and_then(|url| turns(url).ok()),
        })
    }

    /// Whether what was asked for can be read at all: told before a run rather than after.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn check(&self) -> Result<(), String> {
        if let Some(pid) = self.pid
            && self.sample(false).is_none()
        {
            return Err(format!("--pid {pid}: no such process, or it cannot be read"));
        }
        if let Some(url) = &self.metrics {
            turns(url).map_err(|error| format!("--metrics {url}: {error}"))?;
        }
        Ok(())
    }
}

/// How many turns of fanfare's reactors took longer than a time, since its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongTurns {
    /// The bound of the metric's bucket: the least that is no less than what was asked for.
    pub over_s: f64,
    /// How many.
    pub count: u64,
}

/// Of the metrics at `url`, for each of `limits_s`; `None` if they have no such histogram, or do not answer.
pub fn long_turns<const N: usize>(url: &str, limits_s: [f64; N]) -> Option<[LongTurns; N]> {
    let exposition = fetch(url).ok()?;
    let counted = limits_s.map(|limit_s| count_long_turns(&exposition, limit_s));
    counted.iter().all(Option::is_some).then(|| counted.map(|it| it.expect("all of them are")))
}

/// All reactors' together.
fn count_long_turns(exposition: &str, limit_s: f64) -> Option<LongTurns> {
    let buckets = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix("fanfare_turn_seconds_bucket{")?;
        let bound = rest.split_once("le=\"")?.1.split_once('"')?.0;
        // Counts may be written as decimals.
        Some((bound.parse::<f64>().ok()?, rest.rsplit(' ').next()?.parse::<f64>().ok()?))
    });
    let sum_of = |bound: f64| buckets.clone().filter(|it| it.0 == bound).map(|it| it.1).sum::<f64>();
    let bounds = buckets.clone().map(|it| it.0).filter(|it| *it >= limit_s && it.is_finite());
    let over_s = bounds.min_by(f64::total_cmp)?;
    Some(LongTurns { over_s, count: (sum_of(f64::INFINITY) - sum_of(over_s)) as u64 })
}

fn turns(url: &str) -> Result<u64, String> {
    sum_turns(&fetch(url)?).ok_or_else(|| "it has no fanfare_turns_total".to_owned())
}

fn fetch(url: &str) -> Result<String, String> {
    let server = Server::parse(url, "http")?;
    let patience = Duration::from_secs(2);
    let fetch = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&resolve(&server)?, patience)?;
        socket.set_read_timeout(Some(patience))?;
        let path = if server.target == "/" { "/metrics" } else { &server.target };
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    fetch().map_err(|error| error.to_string())
}

fn sum_turns(exposition: &str) -> Option<u64> {
    let samples = exposition.lines().filter(|it| it.starts_with("fanfare_turns_total"));
    samples.map(|it| it.rsplit(' ').next()?.parse::<u64>().ok()).reduce(|sum, it| Some(sum? + it?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_summed_over_reactors() {
        let text = "# TYPE fanfare_turns counter\nfanfare_turns_total{reactor=\"0\"} 40\n\
                    fanfare_turns_total{reactor=\"1\"} 2\nfanfare_other 9\n";
        assert_eq!(sum_turns(text), Some(42));
        assert_eq!(sum_turns("fanfare_other 9\n"), None);
    }

    #[test]
    fn long_turns_are_those_above_the_next_bound_of_all_reactors() {
        let text = "# TYPE fanfare_turn_seconds histogram\n\
                    fanfare_turn_seconds_bucket{reactor=\"0\",le=\"0.001\"} 5\n\
                    fanfare_turn_seconds_bucket{reactor=\"0\",le=\"0.0025\"} 7\n\
                    fanfare_turn_seconds_bucket{reactor=\"0\",le=\"+Inf\"} 9\n\
                    fanfare_turn_seconds_bucket{reactor=\"1\",le=\"0.001\"} 1\n\
                    fanfare_turn_seconds_bucket{reactor=\"1\",le=\"0.0025\"} 1\n\
                    fanfare_turn_seconds_bucket{reactor=\"1\",le=\"+Inf\"} 4\n\
                    fanfare_turn_seconds_sum{reactor=\"1\"} 0.5\n";
        assert_eq!(count_long_turns(text, 0.002), Some(LongTurns { over_s: 0.0025, count: 5 }));
        assert_eq!(count_long_turns(text, 0.001), Some(LongTurns { over_s: 0.001, count: 7 }));
        assert_eq!(count_long_turns(text, 0.02), None);
        assert_eq!(count_long_turns("fanfare_other 9\n", 0.002), None);
    }

    #[test]
    fn what_cannot_be_read_is_told_at_once() {
        let probe = |pid: Option<u32>, metrics: Option<&str>| BrokerProbe {
            pid,
            metrics: metrics.map(str::to_owned),
        };
        assert_eq!(probe(Some(std::process::id()), None).check(), Ok(()));
        assert!(probe(Some(u32::MAX), None).check().unwrap_err().starts_with("--pid 4294967295: "));
        let error = probe(None, Some("http://127.0.0.1:1/metrics")).check().unwrap_err();
        assert!(error.starts_with("--metrics http://127.0.0.1:1/metrics: "), "{error}");
    }
}
