//! A report as a page.

use std::fmt::Write;

use super::{
    Report, TopicReport,
    page::{Page, mib, ms, percent, unknown},
    plot::{self, Line, escape},
};
use crate::{client::monitor::GroupRow, output::thousands};

/// The whole page.
pub fn page(report: &Report) -> String {
    let verdict =
        if report.passed { report.good_verdict().replace("PASS", "Passed") } else { "Failed".to_owned() };
    let mut page = Page::new(&report.scenario, report.passed, &verdict);
    write_trouble(&mut page, report);
    page.tiles(&tiles(report));
    let mut tables = String::new();
    write_groups(&mut tables, report);
    write_tries(&mut tables, report);
    page.html(tables);
    page.html(report.soak.as_ref().map_or_else(String::new, |it| it.section()));
    page.figures(&figures(report));
    let mut losses = String::new();
    write_losses(&mut losses, report);
    page.html(losses);
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

fn write_groups(page: &mut String, report: &Report) {
    *page += "<section><h2>Topics</h2><div class=\"wide\"><table><thead><tr><th>topic</th><th>subscribers</th>\
              <th>by content</th><th>publications</th><th>deliveries/s</th><th>bytes</th><th>p50 ms</th>\
              <th>p90</th><th>p99</th><th>p99.9</th><th>max</th><th>lost</th><th>dup.</th><th>reord.</th>\
              <th>corrupt</th><th>gaps</th></tr></thead><tbody>";
    for it in &report.topics {
        let latency = &it.latency_ms;
        let name = match it.topics {
            1 => escape(&it.name),
            count => format!("{} ({count} topics)", escape(&it.name)),
        };
        let _ = write!(
            page,
            "<tr><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{:.3}</td>\
             <td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td>",
            thousands(it.subscribers as f64),
            thousands(it.sampled as f64),
            thousands(it.published as f64),
            thousands(it.deliveries_per_s),
            it.delivery_bytes,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max
        );
        let faults = &it.faults;
        for count in [faults.lost, faults.duplicated, faults.reordered, faults.corrupted, it.gaps] {
            let class = if count > 0 { " class=\"bad\"" } else { "" };
            let _ = write!(page, "<td{class}>{}</td>", thousands(count as f64));
        }
        *page += "</tr>";
    }
    *page += "</tbody></table></div>";
    if report.topics.iter().any(|it| it.is_conflated) {
        *page += "<p>Conflated: whoever is behind may lose what is not the newest. Subscribers that were not \
                  verified by content were not checked.</p>";
    } else if report.topics.iter().any(|it| !it.sinks_are_exact) {
        *page += "<p>Frames hold packets as it pleases this broker: subscribers that were not verified by \
                  content are counted by bytes to within a frame header per delivery.</p>";
    }
    *page += "<p>Latency counts from the instant at which a publication was due by an open-loop timetable, \
              not from its write: what a broker or a publisher falls behind is part of it.</p></section>\n";
}

fn write_losses(page: &mut String, report: &Report) {
    if report.losses.is_empty() {
        return;
    }
    *page += "<section><h2>What went wrong, by subscriber</h2><div class=\"wide\"><table><thead><tr>\
              <th>topic</th><th>subscriber</th><th>seen by</th><th>lost</th><th>dup.</th><th>reord.</th>\
              <th>corrupt</th><th>gaps</th><th>first missing</th></tr></thead><tbody>";
    for loss in &report.losses {
        let faults = &loss.faults;
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&loss.topic),
            loss.subscriber,
            if loss.is_sampled { "content" } else { "bytes" },
            faults.lost,
            faults.duplicated,
            faults.reordered,
            faults.corrupted,
            loss.gaps,
            loss.first_missing.map_or("–".to_owned(), |it| it.to_string())
        );
    }
    *page += "</tbody></table></div>";
    if report.losses_omitted > 0 {
        let _ = write!(page, "<p>… and {} more.</p>", report.losses_omitted);
    }
    *page += "</section>\n";
}

fn write_tries(page: &mut String, report: &Report) {
    if report.tries.is_empty() {
        return;
    }
    let mut tries: Vec<_> = report.tries.iter().collect();
    tries.sort_by_key(|it| it.rate);
    *page += "<section><h2>Rates that were tried</h2><div class=\"wide\"><table><thead><tr><th>pub/s</th>\
              <th>deliveries/s</th><th>p99 ms</th><th>lost</th><th>broker CPU</th><th>client CPU</th>\
              <th></th></tr></thead><tbody>";
    for it in tries {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.2}</td><td>{}</td><td>{}</td><td>{:.0} %</td><td{}</td></tr>",
            thousands(it.rate as f64),
            thousands(it.deliveries_per_s),
            it.p99_ms,
            it.lost,
            it.broker_cpu_share.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
            it.client_cpu_share * 100.0,
            it.broke.map_or(">held".to_owned(), |it| format!(" class=\"bad\">{}", it.as_str()))
        );
    }
    *page += "</tbody></table></div></section>\n";
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
