//! The tables of a report.

use super::{
    Broke, Report,
    section::{Cell, Section},
};
use crate::output::thousands;

impl Report {
    /// What came of each topic, or group of topics.
    pub(super) fn topics_section(&self) -> Section {
        let mut section = Section::new(
            "Topics",
            &[
                "topic",
                "subscribers",
                "by content",
                "publications",
                "deliveries/s",
                "bytes",
                "p50 ms",
                "p90",
                "p99",
                "p99.9",
                "max",
                "lost",
                "dup.",
                "reord.",
                "corrupt",
                "gaps",
            ],
        );
        for it in &self.topics {
            let name = match it.topics {
                1 => it.name.clone(),
                count => format!("{} ({count} topics)", it.name),
            };
            let mut row: Vec<Cell> = vec![
                name.into(),
                thousands(it.subscribers as f64).into(),
                thousands(it.sampled as f64).into(),
                thousands(it.published as f64).into(),
                thousands(it.deliveries_per_s).into(),
                format!("{:.0}", it.delivery_bytes).into(),
            ];
            let latency = &it.latency_ms;
            let latencies = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
            row.extend(latencies.map(|ms| Cell::from(format!("{ms:.3}"))));
            let faults = &it.faults;
            let counts = [faults.lost, faults.duplicated, faults.reordered, faults.corrupted, it.gaps];
            row.extend(counts.map(|count| Cell::new(thousands(count as f64), count > 0)));
            section.row(row);
        }
        if self.topics.iter().any(|it| it.is_conflated) {
            section.remark(
                "Conflated: whoever is behind may lose what is not the newest. Subscribers that were not \
                 verified by content were not checked.",
            );
        } else if self.topics.iter().any(|it| !it.sinks_are_exact) {
            section.remark(
                "Frames hold packets as it pleases this broker: subscribers that were not verified by \
                 content are counted by bytes to within a frame header per delivery.",
            );
        }
        section.remark(
            "Latency counts from the instant at which a publication was due by an open-loop timetable, \
             not from its write: what a broker or a publisher falls behind is part of it.",
        );
        section
    }

    /// The first `count_max` subscribers that did not get everything right, if there are any.
    pub(super) fn losses_section(&self, count_max: usize) -> Option<Section> {
        if self.losses.is_empty() {
            return None;
        }
        let mut section = Section::new(
            "What went wrong, by subscriber",
            &["topic", "subscriber", "seen by", "lost", "dup.", "reord.", "corrupt", "gaps", "first missing"],
        );
        for loss in self.losses.iter().take(count_max) {
            let faults = &loss.faults;
            let counts = [faults.lost, faults.duplicated, faults.reordered, faults.corrupted, loss.gaps];
            let mut row: Vec<Cell> = vec![loss.topic.clone().into(), loss.subscriber.to_string().into()];
            row.push(if loss.is_sampled { "content" } else { "bytes" }.into());
            row.extend(counts.map(|count| Cell::from(count.to_string())));
            row.push(loss.first_missing.map_or("–".to_owned(), |it| it.to_string()).into());
            section.row(row);
        }
        let more = self.losses.len().saturating_sub(count_max) as u64 + self.losses_omitted;
        if more > 0 {
            section.remark(format!("… and {more} more."));
        }
        Some(section)
    }

    /// The rates that `--find-max` tried, the lowest first, if it was asked for.
    pub(super) fn tries_section(&self) -> Option<Section> {
        if self.tries.is_empty() {
            return None;
        }
        let mut section = Section::new(
            "Rates that were tried",
            &["pub/s", "deliveries/s", "p99 ms", "lost", "broker CPU", "client CPU", "came of it"],
        );
        let mut tries: Vec<_> = self.tries.iter().collect();
        tries.sort_by_key(|it| it.rate);
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        for it in tries {
            section.row(vec![
                thousands(it.rate as f64).into(),
                thousands(it.deliveries_per_s).into(),
                format!("{:.2}", it.p99_ms).into(),
                it.lost.to_string().into(),
                it.broker_cpu_share.map_or("–".to_owned(), percent).into(),
                percent(it.client_cpu_share).into(),
                Cell::new(it.broke.map_or("held", Broke::as_str), it.broke.is_some()),
            ]);
        }
        Some(section)
    }
}
