//! Who may do what: which topics a client may publish to and read, decided without a descriptor or a clock.
//!
//! What is not granted is not allowed, and a subscription is granted only if all that its filter can match is: so nothing has to
//! be asked again as publications come.

pub mod pattern;
