//! One subscription to a filter with some of its past, from its command to `replayed`.

use std::{
    io::{ErrorKind, Read, Write},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use super::check::Check;
use crate::{
    client::INTERRUPTED,
    clock,
    connect::{self, Connected, Target},
    dialect::{Beginning, Dialect, Message, Role},
    report::retained::Replay,
};

/// How long is waited for bytes before anything else is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long is listened for what must not come any more.
const LINGER_NS: u64 = 100_000_000;

/// Who subscribes.
pub struct Client {
    dialect: Dialect,
    connected: Connected,
    bytes: Vec<u8>,
}

impl Client {
    /// Connects and upgrades it.
    ///
    /// # Errors
    /// One line that names the broker.
    pub fn open(target: &Target, dialect: Dialect) -> Result<Client, String> {
        // Whoever publishes need not say to what before it does.
        let mut opened = connect::connect(target, dialect, Role::Publisher(""), 0, 1)?;
        let connected = opened.pop().expect("one was asked for");
        connected.socket.set_read_timeout(Some(LOOK)).map_err(|error| error.to_string())?;
        Ok(Client { dialect, connected, bytes: vec![0; 256 << 10] })
    }

    /// Subscribes, and reads until `replayed` has come, or `deadline_ns`.
    pub fn replay(
        &mut self,
        filter: &str,
        beginning: Beginning<'_>,
        check: &mut Check<'_>,
        deadline_ns: u64,
    ) -> Replay {
        let mut command = Vec::new();
        self.dialect.write_subscribe_from(filter, beginning, &mut command);
        let begun_ns = clock::now_ns();
        // One that is over is seen when it is read.
        let _ = self.connected.socket.write_all(&command);
        let read = self.read_until(check, |check, now_ns| check.is_over() || now_ns >= deadline_ns);
        let replay = check.replay(clock::now_ns() - begun_ns);
        match read {
            Err(trouble) => replay.with_trouble(trouble),
            Ok(()) if !check.is_over() => replay.with_trouble("replayed did not come in time".to_owned()),
            Ok(()) => replay,
        }
    }

    /// Listens for a while more; what came of it all, which took as long as before.
    pub fn linger(&mut self, check: &mut Check<'_>, before: Replay) -> Replay {
        let until_ns = clock::now_ns() + LINGER_NS;
        let read = self.read_until(check, |_, now_ns| now_ns >= until_ns);
        let after = Replay { ms: before.ms, ..check.replay(0) };
        [before.trouble, read.err()].into_iter().flatten().fold(after, Replay::with_trouble)
    }

    fn read_until(
        &mut self,
        check: &mut Check<'_>,
        is_over: impl Fn(&Check<'_>, u64) -> bool,
    ) -> Result<(), String> {
        let Client { dialect, connected, bytes } = self;
        while !is_over(check, clock::now_ns()) && !INTERRUPTED.load(SeqCst) {
            let len = match connected.socket.read(bytes) {
                Ok(0) => return Err("it was closed by the broker".to_owned()),
                Ok(len) => len,
                Err(error) if is_passing(error.kind()) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let mut on_message = |message: Message<'_>| {
                check.take(message);
                Ok(())
            };
            connected.reader.feed(*dialect, &bytes[..len], &mut on_message)?;
        }
        Ok(())
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
