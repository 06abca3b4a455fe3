//! Why a connection is not taken before its upgrade, and what it is told.

use crate::{metrics::Trouble, protocol::close::CloseReason};

/// What is against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many connections as `limits.connections_max` allows.
    ConnectionsMax,
    /// As many as the limit of file descriptors allows, which are fewer.
    Descriptors,
    /// As many of its address as `limits.connections_per_address_max` allows.
    AddressMax,
    /// Its address is in `access.deny`, or not in `access.allow`.
    Denied,
    /// Its address is banned.
    Banned {
        /// For so many seconds more.
        left_s: u64,
    },
    /// Its address upgrades more often than `limits.upgrades_per_s_per_address_max` allows.
    UpgradeRate {
        /// The next is allowed in so many seconds.
        left_s: u64,
    },
}

impl Refusal {
    /// The reason of its end.
    pub fn reason(self) -> CloseReason {
        match self {
            Refusal::ConnectionsMax | Refusal::Descriptors => CloseReason::TryAgainLater,
            Refusal::AddressMax => CloseReason::AddressLimit,
            Refusal::Denied => CloseReason::Denied,
            Refusal::Banned { .. } => CloseReason::Banned,
            Refusal::UpgradeRate { .. } => CloseReason::UpgradeRate,
        }
    }

    /// What the operator is told, if that was not said before.
    pub fn trouble(self) -> Option<Trouble> {
        match self {
            Refusal::ConnectionsMax => Some(Trouble::ConnectionsMax),
            Refusal::Descriptors => Some(Trouble::DescriptorsMax),
            Refusal::AddressMax => Some(Trouble::AddressMax),
            Refusal::Denied => Some(Trouble::Denied),
            Refusal::Banned { .. } => None,
            Refusal::UpgradeRate { .. } => Some(Trouble::UpgradeRate),
        }
    }

    /// When to come back, in seconds, if that is of use.
    pub fn retry_after_s(self) -> Option<u64> {
        match self {
            Refusal::ConnectionsMax | Refusal::Descriptors | Refusal::AddressMax => Some(5),
            Refusal::Denied => None,
            Refusal::Banned { left_s } | Refusal::UpgradeRate { left_s } => Some(left_s),
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
            Refusal::Denied => ("403 Forbidden", "this broker takes no connections from your address\n"),
            Refusal::Banned { .. } => (
                "429 Too Many Requests",
                "your address has brought too many tokens that were not accepted, or what is no request; try again later\n",
            ),
            Refusal::UpgradeRate { .. } => (
                "429 Too Many Requests",
                "your address upgrades more often than limits.upgrades_per_s_per_address_max allows; try again later\n",
            ),
        }
    }
}
