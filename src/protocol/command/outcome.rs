//! What a message led to, owned, so that a parser's results can be compared with its twin's.

use super::{Command, CommandError, ErrorCode, PayloadKind, RequestId};

/// A command or an error, without what a twin does not say: the error's words.
#[derive(Clone, Debug, PartialEq)]
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
        let (op, id, topic, data, receivers) = match command {
            Command::Subscribe { id, filter } => ("subscribe", id, Some(filter.text()), None, false),
            Command::Unsubscribe { id, filter } => ("unsubscribe", id, Some(filter.text()), None, false),
            Command::Ping { id } => ("ping", id, None, None, false),
            Command::Publish { id, topic, payload, kind, receivers } => {
                ("publish", id, Some(topic.text()), Some((*kind, payload.to_vec())), *receivers)
            }
        };
        Outcome::Command(OwnedCommand {
            op: op.to_owned(),
            id: id.map(owned_id),
            topic: topic.map(|topic| topic.to_string()),
            data,
            receivers,
        })
    }
}

fn owned_id(id: RequestId<'_>) -> String {
    match id {
        RequestId::Number(number) => number.to_string(),
        RequestId::Text(raw) => raw.to_owned(),
    }
}
