//! The control thread's guest: publishing and subscribing for whoever has no connection of a reactor.
//!
//! [`GuestClient`] is what others ask, from any task; one task, which comes with it, goes round with the guest. A
//! lock is between the two, which nobody holds over an await: what it guards takes microseconds, and is bounded by a turn.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::{Notify, oneshot},
};

use crate::{
    protocol::{
        command::PayloadKind,
        topic::{Filter, TopicName},
    },
    pubsub::message::PendingId,
    reactor::{
        GuestSeat,
        guest::{Answer, Guest, ListenerId, Missed, NotAsked},
    },
};

/// How soon it tries again to ask a home that had no room.
const RETRY: Duration = Duration::from_millis(1);
/// How often it looks for what goes by time: views that went quiet, log that must go.
const PERIOD: Duration = Duration::from_millis(250);
/// How often while a listener has not taken all: the log that it keeps may come to be short.
const BEHIND_PERIOD: Duration = Duration::from_millis(10);
/// Why the lock is not poisoned.
const LOCK_HELD: &str = "nobody panics with the guest locked";

/// Whoever asks the guest; clones ask the same one.
#[derive(Clone)]
pub struct GuestClient {
    shared: Arc<Shared>,
}

/// A listener: closed when it is dropped.
pub struct Listening {
    id: ListenerId,
    client: GuestClient,
    signs: Arc<Signs>,
}

/// What a listener is shown.
#[derive(Default)]
struct Signs {
    /// It has something to take, or is closed.
    ready: Notify,
    is_closed: AtomicBool,
}

struct Shared {
    /// Whatever comes of what the guest is asked is handed over before it is let go of.
    state: Mutex<State>,
    /// Something was asked.
    asked: Notify,
}

struct State {
    guest: Guest,
    /// Who waits for the answer to a question, unless they gave up.
    waiting: BTreeMap<PendingId, oneshot::Sender<Answer>>,
    /// By slot; of closed ones as well, until the slot is another's.
    listeners: HashMap<u32, (ListenerId, Arc<Signs>)>,
}

impl GuestClient {
    /// The guest in `seat`, and the task that goes round with it for as long as it is polled; it has reactors woken by
    /// `wake`.
    pub fn new(
        seat: GuestSeat,
        wake: impl Fn(usize),
    ) -> (GuestClient, impl Future<Output = std::io::Result<()>>) {
        let GuestSeat { guest, woken } = seat;
        let state = State { guest, waiting: BTreeMap::new(), listeners: HashMap::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), asked: Notify::new() });
        (GuestClient { shared: shared.clone() }, run(shared, woken, wake))
    }

    /// Publishes, and comes back when the publication has its place: [`Answer::Published`], with the number of its receivers
    /// if `receivers` asks for it; or with [`Answer::Refused`].
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was published.
    pub async fn publish(
        &self,
        topic: TopicName<&str>,
        payload: &[u8],
        kind: PayloadKind,
        receivers: bool,
    ) -> Result<Answer, NotAsked> {
        self.ask(|guest| guest.publish(topic, payload, kind, receivers)).await
    }

    /// A new listener; none while there are as many as may be ([`crate::reactor::guest::LISTENERS_MAX`]).
    pub fn listen(&self) -> Option<Listening> {
        let mut state = self.state();
        let id = state.guest.open()?;
        let signs = Arc::new(Signs::default());
        state.listeners.insert(id.slot, (id, signs.clone()));
        Some(Listening { id, client: self.clone(), signs })
    }

    async fn ask(
        &self,
        ask: impl FnOnce(&mut Guest) -> Result<PendingId, NotAsked>,
    ) -> Result<Answer, NotAsked> {
        let answer = {
            let mut state = self.state();
            let question = ask(&mut state.guest)?;
            let (sender, answer) = oneshot::channel();
            let before = state.waiting.insert(question, sender);
            assert!(before.is_none(), "an answer is handed over before its id is another question's");
            state.dispatch();
            answer
        };
        self.shared.asked.notify_one();
        Ok(answer.await.expect("every question is answered"))
    }

    /// Has the guest do something that may let others' questions be answered.
    fn act<T>(&self, act: impl FnOnce(&mut Guest) -> T) -> T {
        let mut state = self.state();
        let done = act(&mut state.guest);
        state.dispatch();
        done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect(LOCK_HELD)
    }
}

impl Listening {
    /// Subscribes to a topic or a filter; see [`Guest::subscribe`].
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was asked.
    pub async fn subscribe(&self, filter: Filter<&str>) -> Result<Answer, NotAsked> {
        self.client.ask(|guest| guest.subscribe(self.id, filter)).await
    }

    /// Takes a subscription back; see [`Guest::unsubscribe`]. Somebody has to go on taking: the answer comes behind what is
    /// owed.
    ///
    /// # Errors
    /// [`NotAsked`]: nothing was asked.
    pub async fn unsubscribe(&self, filter: Filter<&str>) -> Result<Answer, NotAsked> {
        self.client.ask(|guest| guest.unsubscribe(self.id, filter)).await
    }

