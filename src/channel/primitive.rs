//! What the protocol is made of, which a model checker replaces by what it can see into
//! (`--cfg fanfare_loom`).

#[cfg(not(fanfare_loom))]
pub(super) use {
    crossbeam::queue::ArrayQueue,
    std::sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(fanfare_loom)]
pub(super) use {
    loom::sync::atomic::{AtomicU32, AtomicU64, Ordering},
    model::ArrayQueue,
};

#[cfg(fanfare_loom)]
mod model {
    use std::collections::VecDeque;

    use loom::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    /// A queue that promises less than crossbeam's, so that what holds with it holds with that: who looks
    /// whether it is empty, and who finds it so, learns nothing from its sender, and may look at a past.
    #[derive(Debug)]
    pub(in crate::channel) struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        len: AtomicUsize,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(in crate::channel) fn new(capacity: usize) -> Self {
            ArrayQueue { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0), capacity }
        }

        pub(in crate::channel) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock().expect("no thread of a model panics");
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            self.len.store(items.len(), Ordering::Relaxed);
            Ok(())
        }

        pub(in crate::channel) fn pop(&self) -> Option<T> {
            if self.is_empty() {
                return None;
            }
            let mut items = self.items.lock().expect("no thread of a model panics");
            let item = items.pop_front();
            self.len.store(items.len(), Ordering::Relaxed);
            item
        }

        pub(in crate::channel) fn is_empty(&self) -> bool {
            self.len.load(Ordering::Relaxed) == 0
        }
    }
}
