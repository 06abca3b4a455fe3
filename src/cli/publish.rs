//! `fanfare pub`: one publication from the command line, or one per line of stdin.

use std::{
    cell::Cell,
    future,
    pin::pin,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin},
    sync::{Notify, Semaphore},
};

use super::{
    Failure,
    client::{Connection, Ended, Message, Patience, Place, Sender},
    login::Login,
    print, run_client, tell,
};

/// How many publications may be without their reply.
const WINDOW: usize = 256;
/// The longest line of stdin where the broker's limit is unknown or larger.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What `pub` takes.
#[derive(Debug, Args)]
pub(super) struct PubArgs {
    /// The topic.
    topic: String,
    /// JSON; without it, every line of stdin is published.
    #[arg(allow_hyphen_values = true)]
    data: Option<String>,
    /// The broker; unix:/run/fanfare/ws.sock where it listens on a Unix socket.
    #[arg(long, env = "FANFARE_URL", default_value = "ws://127.0.0.1:7600/ws")]
    url: String,
    /// Send DATA, or each line, as a JSON string instead of taking it for JSON.
    #[arg(long)]
    text: bool,
    /// Publish DATA once: what was published to the topic with the same key a while ago is not published again.
    #[arg(long, requires = "data")]
    key: Option<String>,
    /// Have each be kept as the topic's value, which new subscribers are sent first; null clears it.
    #[arg(long)]
    retain: bool,
    /// Print the seq of every publication, and whether it is one that was there already.
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    patience: Patience,
}

/// Publishes and returns when the broker has confirmed all of it.
pub(super) fn publish(args: PubArgs) -> Result<(), Failure> {
    let place = Place::parse(&args.url)?;
    // Before connecting: bad data is the caller's slip whether or not there is a broker.
    let data = match &args.data {
        Some(data) => Some(to_json(data, args.text).map_err(|error| {
            Failure::Usage(format!("DATA is not JSON ({error}): quote it as '\"…\"', or send it with --text"))
        })?),
        None => None,
    };
    run_client(async move {
        let time_max = args.patience.time_max();
        let opened = Connection::open(&place, args.login.token()?, time_max).await;
        let connection = opened.map_err(|ended| Failure::Run(ended.to_string()))?;
        let line_bytes_max = connection.message_bytes_max.min(LINE_BYTES_MAX);
        let publisher = Publisher::new(connection.sender(), &args.topic, args.key.as_deref(), args.retain);
        let sending = async {
            let sent = match &data {
                Some(data) => publisher.publish(data).await,
                None => publish_lines(&publisher, args.text, line_bytes_max).await,
            };
            // What went out is waited for even when the rest could not be read.
            publisher.finish().await;
            sent
        };
        let mut reading = pin!(publisher.read_replies(connection, args.verbose));
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            // It ends by itself only if the connection does.
            result = &mut reading => match result {
                Err(ended) => return Err(publisher.interrupted(&ended)),
                Ok(_) => unreachable!("the reader was not told to finish"),
            },
            () = publisher.wait_in_vain(time_max) => {
                let ended = Ended::Broken(format!("no answer for {} s", time_max.as_secs()));
                return Err(publisher.interrupted(&ended));
            }
        };
        // Everything is confirmed: a connection that is lost now loses nothing.
        if let Ok(connection) = reading.await {
            connection.close().await;
        }
        sent?;
        match publisher.refused_count.get() {
            0 => publisher.unprinted.take().map_or(Ok(()), Err),
            count => {
                let sent = publisher.sent_count.get();
                Err(Failure::Run(format!("{count} of {sent} publications were refused")))
            }
        }
    })
}

/// Publishes every line of stdin.
async fn publish_lines(publisher: &Publisher, is_text: bool, line_bytes_max: usize) -> Result<(), Failure> {
    let mut input = BufReader::new(stdin());
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        // One more than allowed: the line break, or what tells that it is too long.
        let read = (&mut input).take(line_bytes_max as u64 + 1).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(Failure::Run(format!("cannot read stdin: {error}"))),
        }
        let refused = |reason: String| Failure::Usage(format!("line {number} of stdin {reason}"));
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if text.len() > line_bytes_max {
            return Err(refused(format!("is longer than the broker's {line_bytes_max} bytes")));
        }
        let text = str::from_utf8(text).map_err(|_| refused("is not UTF-8".into()))?;
        if text.trim().is_empty() && !is_text {
            continue;
        }
        let data = to_json(text, is_text)
            .map_err(|error| refused(format!("is not JSON ({error}); --text sends lines as strings")))?;
        publisher.publish(&data).await?;
    }
    Ok(())
}

