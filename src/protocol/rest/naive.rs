//! The twin of stopping: not to stop.

use super::Rest;
use crate::protocol::{
    Format, binary,
    command::{Command, CommandError, Commands, Many},
    json::{LongMessage, Parser},
};

/// Checks that the commands of `message` are the same wherever one stops, and whether it was checked slice by
/// slice before, told apart by every word.
pub(crate) fn check_every_stop(format: Format, message: &[u8]) {
    let expected = results(format, message, usize::MAX, None);
    for taken in 0..=expected.len() {
        for slice in [None, Some(1 + taken * 7)] {
            assert_eq!(
                results(format, message, taken, slice),
                expected,
                "{taken} taken, slices of {slice:?} bytes: {}",
                message.escape_ascii()
            );
        }
    }
}

/// The commands of `message`, of which one goes on to read so many, and a lone one in any case, before one
/// stops.
fn results(format: Format, message: &[u8], taken: usize, slice: Option<usize>) -> Vec<String> {
    let mut parser = Parser::new();
    let mut long = LongMessage::as_if_long(format, message);
    if let Some(bytes_max) = slice {
        while !long.go_on(bytes_max) {
            // What the parser reads in between has nothing to do with it.
            assert!(parser.parse("[[").is_err());
        }
    }
    let (mut told, rest) = match (format, slice) {
        (Format::Json, None) => take(parser.parse(str::from_utf8(message).expect("text")), taken),
        (Format::Binary, None) => take(binary::parse(&mut parser, message), taken),
        (Format::Json, Some(_)) => take(parser.parse_long(&mut long), taken),
        (Format::Binary, Some(_)) => take(binary::parse_long(&mut parser, &mut long), taken),
    };
    let Some(mut rest) = rest else { return told };
    assert!(parser.parse("[[").is_err());
    assert!(rest.len_bytes() <= size_of::<Rest>() + message.len() + 32 * rest.left());
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
