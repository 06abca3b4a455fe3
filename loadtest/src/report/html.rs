//! A report as a page.

use super::{
    Report, TopicReport,
    page::{Page, mib, ms, percent, unknown},
    plot::{self, Line},
};
use crate::{client::monitor::GroupRow, output::thousands};

/// The whole page.
pub fn page(report: &Report) -> String {
    let verdict =
        if report.passed { report.good_verdict().replace("PASS", "Passed") } else { "Failed".to_owned() };
    let mut page = Page::new(&report.scenario, report.passed, &verdict);
    write_trouble(&mut page, report);
    page.tiles(&tiles(report));
    page.section(&report.topics_section());
    report.tries_section().iter().for_each(|it| page.section(it));
    report.soak.iter().for_each(|it| page.section(&it.section()));
    page.figures(&figures(report));
    report.losses_section(usize::MAX).iter().for_each(|it| page.section(it));
    page.environment(&report.environment, &costs(report), &report.parameters);
    page.finish()
}

fn write_trouble(page: &mut Page, report: &Report) {
    if let Some(at_s) = report.ended_early_s {
        page.bad_note(&format!(
            "Ended early, {at_s:.1} s after the start. What follows is what came until then."
        ));
    }
    if let Some(reason) = &report.broken_reason {
        page.bad_note(&format!("{} connections ended: {reason}", report.broken_connections));
    }
    report.notes.iter().for_each(|it| page.note(it));
}

fn tiles(report: &Report) -> [(&'static str, String); 8] {
    let worst = |of: fn(&TopicReport) -> f64| ms(report.topics.iter().map(of).fold(0.0, f64::max));
    let each = report.broker_ns_per_delivery.map(|it| format!("{it:.1} <small>ns</small>"));
    [
        ("deliveries per second", thousands(report.deliveries_per_s)),
        ("latency p50", worst(|it| it.latency_ms.p50)),
        ("latency p99", worst(|it| it.latency_ms.p99)),
        ("broker CPU per delivery", each.unwrap_or_else(unknown)),
        ("broker CPU", report.broker_cpu_share.map_or_else(unknown, percent)),
        ("broker memory", report.broker_resident_bytes.map_or_else(unknown, mib)),
        ("client CPU", percent(report.client_cpu_share)),
        ("lost", thousands(report.lost() as f64)),
    ]
}

fn figures(report: &Report) -> Vec<(String, String)> {
    if report.series.is_empty() {
        return Vec::new();
    }
    let mut figures = Vec::new();
    let mut figure = |title: &str, svg: String| figures.push((title.to_owned(), svg));
    let groups = &report.topics;
    let over_time = |name: &str, value: &dyn Fn(&crate::client::Row) -> Option<f64>| Line {
        name: name.to_owned(),
        // What a second brought is drawn in its middle.
        points: report.series.iter().map(|it| (it.second as f64 + 0.5, value(it))).collect(),
    };
    let throughput: Vec<Line> = groups
        .iter()
        .enumerate()
        .map(|(index, it)| over_time(&it.name, &|row| row.groups.get(index).map(|it| it.deliveries)))
        .collect();
    figure("Throughput", plot::lines(&throughput, "deliveries/s", false, report.measured_s));
    for (index, it) in groups.iter().enumerate() {
        let line = |name: &str, of: fn(&GroupRow) -> Option<f64>| {
            over_time(name, &|row| row.groups.get(index).and_then(of))
        };
        let latency = [
            line("p50", |it| it.p50_ms),
            line("p99", |it| it.p99_ms),
            line("p99.9", |it| it.p999_ms),
            line("max", |it| it.max_ms),
        ];
        let of = if groups.len() > 1 { format!(", {}", it.name) } else { String::new() };
        figure(&format!("Latency{of}"), plot::lines(&latency, "milliseconds", true, report.measured_s));
        let latency = &it.latency_ms;
        let marks = [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p999)];
        figure(&format!("Latency histogram{of}"), plot::bars(&it.histogram, "milliseconds", &marks));
    }
    if report.broker_cpu_share.is_some() {
        let each = over_time("", &|row| row.broker_ns_per_delivery.filter(|_| row.deliveries > 0.0));
        figure("Broker CPU per delivery", plot::lines(&[each], "nanoseconds", false, report.measured_s));
        let memory = over_time("", &|row| row.broker_resident_bytes.map(|it| it as f64 / (1 << 20) as f64));
        figure("Broker memory", plot::lines(&[memory], "MiB resident", false, report.measured_s));
    }
    let cpu = [
        over_time("broker", &|row| row.broker_cpu_share.map(|it| it * 100.0)),
        over_time("client", &|row| Some(row.client_cpu_share * 100.0)),
    ];
    figure("CPU", plot::lines(&cpu, "% of a core", false, report.measured_s));
    figures
}

fn costs(report: &Report) -> Vec<(&'static str, String)> {
    let mut costs = vec![("Measured", format!("{:.1} s", report.measured_s))];
    if let Some(broker) = &report.broker {
        let calls = broker
            .system_calls_per_delivery
            .map_or("system calls unknown".to_owned(), |it| format!("{it:.5} system calls (turns)"));
        let user_share = broker
            .user_share
            .map_or(String::new(), |share| format!("; {:.0} % of its CPU in user mode", share * 100.0));
        let figures = format!(
            "{:.5} voluntary and {:.5} involuntary context switches, {calls}{user_share}",
            broker.voluntary_switches_per_delivery, broker.involuntary_switches_per_delivery,
        );
        costs.push(("Broker per delivery", figures));
    }
    costs
}
