//! Publications before or between what is timed, each of them acknowledged.

use std::io::{Read, Write};

use crate::{
    connect::{self, Connected, Target},
    dialect::{Dialect, Message, Role},
    payload::{Payload, Stamp},
};

/// Publications that wait for their acknowledgement together, and their bytes.
const BATCH: u64 = 256;
const BATCH_BYTES: usize = 128 << 10;

/// A connection that publishes to fanfare's topics.
pub struct Feed {
    /// Whose topics they are, for whoever reads what went wrong.
    name: &'static str,
    dialect: Dialect,
    connected: Connected,
    bytes: Vec<u8>,
}

impl Feed {
    /// Connects and upgrades it.
    ///
    /// # Errors
    /// One line that names the broker.
    pub fn open(target: &Target, dialect: Dialect, name: &'static str) -> Result<Feed, String> {
        let mut opened = connect::connect(target, dialect, Role::Publisher(name), 0, 1)?;
        let connected = opened.pop().expect("one was asked for");
        Ok(Feed { name, dialect, connected, bytes: vec![0; 64 << 10] })
    }

    /// Publishes all of `publications`, by topic and stamp, in this order; `on_ok` gets the `seq` of each, in this order too.
    ///
    /// # Errors
    /// If one was refused, the connection ended, or what `on_ok` says.
    pub fn publish<T: AsRef<str>>(
        &mut self,
        payload: &Payload,
        publications: impl IntoIterator<Item = (T, Stamp)>,
        mut on_ok: impl FnMut(u64) -> Result<(), String>,
    ) -> Result<(), String> {
        let Feed { name, dialect, connected, bytes } = self;
        let mut publications = publications.into_iter().peekable();
        let (mut sent, mut acknowledged) = (0, 0);
        while publications.peek().is_some() {
            let mut batch = Vec::new();
            while sent - acknowledged < BATCH && batch.len() < BATCH_BYTES {
                let Some((topic, stamp)) = publications.next() else { break };
                let (text, filling) = payload.parts(stamp);
                sent += 1;
                let data = [&text[..], filling].concat();
                dialect.write_publish_with_id(topic.as_ref(), &data, sent, &mut batch);
            }
            connected.socket.write_all(&batch).map_err(|error| format!("publishing to {name}: {error}"))?;
            while acknowledged < sent {
                let len = connected.socket.read(bytes).map_err(|error| error.to_string())?;
                if len == 0 {
                    return Err(format!("closed after {acknowledged} publications to {name}"));
                }
                let mut on_message = |message: Message<'_>| match message {
                    Message::Ok { seq, .. } => {
                        acknowledged += 1;
                        on_ok(seq)
                    }
                    Message::Error(error) => {
                        Err(format!("publication {} to {name} was refused: {error}", acknowledged + 1))
                    }
                    _ => Ok(()),
                };
                connected.reader.feed(*dialect, &bytes[..len], &mut on_message)?;
            }
        }
        Ok(())
    }
}
