//! Every tenth row of the permission table, asked over the wire.

use serde_json::{Value, json};

use super::{
    auth::{BOTH, assert_forbidden, publish, subscribe},
    rights::{Issuer, config_file, start_with, wait_for_reload},
};
use crate::common::{Broker, client::Client};

/// One that is not divided by the length of a set, so that each set begins elsewhere.
const EVERY: usize = 10;

fn sets() -> Vec<toml::Table> {
    let table: toml::Table = include_str!("../permissions/table.toml").parse().unwrap();
    table["set"].as_array().unwrap().iter().map(|set| set.as_table().unwrap().clone()).collect()
}

/// As a configuration has them, where each role has what the set so many places further on grants.
fn roles(sets: &[toml::Table], shift: usize) -> String {
    let role = |(place, set): (usize, &toml::Table)| {
        let granted = &sets[(place + shift) % sets.len()];
        let lists = ["publish", "subscribe", "history", "presence", "deny"];
        let lists = lists.iter().filter_map(|name| Some(format!("{name} = {}", granted.get(*name)?)));
        format!("{} = {{ {} }}\n", set["role"].as_str().unwrap(), lists.collect::<Vec<String>>().join(", "))
    };
    sets.iter().enumerate().map(role).collect()
}

/// Somebody with the role of the set, and the name and claims that it is about.
fn open(broker: &Broker, issuer: &Issuer, set: &toml::Table) -> [Client; 2] {
    let mut more = json!({"fanfare": {"roles": [set["role"].as_str().unwrap()]}});
    if let Some(claims) = set.get("claims") {
        let claims: Value = serde_json::to_value(claims).unwrap();
        more.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    }
    let token = issuer.token(set["user"].as_str().unwrap(), 600, more);
    BOTH.map(|language| Client::open_as(broker, language, &token))
}

fn ask_row(client: &mut Client, name: &str, verdict: &str) {
    let may = |action: &str| verdict.split_whitespace().any(|it| it == action);
    let check = |answer: &Value, op: &str, is_allowed: bool| match is_allowed {
        // Its topic keeps nothing, which only those are told who may know of its past.
        true if op == "history" => assert_eq!(answer["code"], "unsupported", "{name}: {answer}"),
        true => assert_eq!(answer["op"], "ok", "{name}: {answer}"),
        false => assert_forbidden(answer, op, name),
    };
    let is_topic = !name.split('/').any(|level| level == "+" || level == "#");
    if is_topic {
        // Nobody publishes to what is the broker's own, whatever is granted.
        match name.starts_with('$') {
            true => assert_eq!(publish(client, name, 7)["code"], "bad_topic", "{name}"),
            false => check(&publish(client, name, 7), "publish", may("publish")),
        }
        let asked = json!({"op": "history", "topic": name, "id": 2});
        check(&client.ask(asked), "history", may("history"));
    }
    check(&subscribe(client, name), "subscribe", may("subscribe"));
    if may("subscribe") {
        assert_eq!(client.ask(json!({"op": "unsubscribe", "topic": name, "id": 3}))["op"], "ok");
    }
    let newest = client.ask(json!({"op": "subscribe", "topic": name, "last": 1, "id": 4}));
    check(&newest, "subscribe", may("subscribe") && may("history"));
    if newest["op"] == "ok" {
        if !is_topic {
            assert_eq!(client.receive()["op"], "replayed");
        }
        assert_eq!(client.ask(json!({"op": "unsubscribe", "topic": name, "id": 5}))["op"], "ok");
    }
}

fn ask_all(clients: &mut [[Client; 2]], sets: &[toml::Table]) {
    let mut row = 0;
    for (clients, set) in clients.iter_mut().zip(sets) {
        for (name, verdict) in set["verdicts"].as_table().unwrap() {
            if row % EVERY == 0 {
                clients.iter_mut().for_each(|client| ask_row(client, name, verdict.as_str().unwrap()));
            }
            row += 1;
        }
    }
    assert_eq!(row, 15 * 42);
}

/// As the broker starts with it, and where it takes the place of something else for those who are there.
#[test]
fn every_tenth_row_of_the_table_is_so_on_the_wire_before_and_after_a_reload() {
    let (sets, issuer) = (sets(), Issuer::new("permissions-issuer"));
    let issuers = issuer.setting().replace(", roles = [\"chat\"]", "");
    for reactors in [1, 2] {
        let file = format!("permissions-{reactors}.toml");
        let config = config_file(&file, &roles(&sets, 0));
        let broker = start_with(&config, reactors, &[&issuers]);
        let mut clients: Vec<_> = sets.iter().map(|set| open(&broker, &issuer, set)).collect();
        ask_all(&mut clients, &sets);
        // Others' grants, and then again what it began with.
        for (count, shift) in [(1, 1), (2, 0)] {
            config_file(&file, &roles(&sets, shift));
            wait_for_reload(&broker, "applied", count);
        }
        ask_all(&mut clients, &sets);
        clients.into_iter().flatten().for_each(Client::close);
        broker.stop();

        config_file(&file, &roles(&sets, 4));
        let broker = start_with(&config, reactors, &[&issuers]);
        let mut clients: Vec<_> = sets.iter().map(|set| open(&broker, &issuer, set)).collect();
        config_file(&file, &roles(&sets, 0));
        wait_for_reload(&broker, "applied", 1);
        ask_all(&mut clients, &sets);
        clients.into_iter().flatten().for_each(Client::close);
        broker.stop();
    }
}
