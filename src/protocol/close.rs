//! Why a connection ends: one enum for the close frame, the log line and the metric; and one for the
//! rules that a peer can break.

use super::utf8;

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
    /// 400 or 431: what came cannot be read as an HTTP request.
    HttpMalformed,
    /// 403: a page whose origin may not open connections.
    OriginRefused,
    /// 421: a `Host` by which the broker is not reached.
    HostRefused,
    /// 4001: a token that was not accepted, or is not any more.
    Unauthorized,
    /// 4001: no token came within `auth.deadline_ms`.
    AuthTimeout,
    /// 4001: the time of its token is over.
    TokenExpired,
    /// 4001: what was accepted once is not any more.
    Revoked,
    /// 4003: the user is blocked.
    Forbidden,
    /// From an address from which nobody may come, by `access.allow` and `access.deny`: closed without an answer, or 403.
    Denied,
    /// From an address that is banned: closed without an answer, or 429; 4029 once it is a WebSocket.
    Banned,
    /// From a trusted proxy, without the PROXY header that it must begin with.
    ProxyHeader,
    /// 429: its address upgrades more often than `limits.upgrades_per_s_per_address_max` allows.
    UpgradeRate,
    /// No complete upgrade within `timeouts.handshake_ms`: the socket is closed without an answer.
    HandshakeTimeout,
    /// 1002: the peer broke RFC 6455.
    ProtocolError,
    /// 1003: a text message on a binary connection, or the reverse.
    UnsupportedData,
    /// 1007: a text message that is not UTF-8.
    InvalidUtf8,
    /// 1007: a compressed message that cannot be inflated.
    InvalidDeflate,
    /// 1008: too many fragments in one message.
    PolicyViolation,
    /// 1009: a message over `limits.message_bytes_max`, or one that inflates beyond `deflate.ratio_max` or is too
    /// many blocks.
    MessageTooBig,
    /// 1012: the broker restarts.
    Restart,
    /// 503: as many connections as `limits.connections_max` allows; 1013 once it is a WebSocket.
    TryAgainLater,
    /// 4000: too far behind on topics whose policy is to disconnect.
    SlowConsumer,
    /// 4008: nothing came within the pong deadline, or no message for too long.
    IdleTimeout,
    /// Still upgrading when `limits.upgrading_max` was reached: the socket is closed without an answer.
    Displaced,
    /// 429: as many connections of its address as `limits.connections_per_address_max` allows.
    AddressLimit,
    /// 4029: more commands than `limits.commands_per_s_max` allows.
    RateLimited,
    /// 4029: as many connections of its user as `limits.connections_per_user_max` allows.
    UserLimit,
    /// 4029: as many connections of its tenant as its `connections_max` allows.
    TenantLimit,
    /// 1013: the key that proves its token is not there yet, and is fetched.
    KeysUnavailable,
    /// 1013: it has most under way, and all connections together more than `limits.buffered_bytes_max` allows.
    BufferedBytes,
}

