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
    course::Course,
    interrupt::Interrupt,
    login::Login,
    printed,
    printer::{Columns, Printer, shown},
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
    /// Begin with the newest N of what each topic keeps; with --since, where that is gone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    last: Option<u32>,
    /// Begin after this message of the topic, or this moment of all that the filter matches: `next: --since …` is told at the
    /// end for another time.
    #[arg(long, value_name = "PLACE")]
    since: Option<String>,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    columns: Columns,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    patience: Patience,
}

impl SubArgs {
    /// Whether it begins with what was published before, and goes on from there when it comes back.
    fn is_about_the_past(&self) -> bool {
        self.since.is_some() || self.last.is_some()
    }
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
    let courses = courses(&args)?;
    run_client(async move {
        let mut subscriber = Subscriber::new(&args, courses);
        if !args.is_about_the_past() {
            return subscriber.run(&place).await;
        }
        // By default a signal ends the process: not before it is told where to go on from.
        let interrupt = Interrupt::register();
        let mut interrupt =
            interrupt.map_err(|error| Failure::Run(format!("cannot handle signals: {error}")))?;
        let result = tokio::select! {
            biased;
            code = interrupt.raised() => Err(Failure::Told(code)),
            result = subscriber.run(&place) => result,
        };
        if let Err(error) = subscriber.printer.out.flush() {
            // Where to go on from is where the reader left off, and that it alone knows.
            return printed(Err(error));
        }
        subscriber.tell_next();
        result
    })
}

/// Where each of what is subscribed to begins.
fn courses(args: &SubArgs) -> Result<Vec<Course>, Failure> {
    let SubArgs { filters, since, last, .. } = args;
    let not_allowed = |why| {
        Failure::Usage(format!("--since {} is not allowed here: {why}", since.as_deref().unwrap_or_default()))
    };
    if since.is_some() && filters.len() > 1 {
        return Err(not_allowed(format!(
            "it must be of one topic or filter, and there are {}",
            filters.len()
        )));
    }
    filters.iter().map(|filter| Course::new(filter, since.as_deref(), *last).map_err(not_allowed)).collect()
}

/// What is subscribed to, and how far each has come.
struct Subscriber<'a> {
    args: &'a SubArgs,
    printer: Printer,
    /// One of each filter.
    courses: Vec<Course>,
}

impl Subscriber<'_> {
    fn new(args: &SubArgs, courses: Vec<Course>) -> Subscriber<'_> {
        Subscriber { args, printer: Printer::new(args.columns, args.count.unwrap_or(u64::MAX)), courses }
    }

    /// Connects and follows, again and again.
    async fn run(&mut self, place: &Place) -> Result<(), Failure> {
        let mut wait = WAIT_MIN;
        let mut was_connected = false;
        loop {
            let ended = match Connection::open(place, self.args.login.token()?, self.args.patience.time_max())
                .await
            {
                Ok(connection) => {
                    if was_connected {
                        let is_resumed = self.courses.iter().all(Course::is_resumed);
                        tell(match is_resumed {
                            true => "connected again",
                            false => "connected again; what was published in between is not replayed",
                        });
                    }
                    was_connected = true;
                    let since = Instant::now();
                    let outcome = self.follow(connection).await;
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
    }

    /// Subscribes and prints until the connection or the count comes to its end.
    async fn follow(&mut self, mut connection: Connection) -> Outcome {
        let sender = connection.sender();
        let time_max = self.args.patience.time_max();
        let deadline = Instant::now() + time_max;
        let mut unanswered_count = self.args.filters.len();
        for (index, course) in self.courses.iter_mut().enumerate() {
            if let Err(ended) = sender.send_text(course.command(index)).await {
                return Outcome::Ended(ended);
            }
        }
        while self.printer.left > 0 {
            let receiving = receive(&mut connection, &mut self.printer);
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
                    if let Err(error) = self.printer.print(&message) {
                        return Outcome::Unprinted(error);
                    }
                    self.advance(&connection.epoch, &message.topic, message.seq);
                }
                "gap" => {
                    tell(gap_line(&message));
                    self.advance(&connection.epoch, &message.topic, message.to);
                }
                "ok" => {
                    unanswered_count = unanswered_count.saturating_sub(1);
                    if !message.hint.is_empty() {
                        tell(format_args!("{}: {}", shown(&message.topic), message.hint));
                    }
                    let index = message.id.and_then(|id| id.get().parse::<usize>().ok());
                    let course = index.and_then(|index| self.courses.get_mut(index));
                    course.and_then(|course| course.begin(&message)).into_iter().for_each(tell);
                }
                "replayed" => {
                    let told = self.courses.iter_mut().filter_map(|course| course.finish_past(&message));
                    told.for_each(tell);
                }
                "error" if message.refused_op == "subscribe" => {
                    return Outcome::Refused(message.error_line());
                }
                "error" => tell(message.error_line()),
                // Clients pass over what they do not know.
                _ => {}
            }
        }
        let flushed = self.printer.out.flush();
        connection.close().await;
        flushed.map_or_else(Outcome::Unprinted, |()| Outcome::Done)
    }

    /// Goes on to this `seq` of a topic.
    fn advance(&mut self, epoch: &str, topic: &str, seq: Option<u64>) {
        let Some(seq) = seq else { return };
        self.courses.iter_mut().for_each(|course| course.advance(epoch, topic, seq));
    }

    /// Tells what to begin with another time so that nothing is missing and nothing comes twice.
    fn tell_next(&self) {
        if let [course] = &self.courses[..] {
            course.next().iter().flat_map(|next| next.lines()).for_each(tell);
        }
    }
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
