//! Messages on stdout, one line each.

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::value::RawValue;

use clap::Args;

use super::client::Message;

/// What a line says beside the data.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Columns {
    /// Print only the data, without topic and seq.
    #[arg(long)]
    raw: bool,
    /// Print behind the seq who published the message; - where it does not say.
    #[arg(long, conflicts_with = "raw")]
    user: bool,
    /// Print behind the seq when the message got it, in milliseconds since 1970; - where it does not say.
    #[arg(long, conflicts_with = "raw")]
    time: bool,
}

/// Writes messages as lines.
pub(super) struct Printer {
    pub out: BufWriter<Stdout>,
    columns: Columns,
    /// How many to print still.
    pub left: u64,
}

impl Printer {
    /// One to stdout that prints so many messages.
    pub fn new(columns: Columns, left: u64) -> Printer {
        Printer { out: BufWriter::new(io::stdout()), columns, left }
    }

    /// Prints one; there must be some left to print.
    pub fn print(&mut self, message: &Message<'_>) -> io::Result<()> {
        let data = message.data.or(message.base64).map_or("null", RawValue::get);
        // A line break can only stand between the tokens of JSON, where a space means the same.
        let data = data.replace(['\n', '\r'], " ");
        self.left -= 1;
        if self.columns.raw {
            return writeln!(self.out, "{data}");
        }
        write!(self.out, "{} {} ", shown(&message.topic), message.seq.unwrap_or(0))?;
        match &message.user {
            // Whose name is no name.
            Some(user) if self.columns.user && user == "-" => write!(self.out, "\"-\" ")?,
            Some(user) if self.columns.user => write!(self.out, "{} ", shown(user))?,
            None if self.columns.user => write!(self.out, "- ")?,
            _ => {}
        }
        match message.time {
            Some(time) if self.columns.time => write!(self.out, "{time} ")?,
            None if self.columns.time => write!(self.out, "- ")?,
            _ => {}
        }
        writeln!(self.out, "{data}")
    }
}

/// A name as one word: one with white space or control characters becomes a JSON string.
pub(super) fn shown(name: &str) -> String {
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        serde_json::to_string(name).expect("a string is JSON")
    } else {
        name.into()
    }
}