impl CloseReason {
    /// Every reason, in order of its index.
    pub const ALL: [CloseReason; 33] = [
        CloseReason::PeerClosed,
        CloseReason::PeerGone,
        CloseReason::HttpAnswered,
        CloseReason::HttpMalformed,
        CloseReason::OriginRefused,
        CloseReason::HostRefused,
        CloseReason::Unauthorized,
        CloseReason::AuthTimeout,
        CloseReason::TokenExpired,
        CloseReason::Revoked,
        CloseReason::Forbidden,
        CloseReason::Denied,
        CloseReason::Banned,
        CloseReason::ProxyHeader,
        CloseReason::UpgradeRate,
        CloseReason::HandshakeTimeout,
        CloseReason::ProtocolError,
        CloseReason::UnsupportedData,
        CloseReason::InvalidUtf8,
        CloseReason::InvalidDeflate,
        CloseReason::PolicyViolation,
        CloseReason::MessageTooBig,
        CloseReason::Restart,
        CloseReason::TryAgainLater,
        CloseReason::SlowConsumer,
        CloseReason::IdleTimeout,
        CloseReason::Displaced,
        CloseReason::AddressLimit,
        CloseReason::RateLimited,
        CloseReason::UserLimit,
        CloseReason::TenantLimit,
        CloseReason::KeysUnavailable,
        CloseReason::BufferedBytes,
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
            | CloseReason::HttpMalformed
            | CloseReason::OriginRefused
            | CloseReason::HostRefused
            | CloseReason::Denied
            | CloseReason::ProxyHeader
            | CloseReason::UpgradeRate
            | CloseReason::HandshakeTimeout
            | CloseReason::Displaced
            | CloseReason::AddressLimit => None,
            CloseReason::ProtocolError => Some(1002),
            CloseReason::UnsupportedData => Some(1003),
            CloseReason::InvalidUtf8 | CloseReason::InvalidDeflate => Some(1007),
            CloseReason::PolicyViolation => Some(1008),
            CloseReason::MessageTooBig => Some(1009),
            CloseReason::Restart => Some(1012),
            CloseReason::TryAgainLater | CloseReason::KeysUnavailable | CloseReason::BufferedBytes => {
                Some(1013)
            }
            CloseReason::SlowConsumer => Some(4000),
            CloseReason::Unauthorized
            | CloseReason::AuthTimeout
            | CloseReason::TokenExpired
            | CloseReason::Revoked => Some(4001),
            CloseReason::Forbidden => Some(4003),
            CloseReason::IdleTimeout => Some(4008),
            CloseReason::Banned
            | CloseReason::RateLimited
            | CloseReason::UserLimit
            | CloseReason::TenantLimit => Some(4029),
        }
    }

    /// Whether the peer may be in the middle of bytes that are not understood any more, so that its own close frame
    /// cannot be told from them.
    pub fn leaves_bytes(self) -> bool {
        matches!(
            self,
            CloseReason::ProtocolError
                | CloseReason::UnsupportedData
                | CloseReason::InvalidUtf8
                | CloseReason::InvalidDeflate
                | CloseReason::MessageTooBig
                | CloseReason::BufferedBytes
        )
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::PeerGone => "peer_gone",
            CloseReason::HttpAnswered => "http_answered",
            CloseReason::HttpMalformed => "http_malformed",
            CloseReason::OriginRefused => "origin_refused",
            CloseReason::HostRefused => "host_refused",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::AuthTimeout => "auth_timeout",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::Revoked => "revoked",
            CloseReason::Forbidden => "forbidden",
            CloseReason::Denied => "denied",
            CloseReason::Banned => "banned",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::UpgradeRate => "upgrade_rate",
            CloseReason::HandshakeTimeout => "handshake_timeout",
            CloseReason::ProtocolError => "protocol_error",
            CloseReason::UnsupportedData => "unsupported_data",
            CloseReason::InvalidUtf8 => "invalid_utf8",
            CloseReason::InvalidDeflate => "invalid_deflate",
            CloseReason::PolicyViolation => "policy_violation",
            CloseReason::MessageTooBig => "message_too_big",
            CloseReason::Restart => "restart",
            CloseReason::TryAgainLater => "try_again_later",
            CloseReason::SlowConsumer => "slow_consumer",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::Displaced => "displaced",
            CloseReason::AddressLimit => "address_limit",
            CloseReason::RateLimited => "rate_limited",
            CloseReason::UserLimit => "user_limit",
            CloseReason::TenantLimit => "tenant_limit",
            CloseReason::KeysUnavailable => "keys_unavailable",
            CloseReason::BufferedBytes => "buffered_bytes",
        }
    }
}

/// A rule, of RFC 6455 or of this broker, that a peer's bytes broke.
///
/// [`BrokenRule::reason`] picks the close code, [`BrokenRule::sentence`] is the close frame's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokenRule {
    /// RSV2 or RSV3 is set, or RSV1 without permessage-deflate.
    ReservedBits,
    /// RSV1 on a control or continuation frame.
    DeflatedBitMisplaced,
    /// An opcode that RFC 6455 does not define.
    UnknownOpcode,
    /// A control frame without FIN.
    FragmentedControl,
    /// A continuation frame with no message to continue.
    ContinuationOutsideMessage,
    /// A text or binary frame inside a fragmented message.
    MessageInsideMessage,
    /// A text message on a connection that speaks `fanfare.bin.v1`.
    TextOnBinary,
    /// A binary message on a connection that speaks `fanfare.json.v1`.
    BinaryOnText,
    /// A client's frame without a mask.
    Unmasked,
    /// A control frame of more than 125 bytes.
    ControlTooLong,
    /// A length that fits in fewer bytes than it was given.
    LengthNotMinimal,
    /// A 64-bit length of 2^63 or more.
    LengthTopBit,
    /// A message, all fragments together, over `limits.message_bytes_max`.
    MessageTooBig,
    /// A frame over `limits.frame_bytes_max`.
    FrameTooBig,
    /// A compressed message that is longer than `deflate.ratio_max` allows.
    InflatesTooMuch,
    /// A compressed message of more blocks than [`BLOCKS_FREE`](super::deflate::BLOCKS_FREE) and one for each
    /// [`BYTES_PER_BLOCK`](super::deflate::BYTES_PER_BLOCK) that came out before.
    TooManyBlocks,
    /// A message of more fragments than [`FRAGMENT_COUNT_MAX`](super::session::FRAGMENT_COUNT_MAX).
    TooManyFragments,
    /// A text message that is not UTF-8.
    TextNotUtf8,
    /// A compressed message that cannot be inflated.
    CorruptDeflate,
    /// A close frame whose payload is a single byte.
    CloseCodeCut,
    /// A close frame with a code that must not be sent.
    CloseCodeForbidden,
    /// A close frame whose text is not UTF-8.
    CloseReasonNotUtf8,
}

