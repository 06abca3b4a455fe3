//! The parser's naive twin: field by field with the numbers of the table, copies everywhere.

use crate::protocol::{
    command::{
        ErrorCode, PayloadKind, Start,
        outcome::{Outcome, OwnedCommand},
    },
    json, topic,
};

/// What `message` leads to.
pub(crate) fn outcomes(message: &[u8]) -> Vec<Outcome> {
    if message.first() != Some(&0) {
        return vec![split(message).map_or(Outcome::error(ErrorCode::BadMessage), body)];
    }
    match message.get(1) {
        Some(0) => {}
        Some(_) => return vec![Outcome::error(ErrorCode::BadValue)],
        None => return vec![Outcome::error(ErrorCode::BadMessage)],
    }
    match bodies(&message[2..]) {
        None => vec![Outcome::error(ErrorCode::BadMessage)],
        Some(bodies) if bodies.len() > 1024 => vec![Outcome::error(ErrorCode::LimitReached)],
        Some(bodies) => bodies.into_iter().map(body).collect(),
    }
}

struct Fields {
    kind: u8,
    flags: u8,
    seq: u64,
    key: Option<Vec<u8>>,
    topic: Vec<u8>,
    payload: Vec<u8>,
}

/// The bodies of a batch, if it and they hold what their lengths say and none is a batch.
fn bodies(mut rest: &[u8]) -> Option<Vec<Fields>> {
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let body = rest.get(4..4 + len)?;
        let fields = split(body)?;
        if fields.kind == 0 {
            return None;
        }
        bodies.push(fields);
        rest = &rest[4 + len..];
    }
    Some(bodies)
}

fn split(body: &[u8]) -> Option<Fields> {
    let (mut topic_at, mut rows) = (12, Vec::new());
    if body.get(1)? & 2 != 0 {
        let rows_at = 14;
        topic_at = rows_at + number(body.get(12..14)?);
        let mut row_at = rows_at;
        while row_at < topic_at {
            let len = number(body.get(row_at + 1..row_at + 3).filter(|_| row_at + 3 <= topic_at)?);
            rows.push((body[row_at], row_at + 3..row_at + 3 + len));
            row_at += 3 + len;
        }
        if row_at > topic_at {
            return None;
        }
    }
    let payload_at = topic_at + number(body.get(2..4)?);
    Some(Fields {
        kind: body[0],
        flags: body[1],
        seq: u64::from_be_bytes(body.get(4..12)?.try_into().ok()?),
        key: rows.into_iter().find(|(kind, _)| *kind == 1).map(|(_, key)| body[key].to_vec()),
        topic: body.get(topic_at..payload_at)?.to_vec(),
        payload: body.get(payload_at..)?.to_vec(),
    })
}

fn number(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) * 256 + usize::from(bytes[1])
}

fn body(fields: Fields) -> Outcome {
    match fields.kind {
        1 => publish(fields),
        4 => object(fields, "subscribe"),
        5 => object(fields, "unsubscribe"),
        9 => object(fields, "ping"),
        12 => object(fields, "history"),
        17 => object(fields, "auth"),
        _ => Outcome::error(ErrorCode::UnknownOp),
    }
}

fn publish(fields: Fields) -> Outcome {
    let is_id = (1..1 << 53).contains(&fields.seq);
    let id = is_id.then(|| fields.seq.to_string());
    let topic = String::from_utf8(fields.topic).ok();
    let topic = topic.filter(|topic| topic.len() <= 256 && !json::naive::has_noncharacter(topic));
    let refuse =
        |code| Outcome::Error { op: Some("publish".to_owned()), id: id.clone(), topic: topic.clone(), code };
    if fields.flags > 15 || (!is_id && fields.seq != 0) {
        return refuse(ErrorCode::BadValue);
    }
    if fields.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 64) {
        return refuse(ErrorCode::BadValue);
    }
    let Some(topic) = topic.clone() else { return refuse(ErrorCode::BadTopic) };
    let is_json = fields.flags & 1 != 0;
    if is_json && !str::from_utf8(&fields.payload).is_ok_and(|text| json::naive::is_i_json(text, 63)) {
        return Outcome::error(ErrorCode::BadMessage);
    }
    if !topic::naive::is_name(&topic) {
        return refuse(ErrorCode::BadTopic);
    }
    let kind = if is_json { PayloadKind::Json } else { PayloadKind::Bytes };
    Outcome::Command(OwnedCommand {
        op: "publish".to_owned(),
        id: id.clone(),
        topic: Some(topic),
        data: Some((kind, fields.payload)),
        receivers: fields.flags & 4 != 0,
        key: fields.key,
        retain: fields.flags & 8 != 0,
        start: Start::default(),
        resume: None,
        page: None,
        token: None,
    })
}

fn object(fields: Fields, kind: &str) -> Outcome {
    let refuse = |id, topic, code| Outcome::Error { op: Some(kind.to_owned()), id, topic, code };
    if fields.flags > 3 || !fields.topic.is_empty() || fields.seq != 0 {
        return refuse(None, None, ErrorCode::BadValue);
    }
    if fields.payload.len() > 65_536 {
        return Outcome::error(ErrorCode::LimitReached);
    }
    let Ok(text) = String::from_utf8(fields.payload) else { return Outcome::error(ErrorCode::BadMessage) };
    match json::naive::lone_outcome(&text).without_details() {
        Outcome::Command(command) if command.op != kind => {
            refuse(command.id, command.topic, ErrorCode::BadValue)
        }
        Outcome::Error { op: Some(op), id, topic, code: ErrorCode::BadTopic | ErrorCode::Unsupported }
            if op != kind =>
        {
            refuse(id, topic, ErrorCode::BadValue)
        }
        outcome => outcome,
    }
}
