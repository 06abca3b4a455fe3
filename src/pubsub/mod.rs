//! Topics, their order and their logs, and who is owed what: pure, per reactor.
//!
//! Each reactor has one [`home::Home`], which orders the publications of the topics that live there,
//! and one [`fanout::Fanout`], its view of every topic that its own connections receive. They meet
//! only through [`message`]s, whether the home is on the same reactor or on another.

mod entries;
pub mod fanout;
pub mod filter;
pub mod home;
pub mod keeping;
pub mod keyed;
mod lanes;
pub mod log;
pub mod message;
pub mod past;
pub mod policy;
pub mod subscription;
mod table;
mod tail;
pub mod view;
mod walk;
