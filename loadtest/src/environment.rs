//! On what a figure was measured: without it nobody can repeat it.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// The machine, the program and the moment.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// This program's version.
    pub version: String,
    /// As it was called.
    pub command: String,
    /// When the result was made, UTC.
    pub date: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// How many cores the machine has.
    pub cores: usize,
    /// The broker's command line, if its process is known.
    pub broker_command: Option<String>,
}

impl Environment {
    /// Now and here.
    pub fn read(broker: Option<u32>) -> Environment {
        let one_line = |path: &str| fs::read_to_string(path).map(|it| it.trim().to_owned()).ok();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|it| it.strip_prefix("model name")?.split_once(": "));
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        Environment {
            version: format!("fanfare-loadtest {}", env!("CARGO_PKG_VERSION")),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            date: date(unix_s),
            kernel: one_line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            processor: processor.map_or("unknown", |it| it.1).to_owned(),
            cores: cpuinfo.lines().filter(|it| it.starts_with("processor")).count().max(1),
            broker_command: broker.and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok()).map(|it| {
                let line = String::from_utf8_lossy(&it).replace('\0', " ");
                line.trim_end().to_owned()
            }),
        }
    }

    /// Kernel, processor, cores, in a line.
    pub fn machine(&self) -> String {
        let Environment { kernel, processor, cores, .. } = self;
        format!("Linux {kernel}, {processor}, {cores} cores")
    }
}

/// `2026-11-21 08:36:55 UTC`.
fn date(unix_s: u64) -> String {
    let (mut days, second) = (unix_s / 86_400, unix_s % 86_400);
    let is_leap =
        |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + is_leap(year) as u64 {
        days -= 365 + is_leap(year) as u64;
        year += 1;
    }
    let february = 28 + is_leap(year) as u64;
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_a_line() {
        let here = Environment::read(None);
        let machine = Environment {
            kernel: "6.12.1".to_owned(),
            processor: "Some Processor".to_owned(),
            cores: 2,
            ..here.clone()
        };
        assert_eq!(machine.machine(), "Linux 6.12.1, Some Processor, 2 cores");
        assert!(here.machine().starts_with(&format!("Linux {}, ", here.kernel)) && here.cores > 0);
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(date(1_795_250_215), "2026-11-21 08:36:55 UTC");
    }
}
