//! The keys and ops of commands, and which op takes which keys.

/// The keys that some command takes.
#[derive(Clone, Copy, PartialEq)]
#[repr(usize)]
pub(super) enum Key {
    Op,
    Id,
    Topic,
    Data,
    Receivers,
    Retain,
    /// `key`, by which a publication is published once.
    Once,
    Since,
    Last,
    Resume,
    Limit,
    Before,
    After,
    Token,
}

impl Key {
    pub(super) const ALL: [Key; 14] = [
        Key::Op,
        Key::Id,
        Key::Topic,
        Key::Data,
        Key::Receivers,
        Key::Retain,
        Key::Once,
        Key::Since,
        Key::Last,
        Key::Resume,
        Key::Limit,
        Key::Before,
        Key::After,
        Key::Token,
    ];
    pub(super) const COUNT: usize = Self::ALL.len();
    /// Those that say more than what a command is, to which topic, and what with.
    pub(super) const OPTIONS: u16 = !bits(&[Key::Op, Key::Id, Key::Topic, Key::Data, Key::Token]);

    /// Its place in a set.
    pub(super) const fn bit(self) -> u16 {
        1 << self as u16
    }

    pub(super) fn from_str(name: &str) -> Option<Self> {
        Some(match name {
            "op" => Key::Op,
            "id" => Key::Id,
            "topic" => Key::Topic,
            "data" => Key::Data,
            "receivers" => Key::Receivers,
            "retain" => Key::Retain,
            "key" => Key::Once,
            "since" => Key::Since,
            "last" => Key::Last,
            "resume" => Key::Resume,
            "limit" => Key::Limit,
            "before" => Key::Before,
            "after" => Key::After,
            "token" => Key::Token,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Key::Op => "op",
            Key::Id => "id",
            Key::Topic => "topic",
            Key::Data => "data",
            Key::Receivers => "receivers",
            Key::Retain => "retain",
            Key::Once => "key",
            Key::Since => "since",
            Key::Last => "last",
            Key::Resume => "resume",
            Key::Limit => "limit",
            Key::Before => "before",
            Key::After => "after",
            Key::Token => "token",
        }
    }
}

/// What a command asks for.
#[derive(Clone, Copy)]
pub(super) enum Op {
    Subscribe,
    Unsubscribe,
    Publish,
    History,
    Ping,
    Auth,
}

impl Op {
    pub(super) fn from_str(name: &str) -> Option<Self> {
        Some(match name {
            "subscribe" => Op::Subscribe,
            "unsubscribe" => Op::Unsubscribe,
            "publish" => Op::Publish,
            "history" => Op::History,
            "ping" => Op::Ping,
            "auth" => Op::Auth,
            _ => return None,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Op::Subscribe => "subscribe",
            Op::Unsubscribe => "unsubscribe",
            Op::Publish => "publish",
            Op::History => "history",
            Op::Ping => "ping",
            Op::Auth => "auth",
        }
    }

    /// The keys that it takes, as a set.
    pub(super) fn bits(self) -> u16 {
        const SETS: [u16; 6] = [
            bits(Op::Subscribe.keys()),
            bits(Op::Unsubscribe.keys()),
            bits(Op::Publish.keys()),
            bits(Op::History.keys()),
            bits(Op::Ping.keys()),
            bits(Op::Auth.keys()),
        ];
        SETS[self as usize]
    }

    pub(super) const fn keys(self) -> &'static [Key] {
        match self {
            Op::Subscribe => &[Key::Op, Key::Topic, Key::Id, Key::Since, Key::Last, Key::Resume],
            Op::Unsubscribe => &[Key::Op, Key::Topic, Key::Id],
            Op::Publish => &[Key::Op, Key::Topic, Key::Data, Key::Id, Key::Receivers, Key::Retain, Key::Once],
            Op::History => &[Key::Op, Key::Topic, Key::Id, Key::Limit, Key::Before, Key::After],
            Op::Ping => &[Key::Op, Key::Id],
            Op::Auth => &[Key::Op, Key::Token, Key::Id],
        }
    }
}

/// A set of keys, a bit each.
const fn bits(keys: &[Key]) -> u16 {
    let (mut set, mut place) = (0, 0);
    while place < keys.len() {
        set |= keys[place].bit();
        place += 1;
    }
    set
}

const _: () = assert!(Key::COUNT <= u16::BITS as usize);
