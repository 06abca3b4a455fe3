//! Why an accepted connection is one too many, and what it is told.

use crate::{metrics::Trouble, protocol::close::CloseReason};

/// What has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many connections as `limits.connections_max` allows.
    ConnectionsMax,
    /// As many as the limit of file descriptors allows, which are fewer.
    Descriptors,
    /// As many of its address as `limits.connections_per_address_max` allows.
    AddressMax,
}

impl Refusal {
    /// The reason of its end.
    pub fn reason(self) -> CloseReason {
        match self {
            Refusal::ConnectionsMax | Refusal::Descriptors => CloseReason::TryAgainLater,
            Refusal::AddressMax => CloseReason::AddressLimit,
        }
    }

    /// What the operator is told.
    pub fn trouble(self) -> Trouble {
        match self {
            Refusal::ConnectionsMax => Trouble::ConnectionsMax,
            Refusal::Descriptors => Trouble::DescriptorsMax,
            Refusal::AddressMax => Trouble::AddressMax,
        }
    }

    /// The HTTP answer: its status, and a line for whoever looks.
    pub fn answer(self) -> (&'static str, &'static str) {
        match self {
            Refusal::ConnectionsMax => (
                "503 Service Unavailable",
                "this broker has as many connections as limits.connections_max allows; try again later\n",
            ),
            Refusal::Descriptors => (
                "503 Service Unavailable",
                "this broker has as many connections as its file descriptors allow; try again later\n",
            ),
            Refusal::AddressMax => (
                "429 Too Many Requests",
                "your address has as many connections as limits.connections_per_address_max allows; \
                 try again later\n",
            ),
        }
    }
}