impl BrokenRule {
    /// Every rule.
    pub const ALL: [BrokenRule; 22] = [
        BrokenRule::ReservedBits,
        BrokenRule::DeflatedBitMisplaced,
        BrokenRule::UnknownOpcode,
        BrokenRule::FragmentedControl,
        BrokenRule::ContinuationOutsideMessage,
        BrokenRule::MessageInsideMessage,
        BrokenRule::TextOnBinary,
        BrokenRule::BinaryOnText,
        BrokenRule::Unmasked,
        BrokenRule::ControlTooLong,
        BrokenRule::LengthNotMinimal,
        BrokenRule::LengthTopBit,
        BrokenRule::MessageTooBig,
        BrokenRule::FrameTooBig,
        BrokenRule::InflatesTooMuch,
        BrokenRule::TooManyBlocks,
        BrokenRule::TooManyFragments,
        BrokenRule::TextNotUtf8,
        BrokenRule::CorruptDeflate,
        BrokenRule::CloseCodeCut,
        BrokenRule::CloseCodeForbidden,
        BrokenRule::CloseReasonNotUtf8,
    ];

    /// Why the connection ends (RFC 6455 section 7.4.1).
    pub fn reason(self) -> CloseReason {
        match self {
            BrokenRule::ReservedBits
            | BrokenRule::DeflatedBitMisplaced
            | BrokenRule::UnknownOpcode
            | BrokenRule::FragmentedControl
            | BrokenRule::ContinuationOutsideMessage
            | BrokenRule::MessageInsideMessage
            | BrokenRule::Unmasked
            | BrokenRule::ControlTooLong
            | BrokenRule::LengthNotMinimal
            | BrokenRule::LengthTopBit
            | BrokenRule::CloseCodeCut
            | BrokenRule::CloseCodeForbidden => CloseReason::ProtocolError,
            BrokenRule::TextOnBinary | BrokenRule::BinaryOnText => CloseReason::UnsupportedData,
            BrokenRule::TextNotUtf8 | BrokenRule::CloseReasonNotUtf8 => CloseReason::InvalidUtf8,
            BrokenRule::CorruptDeflate => CloseReason::InvalidDeflate,
            BrokenRule::MessageTooBig
            | BrokenRule::FrameTooBig
            | BrokenRule::InflatesTooMuch
            | BrokenRule::TooManyBlocks => CloseReason::MessageTooBig,
            BrokenRule::TooManyFragments => CloseReason::PolicyViolation,
        }
    }

