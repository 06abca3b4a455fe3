//! The whole scenario against the real broker, whose reactors run in this process, and its healthy clients
//! against one that does wrong on purpose.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use clap::{Parser, ValueEnum};
use fanfare::{
    config::load::{Setting, Sources, load},
    reactor::{Prepared, Reactors, admission::listeners::Listeners, reactor_count},
};

use super::{
    attack::{Prepared as PreparedAttack, prepare, variants},
    client::Client,
    flood::Until,
    healthy::{Healthy, Phase, TOPIC},
    run,
};
use crate::{
    cli::{Attack, Cli, Command},
    clock,
    connect::Target,
    scenario::tests::{serve_commands, text_frame},
};

/// One reactor with these settings, at a port of its own.
fn start_broker(settings: &[(&str, &str)]) -> (Reactors, String) {
    let usual = [("listen.address", "127.0.0.1:0"), ("reactor.count", "1"), ("reactor.pin", "false")];
    let flags = usual.iter().chain(settings).map(|(path, value)| Setting {
        flag: "--set",
        path: (*path).to_owned(),
        value: (*value).to_owned(),
    });
    let config = load(&Sources { flags: flags.collect(), ..Sources::default() }).unwrap();
    let listeners = Listeners::bind(&config, reactor_count(&config)).unwrap();
    let reactors = Prepared::new(Arc::new(config), None, listeners).unwrap().start(&Arc::default()).unwrap();
    let url = format!("ws://{}/ws", reactors.address());
    (reactors, url)
}

/// Runs it with bounds that no machine is too slow for, unless `arguments` say otherwise: whether it passed, and
/// what was written.
fn run_against(name: &str, url: &str, arguments: &[&str]) -> Result<(bool, serde_json::Value), String> {
    let file = std::env::temp_dir().join(format!("fanfare-hostile-{name}-{}.json", std::process::id()));
    let usual = ["--duration", "1", "--warmup", "0", "--healthy", "2", "--subscribers", "3", "--drain", "60"];
    let bounds = ["--ping-p99-ms", "60000", "--ping-max-ms", "60000", "--delivery-p99-ms", "60000"];
    let place = ["--url", url, "--json", file.to_str().unwrap()];
    let line = [&["fanfare-loadtest", "hostile"][..], &usual, &bounds, &place, arguments].concat();
    let Command::Hostile(options) = Cli::parse_from(line).command else { panic!() };
    let passed = run(&options, Vec::new())?;
    let json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(file).unwrap();
    Ok((passed, json))
}

/// Everything that there is, in small and slowly: the broker takes it, and closes nobody for it.
#[test]
fn every_attack_is_what_the_broker_takes() {
    let (_reactors, url) = start_broker(&[("deflate.enabled", "true")]);
    let target = Target::parse(&url).unwrap();
    let line = ["fanfare-loadtest", "hostile", "--attackers", "2", "--topics", "50", "--filters", "9"];
    let little = ["--levels", "4", "--bytes-per-s", "100000"];
    let Command::Hostile(options) = Cli::parse_from([&line[..], &little].concat()).command else { panic!() };
    for variant in Attack::value_variants().iter().flat_map(|it| variants(*it)) {
        let prepared = prepare(&options, variant, &target, 1).unwrap();
        let begin_ns = clock::now_ns();
        let tally = match prepared {
            PreparedAttack::Flood(mut floods) => {
                while floods[0].tally().sent_bytes == 0 {
                    floods[0].run(clock::now_ns() + 10_000_000, Until::Time).unwrap();
                }
                floods[0].tally()
            }
            PreparedAttack::Leave(leave) => leave.run(begin_ns, begin_ns + 20_000_000).tally,
            PreparedAttack::Settle(settle) => {
                let outcome = settle.run(1, Some(std::process::id())).unwrap();
                assert!(outcome.bytes_each.is_some() && outcome.tally.received_bytes > 0, "{variant:?}");
                outcome.tally
            }
            PreparedAttack::Skipped(reason) => panic!("{variant:?}: {reason}"),
        };
        assert!(tally.sent_bytes > 0 && tally.closed == 0, "{variant:?}: {tally:?}");
    }
}

