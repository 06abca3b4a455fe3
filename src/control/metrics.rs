//! What `/metrics` says: OpenMetrics text from the reactors' counters, taken at the moment of the scrape, or the same
//! in the classic format of Prometheus for those that ask for it.

mod families;

use std::{fmt, fs, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
        text,
    },
    metrics::{MetricType, info::Info},
    registry::{Registry, Unit},
};
use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

use families::{FAMILIES, Value};

use super::{
    fleet::{Answer, Phase},
    guard::{self, RefusedCounts},
    keys::{FetchResult, KeyStatus},
};
use crate::{
    access::{Refused, grants::Action},
    metrics::{GapReason, ReactorStats, TurnTimes},
    protocol::close::CloseReason,
    pubsub::policy::Bound,
    reactor::audit::EventKind,
};

/// How [`exposition`] writes its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's own from before, version 0.0.4.
    Classic,
}

impl Format {
    /// What a scraper whose `Accept` headers these are likes best: the classic one if it names that and likes it
    /// better than OpenMetrics, and else OpenMetrics.
    pub fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
        let (mut open, mut classic) = (0.0, 0.0);
        for range in accept.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let quality: f64 = parameter("q").and_then(|quality| quality.parse().ok()).unwrap_or(1.0);
            match (name.as_str(), parameter("version")) {
                ("application/openmetrics-text", _) => open = quality.max(open),
                ("text/plain", Some("0.0.4") | None) => classic = quality.max(classic),
                _ => {}
            }
        }
        if classic > open { Format::Classic } else { Format::OpenMetrics }
    }

    /// The type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Everything as text. A reactor that did not answer has `fanfare_reactor_up` 0 and no
/// other sample: a stale number would look like a healthy one.
pub fn exposition(answers: &[Answer], process: Process, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register(
        "fanfare_build",
        "The version that runs",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_collector(Box::new(process));
    registry.register_collector(Box::new(Fleet { answers: answers.to_vec() }));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a String cannot fail");
    match format {
        Format::OpenMetrics => text,
        Format::Classic => classic(&text),
    }
}

/// OpenMetrics text as the classic format has it: a family has the name of its samples, there are no units, infos or
/// end, and the help of a line may hold quotes as they are.
fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    // A family's help comes before its type, which its name depends on.
    let mut family_help = "";
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", _, help] => family_help = help,
            ["#", "TYPE", name, kind] => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                let help = family_help.replace("\\\"", "\"");
                classic += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
            }
            ["#", ..] => {}
            _ => {
                classic += line;
                classic.push('\n');
            }
        }
    }
    classic
}

