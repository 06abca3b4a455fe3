//! A healthy subscriber to a topic of its own, which is published to steadily: whatever others do to the
//! broker meanwhile, it must lose nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;

use super::{Broker, raw::Raw};

/// Publications at a time.
const ROUND: u64 = 5;
/// Between two rounds: a pace, so that the machine has time for what the test is about.
const PAUSE: Duration = Duration::from_millis(1);

pub struct Witness {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Witness {
    /// Starts it on two connections of its own. The first publications have been delivered when this returns.
    pub fn start(broker: &Broker) -> Witness {
        let is_over = Arc::new(AtomicBool::new(false));
        let (address, is_over_too) = (broker.address, is_over.clone());
        let (sender, began) = mpsc::channel();
        let thread = thread::spawn(move || watch(address, &is_over_too, &sender));
        began.recv().expect("the first round");
        Witness { is_over, thread }
    }

    /// Ends it after one more round, in which as before every publication came once, in order.
    pub fn finish(self) {
        self.is_over.store(true, Ordering::SeqCst);
        let seq = self.thread.join().expect("the witness lost nothing");
        assert!(seq >= 2 * ROUND);
    }
}

fn watch(address: SocketAddr, is_over: &AtomicBool, began: &mpsc::Sender<()>) -> u64 {
    let (mut subscriber, mut publisher) = (Raw::open(address), Raw::open(address));
    let ok = subscriber.ask(r#"{"op":"subscribe","topic":"witness","id":1}"#);
    let epoch = &ok["epoch"];
    assert_eq!(ok, json!({"op": "ok", "id": 1, "topic": "witness", "seq": 0, "epoch": epoch}));
    let mut seq = 0;
    loop {
        let is_last = is_over.load(Ordering::SeqCst);
        for number in seq + 1..=seq + ROUND {
            publisher.send_text(&format!(r#"{{"op":"publish","topic":"witness","data":{number}}}"#));
        }
        for number in seq + 1..=seq + ROUND {
            let expected = format!(r#"{{"op":"message","topic":"witness","seq":{number},"data":{number}}}"#);
            assert_eq!(subscriber.receive_text(), expected);
        }
        seq += ROUND;
        // Whoever started it may have failed meanwhile.
        let _ = began.send(());
        if is_last {
            subscriber.close();
            publisher.close();
            return seq;
        }
        thread::sleep(PAUSE);
    }
}
