//! What a message led to, owned, so that a parser's results can be compared with its twin's.

use super::{Anchor, Command, CommandError, ErrorCode, PayloadKind, RequestId, Resume, Start};

/// A command or an error, without what a twin does not say: the error's words.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few are made, and all by tests")]
pub(crate) enum Outcome {
    Command(OwnedCommand),
    Error { op: Option<String>, id: Option<String>, topic: Option<String>, code: ErrorCode },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnedCommand {
    pub(crate) op: String,
    pub(crate) id: Option<String>,
    pub(crate) topic: Option<String>,
    pub(crate) data: Option<(PayloadKind, Vec<u8>)>,
    pub(crate) receivers: bool,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) retain: bool,
    pub(crate) start: Start,
    /// Of a subscribe to a filter.
    pub(crate) resume: Option<Resume>,
    /// Of a history its limit, and where it stands.
    pub(crate) page: Option<(u32, Option<Anchor>)>,
    /// Of an auth.
    pub(crate) token: Option<String>,
}

impl Outcome {
    /// An error about a message of which nothing more is known.
    pub(crate) fn error(code: ErrorCode) -> Outcome {
        Outcome::Error { op: None, id: None, topic: None, code }
    }

    /// What is not I-JSON may name its command or not: the parser does where it can, a twin where that is easy.
    pub(crate) fn without_details(self) -> Outcome {
        match self {
            Outcome::Error { code: ErrorCode::BadMessage, .. } => Outcome::error(ErrorCode::BadMessage),
            other => other,
        }
    }
}

impl From<&Result<Command<'_>, CommandError<'_>>> for Outcome {
    fn from(result: &Result<Command<'_>, CommandError<'_>>) -> Outcome {
        let command = match result {
            Ok(command) => command,
            Err(error) => {
                return Outcome::Error {
                    op: error.op.map(str::to_owned),
                    id: error.id.map(owned_id),
                    topic: error.topic.as_deref().map(str::to_owned),
                    code: error.code,
                };
            }
        };
        let named = |op: &str, id: Option<RequestId<'_>>, topic: Option<&str>| OwnedCommand {
            op: op.to_owned(),
            id: id.map(owned_id),
            topic: topic.map(str::to_owned),
            data: None,
            receivers: false,
            key: None,
            retain: false,
            start: Start::default(),
            resume: None,
            page: None,
            token: None,
        };
        Outcome::Command(match command {
            Command::Subscribe { id, filter, start } => {
                OwnedCommand { start: *start, ..named("subscribe", *id, Some(filter)) }
            }
            Command::SubscribeTour { id, filter, last, resume } => OwnedCommand {
                start: Start { since: None, last: *last },
                resume: resume.as_deref().cloned(),
                ..named("subscribe", *id, Some(filter))
            },
            Command::Unsubscribe { id, filter } => named("unsubscribe", *id, Some(filter)),
            Command::Ping { id } => named("ping", *id, None),
            Command::Auth { id, token } => {
                OwnedCommand { token: Some(token.0.to_owned()), ..named("auth", *id, None) }
            }
            Command::History { id, topic, limit, anchor } => {
                OwnedCommand { page: Some((*limit, *anchor)), ..named("history", Some(*id), Some(topic)) }
            }
            Command::Publish { id, topic, payload, kind, receivers, retain, key } => OwnedCommand {
                data: Some((*kind, payload.to_vec())),
                receivers: *receivers,
                key: key.map(<[u8]>::to_vec),
                retain: *retain,
                ..named("publish", *id, Some(topic))
            },
        })
    }
}

fn owned_id(id: RequestId<'_>) -> String {
    match id {
        RequestId::Number(number) => number.to_string(),
        RequestId::Text(raw) => raw.to_owned(),
    }
}