/// What the process as a whole says.
#[derive(Clone, Debug)]
pub struct Process {
    /// Where in its life it is.
    pub phase: Phase,
    /// Since its start.
    pub uptime: Duration,
    /// Reloads applied and refused.
    pub reloads: (u64, u64),
    /// Lines of the log that stderr did not take.
    pub log_lines_dropped: u64,
    /// Others than this machine may reach it, whoever they are.
    pub is_insecure: bool,
    /// Revocations in force.
    pub revocations: u64,
    /// Addresses that are banned.
    pub bans: u64,
    /// Requests to the admin listener that were refused, by reason.
    pub admin_refused: RefusedCounts,
    /// What clients did that has no line of its own in the log, by kind.
    pub audit_dropped: [u64; EventKind::ALL.len()],
    /// Keys of issuers that are fetched.
    pub keys: KeyStatus,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let ready = u64::from(self.phase == Phase::Ready);
        gauge(&mut encoder, "fanfare_ready", "1 while clients are accepted.", None, &ready)?;
        let help = "1 if others than this machine may reach the broker without a word who they are (listen.insecure).";
        gauge(&mut encoder, "fanfare_insecure", help, None, &u64::from(self.is_insecure))?;
        let help = "Users and tokens that are kept out, although what they bring is good.";
        gauge(&mut encoder, "fanfare_revocations", help, None, &self.revocations)?;
        let help = "Addresses that are banned, for what access.ban_failures counts.";
        gauge(&mut encoder, "fanfare_bans", help, None, &self.bans)?;
        let help = "Requests to the admin listener that were refused, by reason.";
        let mut metric =
            encoder.encode_descriptor("fanfare_admin_refused", help, None, MetricType::Counter)?;
        for (reason, count) in guard::Refused::ALL.into_iter().zip(self.admin_refused) {
            counter(&mut metric, &[("reason", reason.as_str())], &count)?;
        }
        let help =
            "What clients did that is summed in the log, for there was too much of it, by what it was.";
        let name = "fanfare_audit_dropped";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, count) in EventKind::ALL.into_iter().zip(self.audit_dropped) {
            counter(&mut metric, &[("event", kind.name())], &count)?;
        }
        let help =
            "How long ago the keys of an issuer were fetched that are used; nothing of one that has none.";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("fanfare_keys_age", help, unit, MetricType::Gauge)?;
        for (issuer, age) in &self.keys.ages {
            metric.encode_family(&[("issuer", escaped(issuer))])?.encode_gauge(&age.as_secs_f64())?;
        }
        let help = "Fetches of issuers' keys, by what became of them.";
        let mut metric = encoder.encode_descriptor("fanfare_key_fetches", help, None, MetricType::Counter)?;
        for (result, count) in FetchResult::ALL.into_iter().zip(self.keys.fetches) {
            counter(&mut metric, &[("result", result.as_str())], &count)?;
        }
        let help = "Time since the broker's start.";
        gauge(&mut encoder, "fanfare_uptime", help, Some(&Unit::Seconds), &self.uptime.as_secs_f64())?;
        let help = "Reloads of the configuration, by result.";
        let mut metric = encoder.encode_descriptor("fanfare_reloads", help, None, MetricType::Counter)?;
        counter(&mut metric, &[("result", "applied")], &self.reloads.0)?;
        counter(&mut metric, &[("result", "refused")], &self.reloads.1)?;
        let help = "Lines of the broker's own log that were dropped, because stderr did not take them.";
        encoder
            .encode_descriptor("fanfare_log_lines_dropped", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.log_lines_dropped, None)?;
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory of the process.";
            gauge(&mut encoder, "process_resident_memory", help, Some(&Unit::Bytes), &bytes)?;
        }
        let help = "CPU time of the process, user and system.";
        let mut metric =
            encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&cpu_seconds(), None)
    }
}

/// What the reactors say.
#[derive(Debug)]
struct Fleet {
    answers: Vec<Answer>,
}

impl Fleet {
    /// The reactors that answered, with their indices as label values.
    fn stats(&self) -> impl Iterator<Item = (String, &ReactorStats)> {
        self.answers.iter().enumerate().filter_map(|(index, answer)| match answer {
            Answer::Stats(stats) => Some((index.to_string(), &**stats)),
            Answer::Ended | Answer::Silent => None,
        })
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 if the reactor answered.";
        let mut metric = encoder.encode_descriptor("fanfare_reactor_up", help, None, MetricType::Gauge)?;
        for (index, answer) in self.answers.iter().enumerate() {
            let is_up = u64::from(matches!(answer, Answer::Stats(_)));
            metric.encode_family(&[("reactor", index.to_string())])?.encode_gauge(&is_up)?;
        }

        for family in &FAMILIES {
            let kind = match (family.read)(&ReactorStats::default()) {
                Value::Counter(_) => MetricType::Counter,
                Value::Gauge(_) | Value::Real(_) => MetricType::Gauge,
            };
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
            for (reactor, stats) in self.stats() {
                let labels = [("reactor", reactor)];
                match (family.read)(stats) {
                    Value::Counter(value) => counter(&mut metric, &labels, &value)?,
                    Value::Gauge(value) => metric.encode_family(&labels)?.encode_gauge(&value)?,
                    Value::Real(value) => metric.encode_family(&labels)?.encode_gauge(&value)?,
                }
            }
        }

        let help = "How long turns took, what they sent included: how long everybody else waits.";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("fanfare_turn", help, unit, MetricType::Histogram)?;
        for (reactor, stats) in self.stats() {
            let labels = [("reactor", reactor)];
            let seconds = |us: &u64| *us as f64 / 1e6;
            let bounds = TurnTimes::BOUNDS_US.iter().map(seconds).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(stats.turn_ns.counts().iter().copied()).collect();
            let (sum, count) = (stats.turn_ns.sum_ns() as f64 / 1e9, stats.turn_ns.counts().iter().sum());
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }

        let help = "Times that a subscriber was beyond a bound, and was moved forward or closed for it.";
        let mut metric =
            encoder.encode_descriptor("fanfare_slow_consumers", help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for bound in Bound::ALL {
                let verdicts = [
                    ("skip", stats.slow_skips_total[bound.index()]),
                    ("disconnect", stats.slow_disconnects_total[bound.index()]),
                ];
                for (verdict, value) in verdicts {
                    let labels =
                        [("reactor", reactor.as_str()), ("bound", bound.as_str()), ("verdict", verdict)];
                    counter(&mut metric, &labels, &value)?;
                }
            }
        }

        let help = "Subscribes that said from where on they missed something, by whether all of that was still there.";
        let mut metric = encoder.encode_descriptor("fanfare_resumes", help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for (result, value) in ["lost", "recovered"].into_iter().zip(stats.resumes_total) {
                counter(&mut metric, &[("reactor", reactor.as_str()), ("result", result)], &value)?;
            }
        }

        let help = "Gaps that subscribers were told, by reason.";
        let mut metric = encoder.encode_descriptor("fanfare_gaps", help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for reason in GapReason::ALL {
                let labels = [("reactor", reactor.as_str()), ("reason", reason.as_str())];
                counter(&mut metric, &labels, &stats.gaps_total[reason.index()])?;
            }
        }

        let help = "Tokens that were not accepted, by reason.";
        let name = "fanfare_credentials_refused";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for reason in Refused::all() {
                let labels = [("reactor", reactor.as_str()), ("reason", reason.as_str())];
                counter(&mut metric, &labels, &stats.credentials_refused_total[reason.index()])?;
            }
        }

