//! Messages on stdout, one line each.

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::value::RawValue;

use super::client::Message;

/// Writes messages as lines.
pub(super) struct Printer {
    pub out: BufWriter<Stdout>,
    is_raw: bool,
    /// How many to print still.
    pub left: u64,
}

impl Printer {
    /// One to stdout that prints so many messages, if it is `is_raw` their data alone.
    pub fn new(is_raw: bool, left: u64) -> Printer {
        Printer { out: BufWriter::new(io::stdout()), is_raw, left }
    }

    /// Prints one; there must be some left to print.
    pub fn print(&mut self, message: &Message<'_>) -> io::Result<()> {
        let data = message.data.or(message.base64).map_or("null", RawValue::get);
        // A line break can only stand between the tokens of JSON, where a space means the same.
        let data = data.replace(['\n', '\r'], " ");
        self.left -= 1;
        if self.is_raw {
            return writeln!(self.out, "{data}");
        }
        writeln!(self.out, "{} {} {data}", shown(&message.topic), message.seq.unwrap_or(0))
    }
}

/// A topic as one word: one with white space or control characters becomes a JSON string.
pub(super) fn shown(topic: &str) -> String {
    if topic.contains(|c: char| c.is_whitespace() || c.is_control()) {
        serde_json::to_string(topic).expect("a string is JSON")
    } else {
        topic.into()
    }
}
