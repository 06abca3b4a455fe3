//! Why a connection ends: one enum for the close frame, the log line and the metric.

/// Why the broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer sent a close frame; its code is echoed.
    PeerClosed,
    /// The peer's socket ended or broke without a close frame.
    PeerGone,
    /// The request was answered over HTTP and was no upgrade, or was refused.
    HttpAnswered,
    /// No complete upgrade within `timeouts.handshake_ms`: the socket is closed without an answer.
    HandshakeTimeout,
    /// 1002: the peer broke RFC 6455.
    ProtocolError,
    /// 1003: a text message on a binary connection, or the reverse.
    UnsupportedData,
    /// 1007: a text message that is not UTF-8.
    InvalidUtf8,
    /// 1008: too many refused commands, or another policy.
    PolicyViolation,
    /// 1009: a message over `limits.message_bytes_max`.
    MessageTooBig,
    /// 1011: the broker could not go on with this connection.
    InternalError,
    /// 1012: the broker restarts.
    Restart,
    /// 1013: a limit of the broker is reached; try again later.
    TryAgainLater,
    /// 4000: too far behind on topics whose policy is to disconnect.
    SlowConsumer,
    /// 4008: nothing came within the pong deadline.
    IdleTimeout,
    /// The peer took nothing for `timeouts.close_ms`: the socket is reset.
    CloseTimeout,
}

impl CloseReason {
    /// Every reason, in order of its index.
    pub const ALL: [CloseReason; 15] = [
        CloseReason::PeerClosed,
        CloseReason::PeerGone,
        CloseReason::HttpAnswered,
        CloseReason::HandshakeTimeout,
        CloseReason::ProtocolError,
        CloseReason::UnsupportedData,
        CloseReason::InvalidUtf8,
        CloseReason::PolicyViolation,
        CloseReason::MessageTooBig,
        CloseReason::InternalError,
        CloseReason::Restart,
        CloseReason::TryAgainLater,
        CloseReason::SlowConsumer,
        CloseReason::IdleTimeout,
        CloseReason::CloseTimeout,
    ];
    /// The length of a table indexed by [`CloseReason::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// This reason's place in a table of [`CloseReason::COUNT`] entries.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The code for the close frame (RFC 6455 section 7.4), or `None` where no frame is sent.
    pub fn code(self) -> Option<u16> {
        match self {
            CloseReason::PeerClosed => Some(1000),
            CloseReason::PeerGone
            | CloseReason::HttpAnswered
            | CloseReason::HandshakeTimeout
            | CloseReason::CloseTimeout => None,
            CloseReason::ProtocolError => Some(1002),
            CloseReason::UnsupportedData => Some(1003),
            CloseReason::InvalidUtf8 => Some(1007),
            CloseReason::PolicyViolation => Some(1008),
            CloseReason::MessageTooBig => Some(1009),
            CloseReason::InternalError => Some(1011),
            CloseReason::Restart => Some(1012),
            CloseReason::TryAgainLater => Some(1013),
            CloseReason::SlowConsumer => Some(4000),
            CloseReason::IdleTimeout => Some(4008),
        }
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::PeerGone => "peer_gone",
            CloseReason::HttpAnswered => "http_answered",
            CloseReason::HandshakeTimeout => "handshake_timeout",
            CloseReason::ProtocolError => "protocol_error",
            CloseReason::UnsupportedData => "unsupported_data",
            CloseReason::InvalidUtf8 => "invalid_utf8",
            CloseReason::PolicyViolation => "policy_violation",
            CloseReason::MessageTooBig => "message_too_big",
            CloseReason::InternalError => "internal_error",
            CloseReason::Restart => "restart",
            CloseReason::TryAgainLater => "try_again_later",
            CloseReason::SlowConsumer => "slow_consumer",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::CloseTimeout => "close_timeout",
        }
    }
}

/// Whether a peer may send `code` in a close frame (RFC 6455 section 7.4.2).
pub fn is_allowed_from_peer(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