        let help = "Commands that were not allowed, by what they asked for.";
        let mut metric = encoder.encode_descriptor("fanfare_forbidden", help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for (action, value) in Action::ALL.into_iter().zip(stats.forbidden_total) {
                let labels = [("reactor", reactor.as_str()), ("action", action.as_str())];
                counter(&mut metric, &labels, &value)?;
            }
        }

        let help = "Connections ended, by reason.";
        let mut metric = encoder.encode_descriptor("fanfare_closes", help, None, MetricType::Counter)?;
        for (reactor, stats) in self.stats() {
            for reason in CloseReason::ALL {
                let labels = [("reactor", reactor.as_str()), ("reason", reason.as_str())];
                counter(&mut metric, &labels, &stats.closes_total[reason.index()])?;
            }
        }
        Ok(())
    }
}

/// A label's value as it stands between quotes, which the encoder leaves to whoever gives it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(value)
}

fn counter(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
}

/// The resident set of this process, from statm: field two, in pages.
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// CPU time of all threads of this process.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::metrics::Counts;

    fn process(phase: Phase) -> Process {
        Process {
            phase,
            uptime: Duration::from_millis(1_500),
            reloads: (3, 4),
            log_lines_dropped: 5,
            is_insecure: true,
            revocations: 6,
            bans: 11,
            admin_refused: [7, 8, 9, 10],
            audit_dropped: [14, 15, 16, 17],
            keys: KeyStatus {
                ages: vec![("https://\"login\"\\".into(), Duration::from_millis(2_500))],
                fetches: [11, 12, 13],
                ..KeyStatus::default()
            },
        }
    }

    /// A different value in every field, so that a field in the wrong family shows.
    fn numbered() -> ReactorStats {
        ReactorStats {
            connections: 1,
            upgrading: 23,
            upgrades_total: 2,
            accepts_total: 3,
            turns_total: 4,
            turn_work_total: 35,
            turn_ns: {
                let mut times = TurnTimes::default();
                [10_000, 1_900_000, 3_000_000_000].into_iter().for_each(|ns| times.observe(ns));
                times
            },
            completions_total: 5,
            sends_total: 6,
            sent_bytes_total: 7,
            received_bytes_total: 8,
            commands_total: 9,
            command_errors_total: 10,
            rate_limited_total: 56,
            publications_total: 11,
            deflated_total: 12,
            deflate_in_bytes_total: 13,
            deflate_out_bytes_total: 14,
            inflated_total: 15,
            inflated_bytes_total: 16,
            deliveries_total: 17,
            skipped_total: 18,
            topics: 19,
            subscriptions: 20,
            behind: 21,
            behind_bytes_max: 22,
            log_bytes: 23,
            keys: 49,
            key_window_ms: 50_500,
            duplicates_total: 51,
            kept_bytes: 39,
            keeping: 40,
            values: 49,
            replays: 41,
            replayed_total: 42,
            replayed_bytes_total: 43,
            transcoded_bytes_total: 44,
            resumes_total: [45, 46],
            gaps_total: [47, 48],
            credentials_refused_total: std::array::from_fn(|index| 200 + index as u64),
            forbidden_total: [51, 52, 53, 54],
            buffered_bytes: 36,
            paused: 24,
            reviews: 55,
            pauses_total: 25,
            no_buffers_total: 26,
            no_descriptors_total: 27,
            pacing_us: 28_000_000,
            slow_skips_total: [29, 30, 31, 37],
            slow_disconnects_total: [32, 33, 34, 38],
            closes_total: Counts(std::array::from_fn(|index| 100 + index as u64)),
        }
    }

    /// The Debug output names every field of the struct, those added later too.
    #[test]
    fn every_field_is_exported() {
        let debug = format!("{:#?}", ReactorStats::default());
        let fields: Vec<&str> = debug
            .lines()
            .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
            .filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name))
            .collect();
        let mut exported: Vec<&str> = FAMILIES.iter().map(|family| family.field).collect();
        exported.extend(["turn_ns", "slow_skips_total", "slow_disconnects_total", "closes_total"]);
        exported.extend(["resumes_total", "gaps_total", "credentials_refused_total", "forbidden_total"]);
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        let fields = fields.iter().map(|field| &*field.to_string().leak()).collect();
        assert_eq!(sorted(fields), sorted(exported));
    }

    #[test]
    fn each_value_has_its_name_and_its_reactor() {
        let answers = [Answer::Stats(Box::default()), Answer::Stats(Box::new(numbered()))];
        let text = exposition(&answers, process(Phase::Ready), Format::OpenMetrics);
        for line in [
            concat!("fanfare_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "fanfare_ready 1",
            "fanfare_uptime_seconds 1.5",
            "fanfare_reloads_total{result=\"applied\"} 3",
            "fanfare_reloads_total{result=\"refused\"} 4",
            "fanfare_log_lines_dropped_total 5",
            "fanfare_bans 11",
            "fanfare_reactor_up{reactor=\"0\"} 1",
            "fanfare_connections{reactor=\"1\"} 1",
            "fanfare_upgrading{reactor=\"1\"} 23",
            "fanfare_upgrades_total{reactor=\"1\"} 2",
            "fanfare_sent_bytes_total{reactor=\"1\"} 7",
            "fanfare_deflated_total{reactor=\"1\"} 12",
            "fanfare_deflate_out_bytes_total{reactor=\"1\"} 14",
            "fanfare_inflated_bytes_total{reactor=\"1\"} 16",
            "fanfare_behind_max_bytes{reactor=\"1\"} 22",
            "fanfare_log_bytes{reactor=\"1\"} 23",
            "fanfare_no_descriptors_total{reactor=\"1\"} 27",
            "fanfare_pacing_seconds{reactor=\"1\"} 28.0",
            "fanfare_slow_consumers_total{reactor=\"1\",bound=\"owed_bytes\",verdict=\"skip\"} 29",
            "fanfare_slow_consumers_total{reactor=\"1\",bound=\"log_bytes\",verdict=\"disconnect\"} 34",
            "fanfare_slow_consumers_total{reactor=\"1\",bound=\"write_stall_ms\",verdict=\"disconnect\"} 38",
            "fanfare_keys{reactor=\"1\"} 49",
            "fanfare_keys_window_seconds{reactor=\"1\"} 50.5",
            "fanfare_duplicates_total{reactor=\"1\"} 51",
            "fanfare_kept_bytes{reactor=\"1\"} 39",
            "fanfare_keeping{reactor=\"1\"} 40",
            "fanfare_values{reactor=\"1\"} 49",
            "fanfare_replays{reactor=\"1\"} 41",
            "fanfare_replayed_total{reactor=\"1\"} 42",
            "fanfare_replayed_bytes_total{reactor=\"1\"} 43",
            "fanfare_transcoded_bytes_total{reactor=\"1\"} 44",
            "fanfare_resumes_total{reactor=\"1\",result=\"lost\"} 45",
            "fanfare_resumes_total{reactor=\"1\",result=\"recovered\"} 46",
            "fanfare_gaps_total{reactor=\"1\",reason=\"slow_consumer\"} 47",
            "fanfare_gaps_total{reactor=\"1\",reason=\"retention\"} 48",
            "fanfare_turn_work_total{reactor=\"1\"} 35",
            "fanfare_turn_seconds_sum{reactor=\"1\"} 3.00191",
            "fanfare_turn_seconds_count{reactor=\"1\"} 3",
            "fanfare_turn_seconds_bucket{le=\"0.002\",reactor=\"1\"} 2",
            "fanfare_turn_seconds_bucket{le=\"+Inf\",reactor=\"1\"} 3",
            "fanfare_closes_total{reactor=\"1\",reason=\"peer_closed\"} 100",
            "fanfare_credentials_refused_total{reactor=\"1\",reason=\"unknown_token\"} 200",
            "fanfare_reviews{reactor=\"1\"} 55",
            "fanfare_forbidden_total{reactor=\"1\",action=\"publish\"} 51",
            "fanfare_forbidden_total{reactor=\"1\",action=\"history\"} 53",
            "fanfare_closes_total{reactor=\"1\",reason=\"idle_timeout\"} 125",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }

    /// The rules of OpenMetrics that a scraper refuses a whole answer for: every sample belongs to the
    /// family whose HELP and TYPE stand before it, families and samples come once, and EOF is last.
    #[test]
    fn the_text_is_well_formed() {
        let answers = [Answer::Stats(Box::new(numbered())), Answer::Silent, Answer::Stats(Box::default())];
        let text = exposition(&answers, process(Phase::Draining), Format::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));

        let mut families = HashSet::new();
        let mut samples = HashSet::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines().filter(|line| *line != "# EOF") {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(families.insert(name), "{name} comes twice");
                    assert!(help.ends_with('.'), "{name}: the help is a sentence");
                    family = name;
                }
                ["#", "TYPE", name, new_kind] => {
                    assert_eq!(name, family);
                    kind = new_kind;
                }
                ["#", "UNIT", name, unit] => {
                    assert_eq!(name, family);
                    assert!(name.ends_with(&format!("_{unit}")));
                }
                _ => {
                    let (sample, value) = line.rsplit_once(' ').unwrap();
                    let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                    let suffix = match kind {
                        "histogram" => &name[family.len()..],
                        "counter" => "_total",
                        "info" => "_info",
                        _ => "",
                    };
                    assert_eq!(name, format!("{family}{suffix}"));
                    assert!(labels.ends_with('}'));
                    assert!(value.parse::<f64>().unwrap().is_finite());
                    assert!(samples.insert(sample), "{sample} comes twice");
                }
            }
        }
        assert!(!samples.iter().any(|sample| sample.contains("reactor=\"1\"") && !sample.contains("_up")));
    }

    /// The rules of the classic format: every sample follows a TYPE of its own name, that of a histogram with its
    /// three suffixes; there is no comment but HELP and TYPE.
    #[test]
    fn the_classic_text_is_well_formed() {
        let answers = [Answer::Stats(Box::new(numbered())), Answer::Silent];
        let text = exposition(&answers, process(Phase::Ready), Format::Classic);
        let mut families = HashSet::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
                ["#", "HELP", name, _] => {
                    assert!(families.insert(name), "{name} comes twice");
                    family = name;
                }
                ["#", "TYPE", name, new_kind] => {
                    assert_eq!(name, family);
                    assert!(["counter", "gauge", "histogram"].contains(&new_kind), "{line}");
                    assert_eq!(new_kind == "counter", name.ends_with("_total"), "{line}");
                    kind = new_kind;
                }
                ["#", ..] => panic!("{line}"),
                _ => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    match kind {
                        "histogram" => assert!(
                            ["_bucket", "_sum", "_count"].contains(&name.strip_prefix(family).unwrap()),
                            "{line}"
                        ),
                        _ => assert_eq!(name, family),
                    }
                }
            }
        }
        for line in [
            "# TYPE fanfare_build_info gauge",
            "# HELP fanfare_sent_bytes_total Bytes whose send has completed.",
            "# TYPE fanfare_sent_bytes_total counter",
            "fanfare_sent_bytes_total{reactor=\"0\"} 7",
            "# TYPE fanfare_turn_seconds histogram",
            "process_cpu_seconds_total",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn the_format_is_the_one_that_is_liked_best() {
        use Format::{Classic, OpenMetrics};
        for (accept, format) in [
            ("", OpenMetrics),
            ("*/*", OpenMetrics),
            ("text/html,application/xhtml+xml,*/*;q=0.8", OpenMetrics),
            ("text/plain; version=0.0.4", Classic),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Classic),
            ("Text/Plain", Classic),
            ("text/plain;version=1.0.0", OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.5, text/plain;version=0.0.4;q=0.6", Classic),
            ("application/openmetrics-text; version=\"1.0.0\", text/plain; version=\"0.0.4\"", OpenMetrics),
        ] {
            assert_eq!(Format::accepted([accept].into_iter()), format, "{accept}");
        }
        assert_eq!(
            Format::accepted(["text/plain;q=0.2", "application/openmetrics-text"].into_iter()),
            OpenMetrics
        );
    }
}
