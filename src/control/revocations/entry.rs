//! A revocation as JSON: in a request, in an answer, and as a line of the file.

use serde::{Deserialize, Serialize};

use crate::access::{
    revocation::{Kind, Revocation, Subject, Terms},
    token::NAME_BYTES_MAX,
};

/// The longest entry as it is written, in bytes: two names of which each byte may be an escape, and two numbers.
pub const ENTRY_BYTES_MAX: usize = 2 * 6 * NAME_BYTES_MAX + 128;
/// The largest number of seconds: what every JSON reader holds exactly.
const SECONDS_MAX: u64 = 1 << 53;

/// What is revoked, until when.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl Entry {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Entry, String> {
        // Else an array of its values is one as well.
        match json.trim_ascii_start().first() {
            Some(b'{') | None => serde_json::from_slice(json).map_err(|error| error.to_string()),
            Some(_) => Err("it begins with no {".into()),
        }
    }

    /// What it is of: a user, or a user's older tokens, or a token.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn subject(&self) -> Result<Subject, String> {
        let Entry { user, token, issuer, issued_before, .. } = self;
        let (kind, name) = match (user, token, issued_before) {
            (Some(user), None, None) => (Kind::User, user),
            (Some(user), None, Some(_)) => (Kind::Older, user),
            (None, Some(token), None) => (Kind::Token, token),
            (None, Some(_), Some(_)) => return Err("issued_before goes with user alone".into()),
            (Some(_), Some(_), _) | (None, None, _) => return Err("one of user and token is needed".into()),
        };
        for (key, text) in [("user or token", Some(name)), ("issuer", issuer.as_ref())] {
            if text.is_some_and(|text| !(1..=NAME_BYTES_MAX).contains(&text.len())) {
                return Err(format!("{key} must be 1 to {NAME_BYTES_MAX} bytes"));
            }
        }
        Ok(Subject { kind, name: name.as_str().into(), issuer: issuer.as_deref().map(Into::into) })
    }

    /// The revocation that it says, with this end if it says none.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn revocation(&self, until_s: Option<u64>) -> Result<Revocation, String> {
        let subject = self.subject()?;
        let until_s = self.until.or(until_s).ok_or("until is needed")?;
        let issued_before_s = self.issued_before.unwrap_or(0);
        if until_s.max(issued_before_s) > SECONDS_MAX {
            return Err("until and issued_before must be seconds since the Unix epoch".into());
        }
        Ok(Revocation { subject, terms: Terms { issued_before_s, until_s } })
    }

    /// The user, the token and the issuer that it names.
    pub fn names(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.token.as_deref(), self.issuer.as_deref())
    }

    /// Until when, as it says.
    pub fn until_s(&self) -> Option<u64> {
        self.until
    }

    /// Of tokens made before when, as it says.
    pub fn issued_before_s(&self) -> Option<u64> {
        self.issued_before
    }

    /// As a line of the file.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("texts and numbers are JSON");
        line.push('\n');
        line
    }
}

impl From<Revocation> for Entry {
    fn from(Revocation { subject, terms }: Revocation) -> Entry {
        let Subject { kind, name, issuer } = subject;
        let name = Some(name.to_string());
        let (user, token) = if kind == Kind::Token { (None, name) } else { (name, None) };
        Entry {
            user,
            token,
            issuer: issuer.map(|issuer| issuer.to_string()),
            issued_before: (kind == Kind::Older).then_some(terms.issued_before_s),
            until: Some(terms.until_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        for json in [
            r#"{"user":"bob","until":9}"#,
            r#"{"token":"a\u0000\"","issuer":"https://a/","until":9}"#,
            r#"{"user":"bob","issued_before":7,"until":9}"#,
        ] {
            let entry = Entry::parse(json.as_bytes()).unwrap();
            let revocation = entry.revocation(Some(5)).unwrap();
            assert_eq!(Entry::from(revocation), entry);
            assert_eq!(entry.line(), format!("{json}\n"));
        }
        let longest = Entry {
            user: Some("\0".repeat(NAME_BYTES_MAX)),
            issuer: Some("\0".repeat(NAME_BYTES_MAX)),
            issued_before: Some(SECONDS_MAX),
            until: Some(SECONDS_MAX),
            ..Entry::default()
        };
        assert!((ENTRY_BYTES_MAX - 64..=ENTRY_BYTES_MAX).contains(&longest.line().len()));
        longest.revocation(None).unwrap();
    }

    #[test]
    fn what_is_none_is_told_by_its_rule() {
        let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(129));
        for (json, why) in [
            ("", "EOF while parsing"),
            ("[]", "it begins with no {"),
            (r#"["bob",null,null,null,null]"#, "it begins with no {"),
            (r#"{"usr":"bob"}"#, "unknown field `usr`, expected one of `user`, `token`"),
            (r#"{"user":"bob","user":"eve"}"#, "duplicate field `user`"),
            (r#"{"user":7}"#, "invalid type"),
            (r#"{"user":"bob"} x"#, "trailing characters"),
            (r#"{}"#, "one of user and token is needed"),
            (r#"{"issuer":"a"}"#, "one of user and token is needed"),
            (r#"{"user":"bob","token":"a"}"#, "one of user and token is needed"),
            (r#"{"token":"a","issued_before":7}"#, "issued_before goes with user alone"),
            (r#"{"user":""}"#, "user or token must be 1 to 128 bytes"),
            (&long, "user or token must be 1 to 128 bytes"),
            (r#"{"user":"bob","issuer":""}"#, "issuer must be 1 to 128 bytes"),
            (r#"{"user":"bob","until":-1}"#, "invalid value"),
            (r#"{"user":"bob","until":1.5}"#, "invalid type"),
            (r#"{"user":"bob","until":9007199254740993}"#, "must be seconds"),
        ] {
            let error =
                Entry::parse(json.as_bytes()).and_then(|entry| entry.revocation(Some(9))).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
    }
}
