//! `fanfare sub`: one line on stdout per message, whatever happens to the connection.

use std::{
    future::{self, Future},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use clap::Args;
use fastwebsockets::Payload;
use tokio::time::timeout_at;

use super::{
    Failure,
    client::{Connection, Ended, Message, Patience, Place},
    printed,
    printer::{Printer, shown},
    run_client, tell,
};

/// The first wait after a connection is lost; each further one may be twice as long.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What `sub` takes.
#[derive(Debug, Args)]
pub(super) struct SubArgs {
    /// Topics, or filters with + for one level and # for all that follow.
    #[arg(required = true)]
    filters: Vec<String>,
    /// The broker; unix:/run/fanfare/ws.sock where it listens on a Unix socket.
    #[arg(long, env = "FANFARE_URL", default_value = "ws://127.0.0.1:7600/ws")]
    url: String,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print only the data, without topic and seq.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    patience: Patience,
}

/// How one connection came to its end.
enum Outcome {
    /// All that was asked for is printed, or nobody reads it any more.
    Done,
    /// It could not be printed.
    Unprinted(io::Error),
    /// It is over.
    Ended(Ended),
    /// The broker does not take our subscription: trying again would not help.
    Refused(String),
}

/// Prints messages until `--count`, a signal or an end that no retry can mend.
pub(super) fn subscribe(args: SubArgs) -> Result<(), Failure> {
    let place = Place::parse(&args.url)?;
    run_client(async move {
        let mut printer = Printer::new(args.raw, args.count.unwrap_or(u64::MAX));
        let mut wait = WAIT_MIN;
        let mut was_connected = false;
        loop {
            let ended = match Connection::open(&place, args.patience.time_max()).await {
                Ok(connection) => {
                    if was_connected {
                        tell("connected again; what was published in between is not replayed");
                    }
                    was_connected = true;
                    let since = Instant::now();
                    let outcome = follow(connection, &args, &mut printer).await;
                    // A broker that takes connections only to end them is not hurried.
                    if since.elapsed() > wait {
                        wait = WAIT_MIN;
                    }
                    match outcome {
                        Outcome::Done => return Ok(()),
                        Outcome::Unprinted(error) => return printed(Err(error)),
                        Outcome::Refused(line) => return Err(Failure::Run(line)),
                        Outcome::Ended(ended) => ended,
                    }
                }
                Err(ended) => ended,
            };
            let Some(retry_after) = ended.retry_after() else { return Err(Failure::Run(ended.to_string())) };
            // Half of it by chance: clients that lost the same broker do not come back in step.
            let pause = retry_after + wait.mul_f64(0.5 + 0.5 * random_share());
            tell(format_args!("{ended}; trying again in {:.1} s", pause.as_secs_f64()));
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    })
}

/// Subscribes and prints until the connection or the count comes to its end.
async fn follow(mut connection: Connection, args: &SubArgs, printer: &mut Printer) -> Outcome {
    let sender = connection.sender();
    let time_max = args.patience.time_max();
    let deadline = Instant::now() + time_max;
    let mut unanswered_count = args.filters.len();
    for (index, filter) in args.filters.iter().enumerate() {
        let topic = serde_json::to_string(filter).expect("a string is JSON");
        let command = format!(r#"{{"op":"subscribe","topic":{topic},"id":{index}}}"#);
        if let Err(ended) = sender.send_text(command).await {
            return Outcome::Ended(ended);
        }
    }
    while printer.left > 0 {
        let receiving = receive(&mut connection, printer);
        let received = match unanswered_count {
            0 => receiving.await,
            _ => timeout_at(deadline.into(), receiving).await.unwrap_or_else(|_| {
                let waited = time_max.as_secs();
                Err(Ended::Broken(format!(
                    "no answer to {unanswered_count} subscribe commands for {waited} s"
                )))
            }),
        };
        let text = match received {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return Outcome::Unprinted(error),
            Err(ended) => return Outcome::Ended(ended),
        };
        let message = match Message::parse(&text) {
            Ok(message) => message,
            Err(ended) => return Outcome::Ended(ended),
        };
        match &*message.op {
            "message" => {
                if let Err(error) = printer.print(&message) {
                    return Outcome::Unprinted(error);
                }
            }
            "gap" => tell(gap_line(&message)),
            "ok" => {
                unanswered_count = unanswered_count.saturating_sub(1);
                if !message.hint.is_empty() {
                    tell(format_args!("{}: {}", shown(&message.topic), message.hint));
                }
            }
            "error" if message.refused_op == "subscribe" => return Outcome::Refused(message.error_line()),
            "error" => tell(message.error_line()),
            // Clients pass over what they do not know.
            _ => {}
        }
    }
    let flushed = printer.out.flush();
    connection.close().await;
    flushed.map_or_else(Outcome::Unprinted, |()| Outcome::Done)
}

/// The next message. What was printed is flushed only when there is none yet, so that a burst costs one
/// write. The inner error is that of printing.
async fn receive(
    connection: &mut Connection,
    printer: &mut Printer,
) -> Result<io::Result<Payload<'static>>, Ended> {
    let mut receiving = pin!(connection.receive());
    let at_once = future::poll_fn(|context| match receiving.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    });
    if let Some(result) = at_once.await {
        return result.map(Ok);
    }
    if let Err(error) = printer.out.flush() {
        return Ok(Err(error));
    }
    receiving.await.map(Ok)
}

fn gap_line(message: &Message<'_>) -> String {
    let topic = shown(&message.topic);
    match (message.from, message.to) {
        (Some(from), Some(to)) => format!("gap in {topic}: {from} to {to} are lost ({})", message.reason),
        _ => format!("gap in {topic}: an unknown number of messages is lost ({})", message.reason),
    }
}

/// Between 0 and 1, from the keys that every `RandomState` is born with.
fn random_share() -> f64 {
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}
