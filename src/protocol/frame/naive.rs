//! The twin of [`HeaderDecoder`](super::HeaderDecoder): byte by byte, with the numbers of RFC 6455
//! section 5.2.

use super::{Context, Header, Opcode};
use crate::protocol::close::BrokenRule;

/// Why there is no header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing is wrong, but the bytes end before it does.
    BytesEnd,
    Broken(BrokenRule),
}

/// Takes a client's header off the front of `left`.
pub(crate) fn header(left: &mut &[u8], context: &Context) -> Result<Header, Stop> {
    let first = byte(left)?;
    let (is_final, opcode) = (first >= 128, first % 16);
    let (is_deflated, reserved) = (first / 64 % 2 == 1, first / 16 % 4);
    require(reserved == 0, BrokenRule::ReservedBits)?;
    require(!is_deflated || context.deflated_bytes_max.is_some(), BrokenRule::ReservedBits)?;
    require([0, 1, 2, 8, 9, 10].contains(&opcode), BrokenRule::UnknownOpcode)?;
    require(!is_deflated || opcode == 1 || opcode == 2, BrokenRule::DeflatedBitMisplaced)?;
    let is_control = opcode >= 8;
    require(is_final || !is_control, BrokenRule::FragmentedControl)?;
    require(opcode != 0 || context.is_inside_message, BrokenRule::ContinuationOutsideMessage)?;
    let begins = opcode == 1 || opcode == 2;
    require(!begins || !context.is_inside_message, BrokenRule::MessageInsideMessage)?;
    require(opcode != 1 || context.message_opcode != Some(Opcode::Binary), BrokenRule::TextOnBinary)?;
    require(opcode != 2 || context.message_opcode != Some(Opcode::Text), BrokenRule::BinaryOnText)?;

    let second = byte(left)?;
    require(second >= 128, BrokenRule::Unmasked)?;
    require(!is_control || second % 128 <= 125, BrokenRule::ControlTooLong)?;
    let len = match second % 128 {
        126 => {
            let len = number(left, 2)?;
            require(len > 125, BrokenRule::LengthNotMinimal)?;
            len
        }
        127 => {
            let len = number(left, 8)?;
            require(len < 1 << 63, BrokenRule::LengthTopBit)?;
            require(len > 65535, BrokenRule::LengthNotMinimal)?;
            len
        }
        short => u64::from(short),
    };
    require(is_control || len <= context.frame_bytes_max as u64, BrokenRule::FrameTooBig)?;
    let bytes_left = context.deflated_bytes_max.filter(|_| is_deflated).unwrap_or(context.message_bytes_left);
    require(is_control || len <= bytes_left as u64, BrokenRule::MessageTooBig)?;
    let key = [byte(left)?, byte(left)?, byte(left)?, byte(left)?];
    let opcode = match opcode {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        _ => Opcode::Pong,
    };
    Ok(Header { is_final, opcode, is_deflated, payload_len: len as usize, key })
}

/// Takes one byte off the front of `left`.
pub(crate) fn byte(left: &mut &[u8]) -> Result<u8, Stop> {
    let (&byte, rest) = left.split_first().ok_or(Stop::BytesEnd)?;
    *left = rest;
    Ok(byte)
}

fn number(left: &mut &[u8], bytes: usize) -> Result<u64, Stop> {
    let mut number = 0;
    for _ in 0..bytes {
        number = number << 8 | u64::from(byte(left)?);
    }
    Ok(number)
}

fn require(holds: bool, rule: BrokenRule) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Broken(rule)) }
}
