//! What is left of a message whose commands are not all run in one go.

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

use zeroize::Zeroize;

use super::{
    binary::{self, Checked},
    command::{Command, CommandError},
    json::Parser,
};

/// The commands of an array or a batch that were not taken, as bytes of their own.
///
/// The message as a whole was found good, and each command is read again by itself when its turn comes: so
/// that is done once, however often one stops, and what comes out is what would have come at once.
#[derive(Clone, Debug)]
pub struct Rest {
    commands: Bytes,
    /// Where the command begins that was taken last.
    taken: usize,
    /// Where the commands that are left begin.
    start: usize,
    left: usize,
}

#[derive(Clone, Debug)]
enum Bytes {
    /// Objects one behind the other, and where each ends.
    Json { text: Box<str>, ends: Box<[u32]> },
    /// Bodies, each behind its length, and what is known of their payloads.
    Binary { bodies: Box<[u8]>, checked: Box<[Checked]> },
}

impl Rest {
    /// The objects in these `spans` of text; `None` if there is none.
    pub(super) fn of_json<'t>(spans: impl ExactSizeIterator<Item = &'t str>) -> Option<Box<Rest>> {
        let left = spans.len();
        let mut ends = Vec::with_capacity(left);
        let mut text = String::new();
        for span in spans {
            text.push_str(span);
            ends.push(u32::try_from(text.len()).expect("the parser takes no text of 4 GiB"));
        }
        let commands = Bytes::Json { text: text.into(), ends: ends.into() };
        (left > 0).then(|| Box::new(Rest { commands, taken: 0, start: 0, left }))
    }

    /// So many `bodies`, each behind its length, with what is known of their payloads; `None` if there is none.
    pub(super) fn of_binary(bodies: &[u8], checked: &[Checked], left: usize) -> Option<Box<Rest>> {
        (left > 0).then(|| {
            let commands = Bytes::Binary { bodies: bodies.into(), checked: checked.into() };
            Box::new(Rest { commands, taken: 0, start: 0, left })
        })
    }

    /// Reads the next command.
    pub fn next<'a>(&'a mut self, parser: &'a mut Parser) -> Option<Result<Command<'a>, CommandError<'a>>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.start;
        self.taken = start;
        match &self.commands {
            Bytes::Json { text, ends } => {
                self.start = ends[ends.len() - 1 - self.left] as usize;
                Some(parser.read_again(&text[start..self.start]))
            }
            Bytes::Binary { bodies, checked } => {
                let mut rest = &bodies[start..];
                let command = binary::read_next(parser, &mut rest, checked);
                self.start = bodies.len() - rest.len();
                Some(command)
            }
        }
    }

    /// Overwrites the command that was taken last; returns how many bytes that were.
    pub fn wipe_taken(&mut self) -> usize {
        let taken = std::mem::replace(&mut self.taken, self.start)..self.start;
        let len = taken.len();
        match &mut self.commands {
            Bytes::Json { text, .. } => text.get_mut(taken).expect("a command ends there").zeroize(),
            Bytes::Binary { bodies, .. } => bodies[taken].zeroize(),
        }
        len
    }

    /// How many commands are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// How much memory it takes until it is dropped, in bytes.
    pub fn len_bytes(&self) -> usize {
        let held = match &self.commands {
            Bytes::Json { text, ends } => text.len() + size_of_val::<[u32]>(ends),
            Bytes::Binary { bodies, checked } => bodies.len() + size_of_val::<[Checked]>(checked),
        };
        size_of::<Self>() + held
    }
}
