//! The conversation in which a running broker hands its listeners to its successor.
//!
//! Over the control socket, a line each:
//!
//! | who | says | means |
//! |---|---|---|
//! | successor | `takeover 1` | send me your listeners (the number is this protocol's) |
//! | broker | `listeners N admin M`, with the descriptors | they are yours too; I still serve |
//! | successor | `ready` | all that can fail has not: close your connections |
//! | broker | `done` | I have no connection any more: accept |
//!
//! Until `done` the broker takes its service up again if the successor goes away. Once it has said `ready`
//! the successor accepts when `done` comes, or the broker's end of the socket closes, which it does by ending:
//! a broker that goes on says `refused` and why instead of its next line.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Write},
    mem::{ManuallyDrop, MaybeUninit},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::{
    cmsg_space,
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
    },
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::UnixStream,
    sync::oneshot,
    time::timeout,
};
use tracing::warn;

use super::{activation::Inherited, socket::is_same_user};

const REQUEST: &str = "takeover 1";
const READY: &str = "ready";
const DONE: &str = "done";
/// The longest line, its end included.
const LINE_BYTES_MAX: usize = 256;
/// The kernel takes at most 253 descriptors in one message.
const DESCRIPTORS_MAX: usize = 253;
/// From the connection to the request, and from that to the descriptors.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the descriptors to `ready`: the successor makes its rings.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The broker that runs, as its successor sees it.
#[derive(Debug)]
pub struct Predecessor {
    stream: BufReader<StdUnixStream>,
}

impl Predecessor {
    /// Asks the broker at `path` for its listeners. It goes on serving.
    ///
    /// # Errors
    /// A sentence that says why there are none: nobody is there, or it refuses.
    pub fn meet(path: &Path) -> Result<(Predecessor, Inherited), String> {
        Predecessor::meet_within(path, ANSWER_TIMEOUT)
    }

    fn meet_within(path: &Path, limit: Duration) -> Result<(Predecessor, Inherited), String> {
        let at = path.display();
        let failed =
            |error: io::Error| format!("the broker at control.socket = \"{at}\" does not answer: {error}");
        let mut stream = connect(path, limit).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => failed(error),
            _ => format!(
                "there is no broker to take over from at control.socket = \"{at}\": {error}; \
                 start the first one without --takeover"
            ),
        })?;
        if !is_same_user(&stream) {
            return Err(format!("the broker at control.socket = \"{at}\" is another user's"));
        }
        // One that refuses at once has closed its end already; what it said is there.
        let asked = stream.write_all(format!("{REQUEST}\n").as_bytes());
        let (line, mut descriptors) = receive_descriptors(&stream).map_err(failed)?;
        let Some((listener_count, admin_count)) = parse_offer(&line) else {
            asked.map_err(failed)?;
            return Err(unexpected(&line));
        };
        if listener_count + admin_count != descriptors.len() || admin_count > 1 {
            return Err(format!("the broker says `{line}` and sends {} descriptors", descriptors.len()));
        }
        let admin = descriptors.split_off(listener_count).pop();
        let inherited = Inherited { listeners: descriptors, admin };
        Ok((Predecessor { stream: BufReader::new(stream) }, inherited))
    }

    /// Tells it that everything is ready, so that it closes its connections.
    pub fn tell_ready(&self) {
        // One that has ended meanwhile is met again by `wait_until_done`.
        let _ = self.stream.get_ref().write_all(format!("{READY}\n").as_bytes());
    }

    /// Returns when it has no connection any more, or has ended.
    ///
    /// # Errors
    /// A sentence: it goes on serving, and says why.
    pub fn wait_until_done(mut self) -> Result<(), String> {
        let mut line = String::new();
        let read =
            self.stream.get_ref().set_read_timeout(None).and_then(|()| self.stream.read_line(&mut line));
        match (read, line.trim_end()) {
            (Ok(_), DONE) => Ok(()),
            (Ok(0) | Err(_), _) => {
                warn!("the broker to take over from ended before it had closed its connections");
                Ok(())
            }
            (Ok(_), line) => Err(unexpected(line)),
        }
    }
}

/// A process that has our listeners and is ready to accept from them.
#[derive(Debug)]
pub(super) struct Successor {
    /// Its end tells the successor that this process has ended, so that nothing but that closes it, or
    /// [`Successor::refuse`]: a drop does not.
    stream: ManuallyDrop<UnixStream>,
    /// Its drop tells the server of the control socket that it may serve the next one.
    _turn: oneshot::Sender<()>,
}

impl Successor {
    /// Talks to whoever connected until it is ready. `offer` gives the descriptors when they are asked for.
    /// The receiver resolves when the successor is dropped.
    ///
    /// # Errors
    /// A sentence for the log: it is no successor, or went away.
    pub async fn meet(
        stream: UnixStream,
        offer: impl FnOnce() -> io::Result<Inherited>,
    ) -> Result<(Successor, oneshot::Receiver<()>), String> {
        let (turn, is_over) = oneshot::channel();
        let mut successor = Successor { stream: ManuallyDrop::new(stream), _turn: turn };
        match Successor::converse(&mut successor.stream, offer).await {
            Ok(()) => Ok((successor, is_over)),
            Err(why) => {
                successor.refuse(&why);
                Err(why)
            }
        }
    }

    async fn converse(
        stream: &mut UnixStream,
        offer: impl FnOnce() -> io::Result<Inherited>,
    ) -> Result<(), String> {
        if !is_same_user(&*stream) {
            return Err("it is another user's".into());
        }
        expect_line(stream, REQUEST, ANSWER_TIMEOUT).await?;
        let Inherited { listeners, admin } = offer().map_err(|error| error.to_string())?;
        if listeners.is_empty() {
            return Err("the broker is stopping".into());
        }
        let line = format!("listeners {} admin {}\n", listeners.len(), admin.iter().len());
        let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().chain(&admin).map(AsFd::as_fd).collect();
        let sent = stream.async_io(Interest::WRITABLE, || send_descriptors(&*stream, &line, &descriptors));
        sent.await.map_err(|error| format!("the listeners could not be sent: {error}"))?;
        expect_line(stream, READY, READY_TIMEOUT).await
    }

