//! Worlds whose clients are all of one tenant, beside others that the oracle knows nothing of: none of what those do is seen.

use super::*;
use crate::{
    access::{
        Access,
        grants::{GrantTexts, Grants, Role},
        static_token,
    },
    protocol::tenant::Tenant,
    uring::sim::{Peer, Stream},
};

/// Those who publish to the same names and subscribe to the same filters: of another tenant, and of none.
pub(super) struct Others {
    rng: Rng,
    peers: Vec<Peer>,
}

fn token(place: usize) -> String {
    static_token::from_random(&[place as u8; 32])
}

/// In the world of `seed`, if it is one of those.
pub(super) fn plan(seed: u64, knobs: &mut Knobs) -> Option<Others> {
    let mut rng = Rng::new(seed ^ 0x7e4a);
    if !rng.chance(1, 4) {
        return None;
    }
    let texts =
        GrantTexts { publish: vec!["#".into()], subscribe: vec!["#".into()], ..GrantTexts::default() };
    let grants = Grants::parse(&texts).expect("they are filters");
    let mut access = Access::new(1, vec![Role { name: "all".into(), grants }]);
    access.set_tenants(["acme", "globex"].map(|name| Tenant::new(name).expect("a name")));
    let all = || ["all".into()].into();
    for (place, tenant) in [Some("globex"), None].into_iter().enumerate() {
        let tenant = tenant.map(|name| access.tenant(name).expect("it is there").clone());
        let digest = static_token::digest(&token(place)).expect("it is one");
        access.admit_static_token("eve", all(), tenant, digest);
    }
    access.admit_anonymous_of(all(), "acme");
    knobs.access = Some(Arc::new(access));
    // They take of what all have, which is to be enough where nobody reckons with them.
    let is_ample = knobs.topics_max == 1_000
        && knobs.log_bytes_max == 1 << 30
        && knobs.owed_bytes_max == 1 << 30
        && knobs.history_bytes_max == PAST_BYTES_AMPLE
        && !knobs.may_close
        && knobs.net.sockets_max == 1_000;
    is_ample.then(|| Others { rng, peers: Vec::new() })
}

impl Others {
    /// One of them does something.
    pub fn stir(&mut self, world: &mut World, topics: &[&str], filters: &[&str]) {
        let Others { rng, peers } = self;
        peers.retain(|peer| world.net.read(*peer, usize::MAX, &mut Vec::new()) == Stream::Open);
        if peers.len() < 3 && rng.chance(1, 2) {
            let peer = world.net.connect(rng.below(world.reactors.len()));
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {}\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                token(rng.below(2))
            );
            world.net.write(peer, request.as_bytes());
            return peers.push(peer);
        }
        let place = rng.below(peers.len().max(1));
        let Some(peer) = peers.get(place).copied() else { return };
        let (topic, filter) = (*rng.pick(topics), *rng.pick(filters));
        let command = match rng.below(12) {
            0 => return world.net.reset(peers.swap_remove(place)),
            1 => serde_json::json!({"op": "subscribe", "topic": filter}),
            2 => serde_json::json!({"op": "subscribe", "topic": topic, "last": 3}),
            3 => serde_json::json!({"op": "subscribe", "topic": filter, "last": 1}),
            4 => serde_json::json!({"op": "unsubscribe", "topic": filter}),
            5 => serde_json::json!({"op": "unsubscribe", "topic": topic}),
            6 => serde_json::json!({"op": "history", "topic": topic, "id": 1, "limit": 5}),
            _ => {
                serde_json::json!({"op": "publish", "topic": topic, "data": "others'", "id": 2, "receivers": true})
            }
        };
        world.net.write(peer, &stranger::text_frame(&command.to_string()));
    }

    /// They are gone.
    pub fn leave(&mut self, world: &World) {
        self.peers.drain(..).for_each(|peer| world.net.reset(peer));
    }
}
