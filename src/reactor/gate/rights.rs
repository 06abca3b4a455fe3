//! Whether a connection may do what it asks for, and what it is told if not.

use crate::{
    access::grants::Action,
    protocol::command::{Command, CommandError, ErrorCode, RequestId},
    reactor::{
        audit::{Event, EventKind},
        desk::Desk,
    },
    work::price,
};

impl Desk {
    /// Whether a connection that is not let in may give this command.
    pub(in crate::reactor) fn check_stranger<'a>(
        &self,
        command: &Result<Command<'a>, CommandError<'a>>,
    ) -> Result<(), CommandError<'a>> {
        let (op, id) = match command {
            Ok(Command::Auth { .. } | Command::Ping { .. }) | Err(_) => return Ok(()),
            Ok(Command::Publish { id, .. }) => ("publish", *id),
            Ok(Command::Subscribe { id, .. } | Command::SubscribeTour { id, .. }) => ("subscribe", *id),
            Ok(Command::Unsubscribe { id, .. }) => ("unsubscribe", *id),
            Ok(Command::History { id, .. }) => ("history", Some(*id)),
        };
        let message = "a token is to come first: auth and ping are allowed";
        let code = ErrorCode::Unauthorized;
        Err(CommandError {
            op: Some(op),
            id,
            topic: None,
            code,
            message: message.into(),
            retry_after_ms: None,
        })
    }

    /// Whether the connection may do that with a topic, or with all that a filter matches.
    #[inline]
    pub(in crate::reactor) fn is_allowed(&mut self, slot: u32, action: Action, filter: &str) -> bool {
        self.gate.access.is_none() || self.is_granted(slot, action, filter)
    }

    fn is_granted(&mut self, slot: u32, action: Action, filter: &str) -> bool {
        let Some(verdict) = self.gate.may(slot, action, filter) else { return true };
        self.meter.spend(u64::from(verdict.held_count) * price::MATCH);
        verdict.is_allowed
    }

    /// Whether the connection may receive all that `filter` matches.
    pub(in crate::reactor) fn check_may_subscribe<'a>(
        &mut self,
        slot: u32,
        id: Option<RequestId<'a>>,
        filter: &'a str,
    ) -> Result<(), CommandError<'a>> {
        match self.is_allowed(slot, Action::Subscribe, filter) {
            true => Ok(()),
            false => Err(self.forbid(slot, "subscribe", id, Action::Subscribe, filter)),
        }
    }

    /// Whether the connection may be told what was published before to all that `filter` matches: an error if it may not and
    /// `asks` for it.
    pub(in crate::reactor) fn check_past<'a>(
        &mut self,
        slot: u32,
        op: &'static str,
        id: Option<RequestId<'a>>,
        filter: &'a str,
        asks: bool,
    ) -> Result<bool, CommandError<'a>> {
        let may = self.is_allowed(slot, Action::History, filter);
        if asks && !may { Err(self.forbid(slot, op, id, Action::History, filter)) } else { Ok(may) }
    }

    /// The error of what is not allowed: the same whether there is such a topic or not, and whether it is denied or not granted.
    #[cold]
    pub(in crate::reactor) fn forbid<'a>(
        &mut self,
        slot: u32,
        op: &'static str,
        id: Option<RequestId<'a>>,
        action: Action,
        filter: &'a str,
    ) -> CommandError<'a> {
        self.stats.forbidden_total[action as usize] += 1;
        if let (connection, Some(principal)) = (self.connections.id_of(slot), self.gate.principal(slot))
            && self.auditor.is_first_forbidden(slot, self.now_ms() as u32)
        {
            let kind = EventKind::Forbidden;
            let principal = principal.clone();
            self.auditor.note(connection, kind, || Event {
                reason: Some(action.as_str()),
                filter: Some(filter.into()),
                ..Event::new(kind).with_principal(&principal)
            });
        }
        let message = match action {
            Action::Publish => "publishing to this topic is not allowed",
            Action::Subscribe => "subscribing to all that this matches is not allowed",
            Action::History => "reading the past of all that this matches is not allowed",
            Action::Presence => "knowing who is subscribed to all that this matches is not allowed",
        };
        let code = ErrorCode::Forbidden;
        CommandError {
            op: Some(op),
            id,
            topic: Some(filter.into()),
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }
}
