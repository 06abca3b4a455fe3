//! What the pages of all scenarios have in common: one file each that needs nothing but itself.

use std::fmt::{Display, Write};

use super::{plot::escape, section::Section};
use crate::environment::Environment;

const STYLE: &str = include_str!("page.css");

/// A page under way.
pub struct Page {
    text: String,
}

impl Page {
    /// With a title, and below it what came of the run.
    pub fn new(title: &str, passed: bool, verdict: &str) -> Page {
        let title = escape(title);
        let class = if passed { "pass" } else { "fail" };
        Page {
            text: format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                 <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
                 <style>{STYLE}</style></head><body>\n\
                 <header><h1>{title}</h1><p class=\"verdict {class}\">{}</p></header>\n",
                escape(verdict)
            ),
        }
    }

    /// What whoever reads the figures must know.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.text, "<p class=\"note\">{}</p>", escape(text));
    }

    /// What went wrong.
    pub fn bad_note(&mut self, text: &str) {
        let _ = writeln!(self.text, "<p class=\"note bad\">{}</p>", escape(text));
    }

    /// The figures that one looks for first. Values are HTML.
    pub fn tiles(&mut self, tiles: &[(&str, String)]) {
        self.text += "<section class=\"tiles\">";
        for (name, value) in tiles {
            let _ = write!(self.text, "<div><b>{value}</b><span>{name}</span></div>");
        }
        self.text += "</section>\n";
    }

    /// Plots, each with its title.
    pub fn figures(&mut self, figures: &[(String, String)]) {
        self.text += "<section class=\"plots\">";
        for (title, svg) in figures {
            let _ = writeln!(self.text, "<figure><figcaption>{}</figcaption>{svg}</figure>", escape(title));
        }
        self.text += "</section>\n";
    }

    /// A table.
    pub fn section(&mut self, section: &Section) {
        self.text += &section.html();
    }

    /// Whatever else, as HTML.
    pub fn html(&mut self, html: impl Display) {
        let _ = write!(self.text, "{html}");
    }

    /// On what it was measured, and as what.
    pub fn environment(
        &mut self,
        environment: &Environment,
        more: &[(&str, String)],
        parameters: &[(String, String)],
    ) {
        self.text += "<section><h2>How this was measured</h2><dl>";
        let mut entry = |name: &str, value: &str| {
            let _ = write!(self.text, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        };
        entry("Command", &environment.command);
        entry("Date", &environment.date);
        entry("Client", &environment.version);
        if let Some(command) = &environment.broker_command {
            entry("Broker", command);
        }
        entry("Machine", &environment.machine());
        more.iter().for_each(|(name, value)| entry(name, value));
        self.text += "</dl><h3>Parameters</h3><dl class=\"parameters\">";
        for (name, value) in parameters {
            let _ = write!(self.text, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
        }
        self.text += "</dl></section>\n";
    }

    /// The whole of it.
    pub fn finish(self) -> String {
        self.text + "</body></html>\n"
    }
}

/// A duration, as a tile shows it.
pub fn ms(value: f64) -> String {
    format!("{value:.2} <small>ms</small>")
}

/// A share of a core, as a tile shows it.
pub fn percent(share: f64) -> String {
    format!("{:.1} <small>% of a core</small>", share * 100.0)
}

/// Memory, as a tile shows it.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} <small>MiB</small>", bytes as f64 / (1 << 20) as f64)
}

/// What nobody could look at.
pub fn unknown() -> String {
    "–".to_owned()
}
