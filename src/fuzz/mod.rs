//! What must hold of any bytes at all: one function per fuzz target, which panics when it does not.
//!
//! libFuzzer drives them with new inputs (`fuzz/`), and `cargo test` with the kept ones and changes to
//! those. They hold the code that reads what strangers send against its naive twins, which lie beside
//! it (`naive.rs`).

mod commands;
mod deflate;
mod filter;
mod frame;
mod grants;
mod jwks;
mod log;
mod pointer;
mod policies;
mod proxy;
mod request_facts;
mod session;
#[cfg(test)]
mod tests;
mod token;
mod transcode;
mod upgrade;

pub use commands::{binary_commands, json_commands};
pub use deflate::deflate;
pub use filter::filter;
pub use frame::frame;
pub use grants::grants;
pub use jwks::jwks;
pub use log::log;
pub use pointer::pointer;
pub use policies::policies;
pub use proxy::proxy;
pub use request_facts::request_facts;
pub use session::session;
pub use token::token;
pub use transcode::transcode;
pub use upgrade::upgrade;

/// Panics if what must hold of these bytes does not.
pub type Target = fn(&[u8]);

/// Every target by the name that `fuzz/` knows it by.
pub const TARGETS: [(&str, Target); 16] = [
    ("binary_commands", binary_commands),
    ("deflate", deflate),
    ("filter", filter),
    ("frame", frame),
    ("grants", grants),
    ("json_commands", json_commands),
    ("jwks", jwks),
    ("log", log),
    ("pointer", pointer),
    ("policies", policies),
    ("proxy", proxy),
    ("request_facts", request_facts),
    ("session", session),
    ("token", token),
    ("transcode", transcode),
    ("upgrade", upgrade),
];