    /// Waits until the listener is owed something, and takes it, or a part of it: the records
    /// ([`crate::reactor::guest::ENCODING`]) are added to `records`, and what it missed before them is told. None: the
    /// listener was closed, and whoever wants more begins again.
    pub async fn take(&self, records: &mut Vec<u8>) -> Option<Missed> {
        while !self.signs.is_closed.load(Ordering::Relaxed) {
            let missed = self.client.act(|guest| guest.take(self.id, records));
            // What taking asks of homes goes with the next turn.
            self.client.shared.asked.notify_one();
            if missed.is_some() {
                return missed;
            }
            self.signs.ready.notified().await;
        }
        None
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.client.act(|guest| guest.close(self.id));
        self.client.shared.asked.notify_one();
    }
}

impl State {
    /// Hands over what came of a turn, or of asking.
    fn dispatch(&mut self) {
        for (question, answer) in self.guest.answers.drain(..) {
            if let Some(sender) = self.waiting.remove(&question) {
                // Whoever asked may have gone: then nobody wants the answer.
                let _ = sender.send(answer);
            }
        }
        let ready = self.guest.ready.drain(..).map(|id| (id, false));
        for (id, is_closed) in ready.chain(self.guest.closed.drain(..).map(|id| (id, true))) {
            if let Some((_, signs)) = self.listeners.get(&id.slot).filter(|(of, _)| *of == id) {
                signs.is_closed.fetch_or(is_closed, Ordering::Relaxed);
                signs.ready.notify_one();
            }
        }
    }
}