/// Everybody healthy is answered and gets everything, whatever is done beside them.
#[test]
fn the_healthy_are_verified_and_told_of() {
    let (_reactors, url) = start_broker(&[]);
    let pid = std::process::id().to_string();
    let few = ["--attack", "commands,wide", "--attackers", "1", "--topics", "50", "--pid", &pid];
    let (passed, json) = run_against("all", &url, &few).unwrap();
    let rounds = json["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2, "{json:#}");
    for round in rounds {
        let figure = |name: &str| round[name].as_u64().unwrap();
        assert_eq!(round["verdict"], "held", "{round:#}");
        assert!(figure("ping_count") > 0 && figure("delivery_count") == 3 * figure("published"), "{round:#}");
        assert!(figure("sent_bytes") > 0 && figure("acknowledged") >= figure("published"), "{round:#}");
        assert!(round["resident_bytes_max"].is_u64() && round["turns"].is_null(), "{round:#}");
        assert_eq!(round["bytes_each"].is_array(), round["attack"] == "wide", "{round:#}");
    }
    assert!(passed);
}

#[test]
fn a_bound_that_is_broken_fails_the_run() {
    let (_reactors, url) = start_broker(&[]);
    let (passed, json) =
        run_against("bound", &url, &["--attack", "commands", "--attackers", "1", "--ping-max-ms", "0"])
            .unwrap();
    assert!(!passed);
    assert_eq!(json["rounds"][0]["broken"], serde_json::json!(["ping max"]), "{json:#}");
}

/// A limit of commands per second takes the attackers, and the pingers too, who are many more than allowed.
#[test]
fn healthy_clients_that_the_broker_closes_fail_the_run() {
    let (_reactors, url) =
        start_broker(&[("limits.commands_per_s_max", "100"), ("limits.commands_burst_max", "100")]);
    let (passed, json) = run_against("closed", &url, &["--attack", "commands", "--attackers", "1"]).unwrap();
    let round = &json["rounds"][0];
    assert!(!passed && round["broken"].as_array().unwrap().contains(&"closed".into()), "{round:#}");
    assert_eq!(round["closed"], 2, "{round:#}");
    assert!(round["trouble"].is_string(), "{round:#}");
}

#[test]
fn bombs_are_skipped_where_nobody_agreed_to_compression_unless_they_were_asked_for() {
    let (_reactors, url) = start_broker(&[]);
    let (passed, json) = run_against("bombs", &url, &["--attack", "bombs"]).unwrap();
    assert!(!passed);
    assert_eq!(json["rounds"][0]["verdict"], "not_run", "{json:#}");
    let target = Target::parse(&url).unwrap();
    assert!(!Client::open(&target, 0, true).unwrap().is_compressed);
    let (_reactors, url) = start_broker(&[("deflate.enabled", "true")]);
    assert!(Client::open(&Target::parse(&url).unwrap(), 0, true).unwrap().is_compressed);
}

/// The unsubscriber cannot have so many: told in the table, and the run fails.
#[test]
fn an_attack_that_the_broker_does_not_let_be_prepared_is_not_run() {
    let (_reactors, url) = start_broker(&[("limits.subscriptions_max", "8")]);
    let (passed, json) =
        run_against("limit", &url, &["--attack", "unsubscribe", "--topics", "5", "--filters", "9"]).unwrap();
    assert!(!passed && json["rounds"][0]["verdict"] == "not_run", "{json:#}");
    assert!(json["rounds"][0]["trouble"].as_str().unwrap().starts_with("subscribe a/#: "), "{json:#}");
}

#[test]
fn a_broker_that_is_not_there_or_another_protocol_is_one_line() {
    let error = run_against("nobody", "ws://127.0.0.1:1/ws", &[]).unwrap_err();
    assert!(error.starts_with("127.0.0.1:1: connection 1: ") && error.lines().count() == 1, "{error}");
    let error = run_against("protocol", "ws://127.0.0.1:1/ws", &["--protocol", "nats"]).unwrap_err();
    assert_eq!(error, "hostile speaks fanfare-json only");
}

/// A broker of the same language that delivers the second publication to nobody and the third twice, and answers
/// no ping.
#[test]
fn what_is_lost_or_twice_or_unanswered_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let (publications, published) = mpsc::channel();
    let subscribers = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (subscribers, publications) = (Arc::clone(&subscribers), publications.clone());
            thread::spawn(move || deceive(socket, &subscribers, &publications));
        }
    });
    let healthy = Healthy::open(&Target::parse(&url).unwrap(), 1, 2).unwrap();
    let phase = Phase::new();
    phase.begin();
    let findings = thread::scope(|scope| {
        let waiting = scope.spawn(|| healthy.run(&phase, 300_000_000));
        published.iter().take(5).for_each(drop);
        phase.end();
        waiting.join().unwrap()
    });
    let counts = findings.counts;
    assert!(counts.unanswered > 0 && findings.pings[0].during.len() == counts.unanswered);
    assert!(counts.acknowledged >= 5 && counts.published >= 5);
    assert_eq!((counts.lost, counts.wrong, counts.closed), (2, 2, 0));
}

fn deceive(socket: TcpStream, subscribers: &Mutex<Vec<TcpStream>>, publications: &mpsc::Sender<u64>) {
    let mut seq = 0;
    serve_commands(socket, |command, mut socket| {
        if command["op"] == "subscribe" {
            subscribers.lock().unwrap().push(socket.try_clone().unwrap());
            socket.write_all(&text_frame(r#"{"op":"ok","id":1,"topic":"t","seq":0}"#)).unwrap();
        } else if command["op"] == "publish" {
            seq += 1;
            let message =
                format!(r#"{{"op":"message","topic":"{TOPIC}","seq":{seq},"data":{}}}"#, command["data"]);
            let times = [1, 0, 2].get(seq - 1).copied().unwrap_or(1);
            for mut subscriber in subscribers.lock().unwrap().iter() {
                subscriber.write_all(&text_frame(&message).repeat(times)).unwrap();
            }
            socket.write_all(&text_frame(&format!(r#"{{"op":"ok","id":1,"seq":{seq}}}"#))).unwrap();
            // Nobody counts any more when the test is over.
            let _ = publications.send(seq as u64);
        }
    });
}
