//! The control thread: admin HTTP, metrics and signals on tokio-uring.