/// Goes round with the guest: a turn, and when there is nothing to do a sleep that reactors and whoever asks end.
async fn run(
    shared: Arc<Shared>,
    woken: std::os::unix::net::UnixStream,
    wake: impl Fn(usize),
) -> std::io::Result<()> {
    woken.set_nonblocking(true)?;
    let mut woken = UnixStream::from_std(woken)?;
    let begun = Instant::now();
    let mut wakes = Vec::new();
    let mut bytes = [0; 64];
    loop {
        let pause = {
            let mut state = shared.state.lock().expect(LOCK_HELD);
            let has_more = state.guest.turn(begun.elapsed().as_nanos() as u64, &mut wakes);
            state.dispatch();
            let is_asleep = !has_more && state.guest.announce_sleep();
            is_asleep.then(|| match (state.guest.is_posted(), state.guest.is_behind()) {
                (false, _) => RETRY,
                (true, true) => BEHIND_PERIOD,
                (true, false) => PERIOD,
            })
        };
        wakes.drain(..).for_each(&wake);
        let Some(pause) = pause else {
            tokio::task::yield_now().await;
            continue;
        };
        tokio::select! {
            read = woken.read(&mut bytes) => if read? == 0 { return Ok(()) },
            () = shared.asked.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        shared.state.lock().expect(LOCK_HELD).guest.announce_awake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::{
        config::Config,
        protocol::frame,
        reactor::{Prepared, Reactors, admission::listeners::Listeners, guest::LISTENERS_MAX},
        uring::ring::{Ring, RingConfig},
    };

    fn topic(name: &str) -> TopicName<&str> {
        TopicName::checked(name)
    }

    fn filter_of(text: &str) -> Filter<&str> {
        Filter::parse(text).expect("a filter")
    }

    /// The texts of whole frames.
    fn texts(mut records: &[u8]) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(payload) = frame::server_payload(records) {
            texts.push(String::from_utf8(records[payload.clone()].to_vec()).unwrap());
            records = &records[payload.end..];
        }
        assert!(records.is_empty(), "records are whole");
        texts
    }

    /// So many real reactors, if this machine has rings for them.
    fn reactors(count: usize) -> Option<Arc<Reactors>> {
        if let Err(error) = Ring::new(RingConfig::default()) {
            println!("skipped: {error}");
            return None;
        }
        let mut config = Config::default();
        config.reactor.count = count;
        config.reactor.pin = false;
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        let config = Arc::new(config);
        let listeners = Listeners::bind(&config, count).unwrap();
        Some(Arc::new(Prepared::new(config, None, listeners).unwrap().start(&Arc::default()).unwrap()))
    }

    fn block_on(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    }

    /// Two real reactors that sleep whenever they can: every question wakes one, and every answer the guest.
    #[test]
    fn a_guest_publishes_and_hears_over_real_reactors() {
        let Some(reactors) = reactors(2) else { return };
        let seat = reactors.take_guest().expect("it was not taken");
        assert!(reactors.take_guest().is_none(), "there is one");
        let waker = reactors.clone();
        block_on(async move {
            let (client, run) = GuestClient::new(seat, move |index| assert!(waker.wake(index)));
            let task = tokio::spawn(run);
            let listening = client.listen().unwrap();
            let started = listening.subscribe(filter_of("room/#")).await;
            assert_eq!(started, Ok(Answer::Subscribed { seq: None }));
            let by_name = client.listen().unwrap();
            assert_eq!(by_name.subscribe(filter_of("room/1")).await, Ok(Answer::Subscribed { seq: Some(0) }));
            assert_eq!(by_name.subscribe(filter_of("room/1")).await, Ok(Answer::AlreadySubscribed));
            for number in 0..8 {
                let name = format!("room/{number}");
                let data = format!("{{\"n\":{number}}}");
                let answer = client.publish(topic(&name), data.as_bytes(), PayloadKind::Json, true).await;
                assert_eq!(answer, Ok(Answer::Published { seq: 1, receivers: Some(0) }));
            }
            let mut records = Vec::new();
            while texts(&records).len() < 8 {
                assert_eq!(listening.take(&mut records).await, Some(Missed::default()));
            }
            let mut heard = texts(&records);
            heard.sort();
            let expected = |n| format!(r#"{{"op":"message","topic":"room/{n}","seq":1,"data":{{"n":{n}}}}}"#);
            assert_eq!(heard, (0..8).map(expected).collect::<Vec<_>>());
            records.clear();
            by_name.take(&mut records).await;
            assert_eq!(texts(&records), [expected(1)]);
            assert_eq!(
                by_name.unsubscribe(filter_of("room/1")).await,
                Ok(Answer::Unsubscribed(Missed::default()))
            );
            assert_eq!(by_name.unsubscribe(filter_of("room/1")).await, Ok(Answer::NotSubscribed));
            drop((listening, by_name));
            task.abort();
        });
    }

    /// Taking lets a listener leave what it takes the last of. Whoever asks right behind that may get the id that is free
    /// again, and has an answer of its own.
    #[test]
    fn an_answer_that_comes_of_taking_is_whose_it_is() {
        let Some(reactors) = reactors(1) else { return };
        let seat = reactors.take_guest().expect("it was not taken");
        block_on(async move {
            let (client, run) = GuestClient::new(seat, move |index| assert!(reactors.wake(index)));
            let task = tokio::spawn(run);
            let publish = || client.publish(topic("t"), b"1", PayloadKind::Json, false);
            let published = |seq| Ok(Answer::Published { seq, receivers: None });
            let listening = client.listen().unwrap();
            assert_eq!(listening.subscribe(filter_of("t")).await, Ok(Answer::Subscribed { seq: Some(0) }));
            assert_eq!(publish().await, published(1));
            let mut unsubscribed = std::pin::pin!(listening.unsubscribe(filter_of("t")));
            // The answer to what is asked behind it comes behind its mark.
            tokio::select! {
                biased;
                answer = &mut unsubscribed => panic!("{answer:?} before it has taken what it is owed"),
                answer = publish() => assert_eq!(answer, published(2)),
            }
            assert_eq!(listening.take(&mut Vec::new()).await, Some(Missed::default()));
            assert_eq!(publish().await, published(3));
            assert_eq!(unsubscribed.await, Ok(Answer::Unsubscribed(Missed::default())));
            task.abort();
        });
    }

    /// It sleeps until something is published; and a publication wakes a reactor, which sleeps by then.
    #[test]
    fn whoever_waits_to_take_is_woken_and_so_is_a_reactor() {
        let Some(reactors) = reactors(1) else { return };
        let seat = reactors.take_guest().expect("it was not taken");
        let wake_count = Arc::new(AtomicU32::new(0));
        let counted = wake_count.clone();
        block_on(async move {
            let (client, run) = GuestClient::new(seat, move |index| {
                counted.fetch_add(1, Ordering::Relaxed);
                assert!(reactors.wake(index));
            });
            let task = tokio::spawn(run);
            let listening = client.listen().unwrap();
            listening.subscribe(filter_of("t")).await.unwrap();
            let begun = Instant::now();
            while wake_count.load(Ordering::Relaxed) == 0 {
                assert!(begun.elapsed() < Duration::from_secs(30), "no reactor was ever woken");
                let mut records = Vec::new();
                let publish = client.publish(topic("t"), b"1", PayloadKind::Json, false);
                let (missed, published) = tokio::join!(listening.take(&mut records), publish);
                assert_eq!((missed, texts(&records).len()), (Some(Missed::default()), 1));
                published.unwrap();
            }
            task.abort();
        });
    }

    /// It is told to take, and finds that it is closed; whoever has its slot next is not.
    #[test]
    fn a_listener_that_was_closed_takes_nothing_and_makes_room() {
        let Some(reactors) = reactors(1) else { return };
        let seat = reactors.take_guest().expect("it was not taken");
        block_on(async move {
            let (client, _run) = GuestClient::new(seat, |_| {});
            for _ in 0..2 * LISTENERS_MAX {
                let first = client.listen().expect("those before were dropped");
                let id = first.id;
                drop(first);
                let second = client.listen().expect("likewise");
                assert_eq!(second.id.slot, id.slot);
                client.act(|guest| guest.closed.push(id));
                assert!(!second.signs.is_closed.load(Ordering::Relaxed));
                let close = async { client.act(|guest| guest.closed.push(second.id)) };
                let mut records = Vec::new();
                let (missed, ()) = tokio::join!(second.take(&mut records), close);
                assert_eq!(missed, None);
            }
        });
    }
}
