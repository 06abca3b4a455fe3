//! The twin of stopping: not to stop.

use super::Rest;
use crate::protocol::{
    Format, binary,
    command::{Command, CommandError, Commands, Many},
    json::Parser,
};

/// Checks that the commands of `message` are the same wherever one stops, told apart by every word.
pub(crate) fn check_every_stop(format: Format, message: &[u8]) {
    let expected = results(format, message, usize::MAX);
    for taken in 0..expected.len() {
        assert_eq!(results(format, message, taken), expected, "{taken} taken of {}", message.escape_ascii());
    }
}

/// The commands of `message`, of which one goes on to read so many, and a lone one in any case, before one
/// stops.
fn results(format: Format, message: &[u8], taken: usize) -> Vec<String> {
    let mut parser = Parser::new();
    let (mut told, rest) = match format {
        Format::Json => take(parser.parse(str::from_utf8(message).expect("text")), taken),
        Format::Binary => take(binary::parse(&mut parser, message), taken),
    };
    let Some(mut rest) = rest else { return told };
    // What the parser reads in between has nothing to do with it.
    assert!(parser.parse("[[").is_err());
    assert!(rest.len_bytes() <= size_of::<Rest>() + message.len() + 4 * rest.left());
    while let Some(result) = rest.next(&mut parser) {
        told.push(format!("{result:?}"));
    }
    assert_eq!(rest.left(), 0);
    told
}

fn take<'a, M: Many<'a>>(
    commands: Result<Commands<'a, M>, CommandError<'a>>,
    taken: usize,
) -> (Vec<String>, Option<Box<Rest>>) {
    let tell = |result: Result<Command<'_>, CommandError<'_>>| format!("{result:?}");
    let mut commands = match commands {
        Ok(commands) => commands,
        Err(error) => return (vec![tell(Err(error))], None),
    };
    let taken = if matches!(commands, Commands::One(_)) { 1 } else { taken };
    let told = commands.by_ref().take(taken).map(tell).collect();
    (told, commands.into_rest())
}
