//! `fanfare history`: what a topic keeps, one line on stdout per message, and on stderr where in its order that is.

use std::{io::Write, time::Instant};

use clap::Args;
use tokio::time::timeout_at;

use super::{
    Failure,
    client::{Connection, Ended, Message, Patience, Place},
    login::Login,
    position::Position,
    printed,
    printer::{Columns, Printer, shown},
    run_client, tell,
};

/// What `history` takes.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The topic.
    topic: String,
    /// The broker; unix:/run/fanfare/ws.sock where it listens on a Unix socket.
    #[arg(long, env = "FANFARE_URL", default_value = "ws://127.0.0.1:7600/ws")]
    url: String,
    /// So many messages at most; with 0 only the position is told.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(..=1_000))]
    limit: u16,
    /// The newest of those before this one, in place of the newest of all.
    #[arg(long, value_name = "EPOCH.SEQ", conflicts_with = "after")]
    before: Option<Position>,
    /// The oldest of those after this one.
    #[arg(long, value_name = "EPOCH.SEQ")]
    after: Option<Position>,
    #[command(flatten)]
    columns: Columns,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    patience: Patience,
}

/// Asks once and prints the answer.
pub(super) fn history(args: HistoryArgs) -> Result<(), Failure> {
    let place = Place::parse(&args.url)?;
    run_client(async move {
        let time_max = args.patience.time_max();
        let failed = |ended: Ended| Failure::Run(ended.to_string());
        let mut connection = Connection::open(&place, args.login.token()?, time_max).await.map_err(failed)?;
        connection.sender().send_text(command(&args)).await.map_err(failed)?;
        let deadline = Instant::now() + time_max;
        let answer = timeout_at(deadline.into(), receive_answer(&mut connection)).await;
        let answer = answer
            .unwrap_or_else(|_| Err(Ended::Broken(format!("no answer for {} s", time_max.as_secs()))))
            .map_err(failed)?;
        let answer = Message::parse(&answer).map_err(failed)?;
        let result = match &*answer.op {
            "error" => Err(Failure::Run(answer.error_line())),
            _ => print(&args, &answer),
        };
        connection.close().await;
        result
    })
}

fn command(args: &HistoryArgs) -> String {
    let topic = serde_json::to_string(&args.topic).expect("a string is JSON");
    let anchor = match (args.before, args.after) {
        (Some(before), _) => format!(r#","before":{}"#, before.to_json()),
        (None, Some(after)) => format!(r#","after":{}"#, after.to_json()),
        (None, None) => String::new(),
    };
    format!(r#"{{"op":"history","topic":{topic},"id":0,"limit":{}{anchor}}}"#, args.limit)
}

/// The history, or the error that stands in its place.
async fn receive_answer(connection: &mut Connection) -> Result<Vec<u8>, Ended> {
    loop {
        let text = connection.receive().await?;
        if matches!(&*Message::parse(&text)?.op, "history" | "error") {
            return Ok(text.to_vec());
        }
    }
}

fn print(args: &HistoryArgs, answer: &Message<'_>) -> Result<(), Failure> {
    let mut printer = Printer::new(args.columns, answer.messages.len() as u64);
    let mut all = answer.messages.iter();
    printed(all.try_for_each(|message| printer.print(message)).and_then(|()| printer.out.flush()))?;
    let topic = shown(&args.topic);
    let at = |seq| Position::told(&answer.epoch, seq);
    let (Some(head), Some(from)) = (answer.seq.and_then(at), answer.from) else {
        return Err(Failure::Run("the answer has no epoch of 16 hex digits, no seq or no from".into()));
    };
    match from > head.seq {
        true => tell(format_args!("{topic} is at {head} and keeps nothing before that")),
        false => tell(format_args!("{topic} is at {head} and keeps what came from {from} on")),
    }
    // Which way one goes on is the way that one went; from nothing there is no going on.
    let ends = answer.messages.first().zip(answer.messages.last());
    if let (true, Some((first, last))) = (answer.more, ends) {
        let (flag, end) = if args.after.is_some() { ("--after", last) } else { ("--before", first) };
        if let Some(position) = end.seq.and_then(at) {
            tell(format_args!("next: {flag} {position}"));
        }
    }
    Ok(())
}
