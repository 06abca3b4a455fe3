//! The token of an `auth`, of which no error says anything but its length.

use simd_json::Node;

use super::{Fault, Members, key::Key};
use crate::protocol::{
    command::{ErrorCode, TOKEN_BYTES_MAX},
    secret::SecretText,
};

/// The token as it is written between its quotes: none that is accepted has anything that JSON would escape.
pub(super) fn read_token<'a>(members: &Members<'_, 'a>) -> Result<SecretText<'a>, Fault> {
    let bad_value = |message| Err(Fault { code: ErrorCode::BadValue, message });
    let Some(value) = members.get(Key::Token) else {
        return bad_value(format!("`token` is missing; a string of 1 to {TOKEN_BYTES_MAX} bytes is allowed"));
    };
    let Node::String(_) = value.node else {
        return bad_value(format!("`token` is no string; one of 1 to {TOKEN_BYTES_MAX} bytes is allowed"));
    };
    let token = &value.raw[1..value.raw.len() - 1];
    match token.len() {
        1..=TOKEN_BYTES_MAX => Ok(SecretText(token)),
        len => bad_value(format!("`token` is {len} bytes long; 1 to {TOKEN_BYTES_MAX} are allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_refused, with_command},
        *,
    };
    use crate::protocol::command::{Command, RequestId};

    #[test]
    fn an_auth_has_a_token() {
        let longest = "t".repeat(TOKEN_BYTES_MAX);
        for (token, id) in [("ff_x", ""), ("a.b-_c", r#","id":7"#), (&longest, r#","id":null"#)] {
            let text = format!(r#"{{"op":"auth","token":"{token}"{id}}}"#);
            let id = id.contains('7').then_some(RequestId::Number(7));
            with_command(&text, |command| {
                assert_eq!(command, Command::Auth { id, token: SecretText(token) });
            });
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_word_of_it() {
        let longer = "t".repeat(TOKEN_BYTES_MAX + 1);
        let auth = |token: &str| format!(r#"{{"op":"auth","token":{token}}}"#);
        assert_refused(r#"{"op":"auth"}"#, ErrorCode::BadValue, &["`token` is missing"]);
        assert_refused(&auth("null"), ErrorCode::BadValue, &["`token` is no string"]);
        assert_refused(&auth("[77777]"), ErrorCode::BadValue, &["`token` is no string"]);
        assert_refused(&auth(r#""""#), ErrorCode::BadValue, &["0 bytes", "1 to 8192"]);
        assert_refused(&auth(&format!("\"{longer}\"")), ErrorCode::BadValue, &["8193 bytes"]);
        assert_refused(
            r#"{"op":"auth","token":"a","topic":"t"}"#,
            ErrorCode::UnknownKey,
            &["auth", "`topic`"],
        );
        assert_refused(r#"{"op":"ping","token":"a"}"#, ErrorCode::UnknownKey, &["ping", "`token`"]);
    }
}