    /// Whether it has gone away: the kernel is asked, for the runtime may not have heard yet.
    pub fn is_gone(&self) -> bool {
        !self.look().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Returns when it has gone away.
    pub async fn gone(&self) {
        // However that ends, there is nobody to talk to.
        let _ = self.stream.async_io(Interest::READABLE, || self.look()).await;
    }

    /// Tells it to accept; false if it has gone away.
    pub fn tell_done(&self) -> bool {
        !self.is_gone() && self.say(&format!("{DONE}\n"))
    }

    /// The broker goes on: should somebody be there after all, he must not take the end of the socket for the
    /// broker's.
    pub fn refuse(self, why: &str) {
        self.say(&format!("refused {why}\n"));
        drop(ManuallyDrop::into_inner(self.stream));
    }

    /// Looks for its end: it has nothing more to say, so that whatever comes is one.
    fn look(&self) -> io::Result<()> {
        recv(&*self.stream, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
        Ok(())
    }

    /// Whether the line was taken: it never waits, for little is said.
    fn say(&self, line: &str) -> bool {
        send(&*self.stream, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }
}

/// A connection whose making, reading and writing each wait for `limit` at most.
fn connect(path: &Path, limit: Duration) -> io::Result<StdUnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_read_timeout(Some(limit))?;
    // The connect's too, which waits while the other's queue is full.
    socket.set_write_timeout(Some(limit))?;
    let address = SockAddr::unix(path)?;
    while let Err(error) = socket.connect(&address) {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(OwnedFd::from(socket).into())
}

fn parse_offer(line: &str) -> Option<(usize, usize)> {
    let (listeners, admin) = line.strip_prefix("listeners ")?.split_once(" admin ")?;
    Some((listeners.parse().ok()?, admin.parse().ok()?))
}

fn unexpected(line: &str) -> String {
    match line.strip_prefix("refused ") {
        Some(why) => format!("the running broker goes on: {why}"),
        None => {
            format!("the running broker says `{}`, which this version does not know", line.escape_debug())
        }
    }
}

/// Reads a line and holds it to what is due.
async fn expect_line(stream: &mut UnixStream, due: &str, limit: Duration) -> Result<(), String> {
    let mut line = Vec::new();
    let read = async {
        // Byte by byte, so that nothing is taken that follows: there is little.
        while !line.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
            line.push(stream.read_u8().await?);
        }
        Ok::<(), io::Error>(())
    };
    match timeout(limit, read).await {
        Err(_) => Err(format!("`{due}` did not come within {} s", limit.as_secs())),
        Ok(Err(_)) => Err(format!("it went away before `{due}`")),
        Ok(Ok(())) if line.strip_suffix(b"\n") == Some(due.as_bytes()) => Ok(()),
        Ok(Ok(())) => Err(format!("`{due}` is due, not `{}`", line.escape_ascii())),
    }
}

fn send_descriptors(stream: impl AsFd, line: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other(format!("more than {DESCRIPTORS_MAX} listeners")));
    }
    let sent = sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    // The first bytes in an empty socket buffer.
    assert_eq!(sent, line.len(), "a short line is sent whole");
    Ok(())
}

/// A line, without its end, and the descriptors that came with it.
fn receive_descriptors(stream: &StdUnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; LINE_BYTES_MAX];
    // A wait with a timeout is interrupted by what a ring's end leaves to do, too.
    let received = retry_on_intr(|| {
        recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::Error::other("it closed the connection"));
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "there is no room for all of its descriptors: raise the limit of open files",
        ));
    }
    let line = str::from_utf8(&bytes[..received.bytes]).ok().and_then(|line| line.strip_suffix('\n'));
    match line {
        Some(line) => Ok((line.to_owned(), descriptors)),
        None => Err(io::Error::other("it sent what is no line")),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{net::UnixListener, thread::JoinHandleExt},
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use rustix::thread::gettid;

    use super::{
        super::socket::tests::{directory, stuck},
        *,
    };

    /// The signal comes while the broker thinks about its answer.
    #[test]
    fn a_signal_is_no_answer() {
        let directory = directory("signal");
        let path = directory.join("control");
        let broker = UnixListener::bind(&path).unwrap();
        let is_interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&is_interrupted)).unwrap();
        let (said, id) = std::sync::mpsc::channel();
        let successor = thread::spawn(move || {
            said.send(gettid()).unwrap();
            Predecessor::meet(&path)
        });
        let (mut stream, _) = broker.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let state = format!("/proc/self/task/{}/stat", id.recv().unwrap());
        while !fs::read_to_string(&state).unwrap().contains(") S ") {
            thread::yield_now();
        }
        // SAFETY: the thread waits for us, so it is there.
        unsafe { libc::pthread_kill(successor.as_pthread_t(), libc::SIGUSR1) };
        while !is_interrupted.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // One that has taken it for an answer says so below.
        let _ = stream.write_all(b"refused because\n");
        let error = successor.join().unwrap().unwrap_err();
        assert_eq!(error, "the running broker goes on: because");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_broker_that_is_stuck_is_not_waited_for_without_end() {
        let directory = directory("meeting");
        let path = directory.join("control");
        let _stuck = stuck(&path);
        let error = Predecessor::meet_within(&path, Duration::from_millis(1)).unwrap_err();
        assert!(error.contains("does not answer"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