    /// The rule in one sentence of at most 123 bytes, what fits into a close frame.
    pub fn sentence(self) -> &'static str {
        match self {
            BrokenRule::ReservedBits => {
                "reserved bits must be 0, no extension that uses them was negotiated (RFC 6455 section 5.2)"
            }
            BrokenRule::DeflatedBitMisplaced => {
                "RSV1 must be set only on the first frame of a compressed message (RFC 7692 section 6.1)"
            }
            BrokenRule::UnknownOpcode => "opcodes 3 to 7 and 11 to 15 are reserved (RFC 6455 section 5.2)",
            BrokenRule::FragmentedControl => "a control frame must have FIN set (RFC 6455 section 5.5)",
            BrokenRule::ContinuationOutsideMessage => {
                "a continuation frame must continue a fragmented message (RFC 6455 section 5.4)"
            }
            BrokenRule::MessageInsideMessage => {
                "a message must not begin before the fragmented one has ended (RFC 6455 section 5.4)"
            }
            BrokenRule::TextOnBinary => "a connection that speaks fanfare.bin.v1 takes only binary messages",
            BrokenRule::BinaryOnText => "a connection that speaks fanfare.json.v1 takes only text messages",
            BrokenRule::Unmasked => "a client's frames must be masked (RFC 6455 section 5.1)",
            BrokenRule::ControlTooLong => {
                "a control frame's payload must be at most 125 bytes (RFC 6455 section 5.5)"
            }
            BrokenRule::LengthNotMinimal => {
                "a payload length must be encoded in the fewest bytes (RFC 6455 section 5.2)"
            }
            BrokenRule::LengthTopBit => {
                "the most significant bit of a 64-bit length must be 0 (RFC 6455 section 5.2)"
            }
            BrokenRule::MessageTooBig => "a message must not be longer than limits.message_bytes_max",
            BrokenRule::FrameTooBig => "a frame must not be longer than limits.frame_bytes_max",
            BrokenRule::InflatesTooMuch => {
                "a message over 64 KiB must not be longer than deflate.ratio_max times its compressed length"
            }
            BrokenRule::TooManyBlocks => {
                "a compressed message must not have more than 256 blocks and one per 4096 bytes that came out before"
            }
            BrokenRule::TooManyFragments => "a message must not have more than 1048576 fragments",
            BrokenRule::TextNotUtf8 => "a text message must be UTF-8 (RFC 6455 section 8.1)",
            BrokenRule::CorruptDeflate => {
                "a compressed message must be deflate data without its tail (RFC 7692 section 7.2.1)"
            }
            BrokenRule::CloseCodeCut => {
                "a close frame's payload must be empty or begin with a code of 2 bytes (RFC 6455 section 5.5.1)"
            }
            BrokenRule::CloseCodeForbidden => {
                "this code must not be sent in a close frame (RFC 6455 section 7.4)"
            }
            BrokenRule::CloseReasonNotUtf8 => "a close frame's text must be UTF-8 (RFC 6455 section 5.5.1)",
        }
    }
}

/// Whether a peer may send `code` in a close frame (RFC 6455 section 7.4.2).
pub fn is_allowed_from_peer(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the code from a peer's unmasked close payload, `None` if it is empty (RFC 6455 section 5.5.1).
pub fn read_code(payload: &[u8]) -> Result<Option<u16>, BrokenRule> {
    let Some((code, text)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(BrokenRule::CloseCodeCut) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_allowed_from_peer(code) {
        return Err(BrokenRule::CloseCodeForbidden);
    }
    match utf8::validate(text) {
        Ok(_) => Ok(Some(code)),
        Err(utf8::InvalidUtf8) => Err(BrokenRule::CloseReasonNotUtf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::deflate;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn the_codes_that_we_send_are_codes_that_a_peer_may_send() {
        for code in CloseReason::ALL.into_iter().filter_map(CloseReason::code) {
            assert!(is_allowed_from_peer(code), "{code}");
        }
    }

    #[test]
    fn every_rule_fits_into_a_close_frame_and_no_two_read_alike() {
        for (index, rule) in BrokenRule::ALL.into_iter().enumerate() {
            assert!(rule.sentence().len() <= 123, "{rule:?}");
            assert!(rule.reason().code().is_some(), "{rule:?}");
            assert!(BrokenRule::ALL[..index].iter().all(|other| other.sentence() != rule.sentence()));
        }
    }

    #[test]
    fn the_sentence_about_fragments_states_the_bound_in_force() {
        let bound = super::super::session::FRAGMENT_COUNT_MAX.to_string();
        assert!(BrokenRule::TooManyFragments.sentence().contains(&bound));
    }

    #[test]
    fn the_sentence_about_blocks_states_the_bounds_in_force() {
        for bound in [deflate::BLOCKS_FREE, deflate::BYTES_PER_BLOCK] {
            assert!(BrokenRule::TooManyBlocks.sentence().contains(&format!(" {bound} b")));
        }
    }

    #[test]
    fn close_codes_reserved_for_use_inside_an_endpoint_are_refused() {
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!is_allowed_from_peer(code), "{code}");
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
            assert!(is_allowed_from_peer(code), "{code}");
        }
    }

    #[test]
    fn a_close_payload_is_empty_or_a_code_with_text() {
        assert_eq!(read_code(b""), Ok(None));
        assert_eq!(read_code(b"\x03"), Err(BrokenRule::CloseCodeCut));
        assert_eq!(read_code(b"\x03\xe8"), Ok(Some(1000)));
        assert_eq!(read_code("\u{3}\u{0}".as_bytes()), Err(BrokenRule::CloseCodeForbidden));
        assert_eq!(read_code(b"\x0f\xa0gr\xc3\xbc\xc3\x9f"), Ok(Some(4000)));
        assert_eq!(read_code(b"\x03\xe8gr\xc3"), Err(BrokenRule::CloseReasonNotUtf8));
        assert_eq!(read_code(b"\x03\xed\xff"), Err(BrokenRule::CloseCodeForbidden), "the code comes first");
    }
}
