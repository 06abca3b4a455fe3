//! Plots as SVG text: lines over time and bars over a logarithmic axis. No script: they print, and they
//! are the same in ten years.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// More points than pixels are of no use: a run of hours has a page as small as one of seconds.
const POINTS_MAX: usize = 600;

/// One line of a plot.
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// By x; `None`: nothing to be seen there.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Lines over time, logarithmic upwards if `is_log`. What is before 0 and after `measured_s` is shaded.
pub fn lines(lines: &[Line], y_name: &str, is_log: bool, measured_s: f64) -> String {
    let points = || lines.iter().flat_map(|it| &it.points);
    let values = || points().filter_map(|it| it.1);
    if values().next().is_none() {
        return "<p class=\"none\">Nothing was measured.</p>".to_owned();
    }
    let x_least = points().map(|it| it.0).fold(f64::INFINITY, f64::min);
    let x_most = points().map(|it| it.0).fold(f64::NEG_INFINITY, f64::max).max(x_least + 1.0);
    let most = values().fold(0.0, f64::max);
    let y = if is_log {
        Axis::log(values().filter(|it| *it > 0.0).fold(f64::INFINITY, f64::min), most)
    } else {
        Axis::linear(0.0, most)
    };
    let x = Axis::exact(x_least, x_most);
    let mut svg = open(y_name, "seconds");
    draw_grid(&mut svg, &y);
    for tick in nice_ticks(x_least, x_most) {
        let at = place_x(&x, tick);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            short(tick)
        );
    }
    for (from, to, what) in
        [(x_least, 0.0, "warm-up"), (measured_s, x_most, "waiting for the last deliveries")]
    {
        if from >= to {
            continue;
        }
        let (from, to) = (place_x(&x, from), place_x(&x, to));
        let _ = write!(
            svg,
            "<rect class=\"aside\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{what}</title></rect>",
            to - from,
            HEIGHT - TOP - BOTTOM
        );
    }
    for (index, line) in lines.iter().enumerate() {
        draw_line(&mut svg, &thin(&line.points), (&x, &y), index);
    }
    svg += "</svg>";
    if lines.len() > 1 {
        svg += "<p class=\"legend\">";
        for (index, line) in lines.iter().enumerate() {
            let _ = write!(svg, "<span><i class=\"c{}\"></i>{}</span> ", index % 6, escape(&line.name));
        }
        svg += "</p>";
    }
    svg
}

/// Bars over a logarithmic axis: each from the upper bound of the one before to its own.
pub fn bars(buckets: &[(f64, u64)], x_name: &str, marks: &[(&str, f64)]) -> String {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return "<p class=\"none\">Nothing was measured.</p>".to_owned();
    };
    let total: u64 = buckets.iter().map(|it| it.1).sum();
    let share = |count: u64| count as f64 * 100.0 / total as f64;
    let most = buckets.iter().map(|it| share(it.1)).fold(0.0, f64::max);
    let (x, y) = (Axis::log(first.0 / 1.1, last.0), Axis::linear(0.0, most));
    let mut svg = open("% of all", x_name);
    draw_grid(&mut svg, &y);
    for tick in x.ticks() {
        let at = place_x(&x, tick);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            short(tick)
        );
    }
    for &(upper, count) in buckets {
        // An eighth of a doubling wide, as they are made.
        let (from, to) = (place_x(&x, (upper / 2f64.powf(0.125)).max(x.least)), place_x(&x, upper));
        let top = place_y(&y, share(count));
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>up to {upper:.3} ms: {count} ({:.3} %)</title></rect>",
            (to - from - 0.5).max(0.5),
            (HEIGHT - BOTTOM - top).max(if count > 0 { 1.0 } else { 0.0 }),
            share(count)
        );
    }
    for (index, (name, value)) in marks.iter().enumerate() {
        let at = place_x(&x, value.clamp(x.least, x.most));
        let is_far_right = at > WIDTH - 110.0;
        let label_y = TOP + 10.0 + 12.0 * index as f64;
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{label_y:.1}\"{}>{name} {value:.2}</text>",
            HEIGHT - BOTTOM,
            if is_far_right { at - 4.0 } else { at + 4.0 },
            if is_far_right { " text-anchor=\"end\"" } else { "" }
        );
    }
    svg + "</svg>"
}

fn open(y_name: &str, x_name: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{y}\">\
         <text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x}</text>\
         <text class=\"axis\" transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{y}</text>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 4.0,
        TOP + (HEIGHT - TOP - BOTTOM) / 2.0,
        x = escape(x_name),
        y = escape(y_name),
    )
}

fn draw_grid(svg: &mut String, y: &Axis) {
    for tick in y.ticks() {
        let at = place_y(y, tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            short(tick)
        );
    }
}

