//! What one sees while a run lasts: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use super::tell;
use crate::client::{Row, Watcher};

/// Elsewhere than on a terminal, a line every so many seconds.
const LINE_EVERY_S: i64 = 5;

/// The view of one run, on standard error: standard output is the result's.
pub struct Live {
    bar: Option<ProgressBar>,
    groups: Vec<String>,
    warmup_s: u64,
    duration_s: u64,
}

impl Live {
    /// Of a run of so many seconds with these groups.
    pub fn new(title: &str, groups: &[String], warmup_s: u64, duration_s: u64) -> Live {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix}\n{bar:40.cyan/blue} {pos:>4}/{len} s  {msg}")
                .expect("the template is right")
                .progress_chars("━╸─");
            let bar = ProgressBar::new(warmup_s + duration_s).with_style(style);
            bar.set_prefix(title.to_owned());
            bar.set_message("starting");
            bar.tick();
            bar
        });
        if bar.is_none() {
            tell(title);
        }
        Live { bar, groups: groups.to_vec(), warmup_s, duration_s }
    }

    fn describe(&self, row: &Row) -> String {
        let latency = row.groups.iter().zip(&self.groups).filter_map(|(row, name)| {
            let (p50, p99) = (row.p50_ms?, row.p99_ms?);
            let name = if self.groups.len() > 1 { format!("{name} ") } else { String::new() };
            Some(format!("{name}p50 {p50:.2} p99 {p99:.2} ms"))
        });
        let mut text = format!("{}/s", thousands(row.deliveries));
        for it in latency {
            text += "  ";
            text += &it;
        }
        if let Some(ns) = row.broker_ns_per_delivery {
            text += &format!("  broker {ns:.0} ns each");
        }
        text += &format!("  client {:.0} %", row.client_cpu_share * 100.0);
        if row.broken_connections > 0 {
            text += &format!("  {} connections ended", row.broken_connections);
        }
        text
    }
}

impl Watcher for Live {
    fn on_row(&mut self, row: &Row) {
        let text = self.describe(row);
        let phase = match row.second {
            second if second < 0 => "warm-up ",
            second if second >= self.duration_s as i64 => "draining ",
            _ => "",
        };
        match &self.bar {
            Some(bar) => {
                let position = row.second + 1 + self.warmup_s as i64;
                bar.set_position((position.max(0) as u64).min(self.warmup_s + self.duration_s));
                bar.set_message(format!("{phase}{text}"));
            }
            None if (row.second + 1) % LINE_EVERY_S == 0 && row.second >= 0 => {
                tell(format_args!("{:>6} s  {phase}{text}", row.second + 1));
            }
            None => {}
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number that one can read: 14 028 311.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::monitor::GroupRow;

    #[test]
    fn a_second_is_a_line() {
        let live = Live { bar: None, groups: vec!["a".into(), "b".into()], warmup_s: 1, duration_s: 2 };
        let group = |p50_ms| GroupRow {
            deliveries: 1.0,
            p50_ms,
            p99_ms: Some(2.0),
            p999_ms: Some(3.0),
            max_ms: Some(4.0),
        };
        let row = Row {
            second: 1,
            deliveries: 1234567.0,
            groups: vec![group(Some(0.5)), group(None)],
            broken_connections: 2,
            broker_cpu_share: Some(0.5),
            broker_ns_per_delivery: Some(70.2),
            broker_resident_bytes: Some(1),
            client_cpu_share: 0.25,
        };
        assert_eq!(
            live.describe(&row),
            "1\u{202f}234\u{202f}567/s  a p50 0.50 p99 2.00 ms  broker 70 ns each  client 25 %  2 \
             connections ended"
        );
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.6), "1\u{202f}000");
    }
}