/// The publication's `data`: `text` as it is if it is JSON, or as a JSON string.
fn to_json(text: &str, is_text: bool) -> Result<String, serde_json::Error> {
    if is_text {
        return serde_json::to_string(text.strip_suffix('\r').unwrap_or(text));
    }
    serde_json::from_str::<&RawValue>(text).map(|value| value.get().to_owned())
}

/// Sends publications, at most [`WINDOW`] without a reply, and takes the replies.
struct Publisher {
    sender: Sender,
    /// The topic as JSON.
    topic: String,
    /// The members that say what else is asked.
    options: String,
    /// A permit is taken by a publication and given back by its reply.
    window: Semaphore,
    /// Every publication has its reply.
    finished: Notify,
    /// How many were sent; the id of the next one.
    sent_count: Cell<u64>,
    answered_count: Cell<u64>,
    /// When one was sent or answered last.
    progress: Cell<Instant>,
    refused_count: Cell<u64>,
    /// Why what was to be printed was not: told at the end, since publishing goes on.
    unprinted: Cell<Option<Failure>>,
}

impl Publisher {
    fn new(sender: Sender, topic: &str, key: Option<&str>, retain: bool) -> Self {
        let quoted = |text: &str| serde_json::to_string(text).expect("a string is JSON");
        let key = key.map(|key| format!(r#","key":{}"#, quoted(key))).unwrap_or_default();
        let retain = if retain { r#","retain":true"# } else { "" };
        Publisher {
            sender,
            topic: quoted(topic),
            options: key + retain,
            window: Semaphore::new(WINDOW),
            finished: Notify::new(),
            sent_count: Cell::new(0),
            answered_count: Cell::new(0),
            progress: Cell::new(Instant::now()),
            refused_count: Cell::new(0),
            unprinted: Cell::new(None),
        }
    }

    /// Sends one when there is room in the window.
    async fn publish(&self, data: &str) -> Result<(), Failure> {
        self.window.acquire().await.expect("the window is never closed").forget();
        let id = self.sent_count.get();
        self.sent_count.set(id + 1);
        let Publisher { topic, options, .. } = self;
        let command = format!(r#"{{"op":"publish","topic":{topic},"data":{data},"id":{id}{options}}}"#);
        if self.sender.send_text(command).await.is_err() {
            // The reader will find out too, and may find a close frame that says why.
            future::pending::<()>().await;
        }
        self.progress.set(Instant::now());
        Ok(())
    }

    fn unanswered_count(&self) -> u64 {
        self.sent_count.get() - self.answered_count.get()
    }

    /// Waits until publications have gone without an answer for `time_max`, though the connection lives.
    async fn wait_in_vain(&self, time_max: Duration) {
        loop {
            let waited = match self.unanswered_count() {
                0 => Duration::ZERO,
                _ => self.progress.get().elapsed(),
            };
            match time_max.checked_sub(waited) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }

    /// Waits until every publication has its reply, and tells the reader.
    async fn finish(&self) {
        let _whole = self.window.acquire_many(WINDOW as u32).await;
        self.finished.notify_one();
    }

    /// Takes replies until [`Publisher::finish`], and then gives the connection back.
    async fn read_replies(&self, mut connection: Connection, is_verbose: bool) -> Result<Connection, Ended> {
        loop {
            let text = tokio::select! {
                // This may drop a receive half-way, but of what no longer matters: all replies are here.
                () = self.finished.notified() => return Ok(connection),
                text = connection.receive() => text?,
            };
            let reply = Message::parse(&text)?;
            match &*reply.op {
                "ok" if is_verbose => self.print(reply.seq.unwrap_or(0), reply.duplicate),
                "error" => {
                    tell(reply.error_line());
                    self.refused_count.update(|count| count + 1);
                }
                _ => {}
            }
            // An error can be about nothing but a publication, even if it could not be read whose.
            if reply.id.is_some() || reply.op == "error" {
                self.answered_count.update(|count| count + 1);
                self.progress.set(Instant::now());
                self.window.add_permits(1);
            }
        }
    }

    fn print(&self, seq: u64, is_duplicate: bool) {
        let duplicate = if is_duplicate { " duplicate" } else { "" };
        if let Err(failure) = print(&format!("{seq}{duplicate}\n")) {
            self.unprinted.set(Some(failure));
        }
    }

    /// What to say when the connection ends too early.
    fn interrupted(&self, ended: &Ended) -> Failure {
        let unconfirmed = self.unanswered_count();
        let confirmed = self.answered_count.get() - self.refused_count.get();
        Failure::Run(format!("{ended}; {confirmed} publications were confirmed, {unconfirmed} were not"))
    }
}