fn draw_line(svg: &mut String, points: &[(f64, Option<f64>)], (x, y): (&Axis, &Axis), index: usize) {
    let mut path = String::new();
    let mut is_drawing = false;
    for &(at, value) in points {
        let Some(value) = value.filter(|it| !y.is_log || *it > 0.0) else {
            is_drawing = false;
            continue;
        };
        let _ = write!(
            path,
            "{}{:.1} {:.1}",
            if is_drawing { "L" } else { "M" },
            place_x(x, at),
            place_y(y, value)
        );
        is_drawing = true;
    }
    let class = index % 6;
    let _ = write!(svg, "<path class=\"line c{class}\" d=\"{path}\"/>");
    if points.len() <= 60 {
        for (at, value) in points.iter().filter_map(|it| Some((it.0, it.1?))) {
            let _ = write!(
                svg,
                "<circle class=\"dot c{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{} s: {}</title></circle>",
                place_x(x, at),
                place_y(y, value.max(y.least)),
                short(at),
                short(value)
            );
        }
    }
}

/// At most so many points: of each stretch the largest, since peaks are what one looks for.
fn thin(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let largest = |part: &[(f64, Option<f64>)]| {
        let value = part.iter().filter_map(|it| it.1).reduce(f64::max);
        (part[part.len() / 2].0, value)
    };
    points.chunks(stretch).map(largest).collect()
}

fn place_x(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
}

fn place_y(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)
}

struct Axis {
    least: f64,
    most: f64,
    is_log: bool,
}

impl Axis {
    fn exact(least: f64, most: f64) -> Axis {
        Axis { least, most, is_log: false }
    }

    /// To the next round number.
    fn linear(least: f64, most: f64) -> Axis {
        let step = nice_step((most - least).max(1e-9));
        Axis { least, most: (most / step).ceil().max(1.0) * step, is_log: false }
    }

    /// At least a decade, so that noise does not look like a mountain.
    fn log(least: f64, most: f64) -> Axis {
        let least = if least.is_finite() && least > 0.0 { least } else { 0.001 };
        let most = most.max(least * 10.0);
        Axis { least, most: most * 1.05, is_log: true }
    }

    fn place(&self, value: f64) -> f64 {
        match self.is_log {
            true => (value / self.least).ln() / (self.most / self.least).ln(),
            false => (value - self.least) / (self.most - self.least),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            return nice_ticks(self.least, self.most);
        }
        let steps: &[f64] = if self.most / self.least > 1000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (self.least.log10().floor() as i32)..=(self.most.log10().ceil() as i32);
        let ticks = decades.flat_map(|it| steps.iter().map(move |step| step * 10f64.powi(it)));
        ticks.filter(|it| (self.least..=self.most).contains(it)).collect()
    }
}

fn nice_step(span: f64) -> f64 {
    let rough = span / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|it| it * decade).into_iter().find(|it| *it >= rough).unwrap_or(decade * 10.0)
}

fn nice_ticks(least: f64, most: f64) -> Vec<f64> {
    let step = nice_step((most - least).max(1e-9));
    let first = (least / step).ceil() as i64;
    (first..).map(|it| it as f64 * step).take_while(|it| *it <= most * 1.0001).take(20).collect()
}

/// 14 M rather than 14000000.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        it if it >= 1e9 => (value / 1e9, " G"),
        it if it >= 1e6 => (value / 1e6, " M"),
        it if it >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = match scaled.abs() {
        it if it >= 100.0 || it == 0.0 => format!("{scaled:.0}"),
        it if it >= 1.0 => format!("{scaled:.2}"),
        _ => format!("{scaled:.3}"),
    };
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    text + unit
}

/// Text that may be anything, in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(Axis::linear(0.0, 13.4).most, 15.0);
        assert_eq!(nice_ticks(-2.0, 10.0), [0.0, 5.0, 10.0]);
        assert_eq!(Axis::log(0.3, 40.0).ticks(), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(Axis::linear(0.0, 0.0).place(0.0), 0.0);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.25, 7.0, 1234.0, 14_000_000.0, 20_500.0].map(short);
        assert_eq!(texts, ["0", "0.25", "7", "1234", "14 M", "20.5 k"]);
    }

    #[test]
    fn a_long_run_keeps_its_peaks() {
        let mut points: Vec<(f64, Option<f64>)> = (0..36_000).map(|it| (it as f64, Some(1.0))).collect();
        points[17_003].1 = Some(99.0);
        let thinned = thin(&points);
        assert_eq!(thinned.len(), POINTS_MAX);
        assert!(thinned.iter().any(|it| it.1 == Some(99.0)));
    }

    /// Nothing, one value and zeroes are drawn without a number that is none.
    #[test]
    fn odd_series_are_drawn() {
        for values in [vec![], vec![None], vec![Some(0.0)], vec![Some(1.0)], vec![Some(0.0), None, Some(5.0)]]
        {
            let points = values.iter().enumerate().map(|it| (it.0 as f64, *it.1)).collect();
            let line = Line { name: "<a>".to_owned(), points };
            for is_log in [false, true] {
                let svg = lines(std::slice::from_ref(&line), "y", is_log, 1.0);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?} {svg}");
            }
        }
        let svg = bars(&[(1.0, 5)], "ms", &[("p50", 1.0)]);
        assert!(svg.contains("100.000 %") && !svg.contains("NaN"), "{svg}");
        assert!(bars(&[], "ms", &[]).contains("Nothing"));
    }
}
