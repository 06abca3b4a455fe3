//! A topic's past: where `fanfare sub` begins and goes on, and what `fanfare history` prints.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Output, Stdio},
};

use super::server::*;

const EPOCH: &str = "01473d6923fbdb87";

/// Whatever is asked for: all that was missed, what is left of it, or the newest.
#[test]
fn sub_begins_in_the_past_and_tells_where_to_go_on() {
    let since = format!("{EPOCH}.103");
    let place = serde_json::json!({"epoch": EPOCH, "seq": 103});
    for (flags, asked, ok, told) in [
        (
            &["--since", &since][..],
            serde_json::json!({"op": "subscribe", "topic": "a", "id": 0, "since": place}),
            r#""epoch":"01473d6923fbdb87","seq":105,"recovered":true,"replayed":2"#,
            String::new(),
        ),
        (
            &["--since", &since, "--last", "2"],
            serde_json::json!({"op": "subscribe", "topic": "a", "id": 0, "since": place, "last": 2}),
            r#""seq":105,"epoch":"01473d6923fbdb87","recovered":false,"replayed":2"#,
            format!("fanfare: a: not all that came after {since} is kept; the newest 2 follow\n"),
        ),
        (
            &["--last", "2"],
            serde_json::json!({"op": "subscribe", "topic": "a", "id": 0, "last": 2}),
            r#""seq":105,"epoch":"01473d6923fbdb87","replayed":2"#,
            String::new(),
        ),
    ] {
        let script = move |_, mut socket: Socket| {
            assert_eq!(socket.receive(), asked);
            socket.send(&format!(r#"{{"op":"ok","id":0,"topic":"a",{ok}}}"#));
            for seq in [104, 105, 106] {
                socket.send(&format!(r#"{{"op":"message","topic":"a","seq":{seq},"data":{seq}}}"#));
            }
            socket.receive_close();
        };
        let args = [&["sub", "a", "--count", "3"], flags].concat();
        let (code, stdout, stderr) = run(Server::start(1, script), &args, None);
        assert_eq!(stdout, "a 104 104\na 105 105\na 106 106\n");
        assert_eq!(stderr, format!("{told}fanfare: next: --since {EPOCH}.106\n"));
        assert_eq!(code, 0);
    }
}

/// What was retained is older than what the topic is at: it goes on behind that.
#[test]
fn sub_goes_on_behind_a_value_that_was_retained() {
    for value in [41, 104] {
        let script = move |_, mut socket: Socket| {
            socket.receive();
            socket
                .send(r#"{"op":"ok","id":0,"topic":"a","seq":105,"epoch":"01473d6923fbdb87","replayed":1}"#);
            socket.send(&format!(r#"{{"op":"message","topic":"a","seq":{value},"data":1}}"#));
            socket.receive_close();
        };
        let args = ["sub", "a", "--count", "1", "--last", "1"];
        let (code, stdout, stderr) = run(Server::start(1, script), &args, None);
        assert_eq!((code, stdout), (0, format!("a {value} 1\n")));
        assert_eq!(stderr, format!("fanfare: next: --since {EPOCH}.105\n"));
    }
}

/// Behind what was printed, not behind what was told: the broker had more to replay when the connection was lost.
#[test]
fn sub_comes_back_to_where_it_was() {
    let script = |number, mut socket: Socket| {
        let since = |seq: u64| serde_json::json!({"epoch": EPOCH, "seq": seq});
        let asked = socket.receive();
        match number {
            0 => {
                assert_eq!((&asked["last"], asked.get("since")), (&5.into(), None));
                socket.send(
                    r#"{"op":"ok","id":0,"topic":"a","seq":9,"epoch":"01473d6923fbdb87","replayed":5}"#,
                );
                socket.send(r#"{"op":"message","topic":"a","seq":5,"data":5}"#);
                socket.send_close(1012, "retry_after_ms=1");
                assert_eq!(socket.receive_frame().0, 0x8);
            }
            1 => {
                assert_eq!((asked.get("last"), &asked["since"]), (None, &since(5)));
                socket.send(r#"{"op":"ok","id":0,"topic":"a","seq":9,"epoch":"01473d6923fbdb87","recovered":true,"replayed":4}"#);
                socket.send(r#"{"op":"gap","topic":"a","from":6,"to":8,"reason":"retention"}"#);
                socket.send_close(1012, "retry_after_ms=1");
                assert_eq!(socket.receive_frame().0, 0x8);
            }
            _ => {
                assert_eq!(asked["since"], since(8));
                // Another start of the broker: its messages may come before the ok, through a filter say.
                socket.send(r#"{"op":"message","topic":"a","seq":1000,"data":"other"}"#);
                socket.send(r#"{"op":"ok","id":0,"topic":"a","seq":2,"epoch":"00000000000000ff","recovered":false,"replayed":0}"#);
                socket.send(r#"{"op":"error","for":"subscribe","code":"forbidden","message":"no"}"#);
            }
        }
    };
    let (code, stdout, stderr) = run(Server::start(3, script), &["sub", "a", "--last", "5"], None);
    assert_eq!(stdout, "a 5 5\na 1000 \"other\"\n");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.contains("trying again in")).collect();
    assert_eq!(
        lines,
        [
            "fanfare: connected again",
            "fanfare: gap in a: 6 to 8 are lost (retention)",
            "fanfare: connected again",
            &format!("fanfare: a: what came after {EPOCH}.8 is not kept, and is lost"),
            "fanfare: next: --since 00000000000000ff.2",
            "fanfare: subscribe was refused: no (forbidden)",
        ]
    );
    assert_eq!(code, 1);
}

/// Each comes back to its own place; where to go on from is told of one topic alone.
#[test]
fn sub_asks_for_the_past_of_several_topics() {
    let script = |number, mut socket: Socket| {
        let asked = [socket.receive(), socket.receive()];
        if number == 0 {
            for (id, topic) in [(0, "a"), (1, "b")] {
                assert_eq!(
                    asked[id],
                    serde_json::json!({"op": "subscribe", "topic": topic, "id": id, "last": 1})
                );
                let seq = 5 + id;
                socket.send(&format!(
                    r#"{{"op":"ok","id":{id},"topic":"{topic}","seq":{seq},"epoch":"{EPOCH}","replayed":0}}"#
                ));
            }
            socket.send(r#"{"op":"message","topic":"b","seq":7,"data":1}"#);
            socket.send_close(1012, "retry_after_ms=1");
            assert_eq!(socket.receive_frame().0, 0x8);
            return;
        }
        let since = |seq: u64| serde_json::json!({"epoch": EPOCH, "seq": seq});
        assert_eq!((&asked[0]["since"], &asked[1]["since"]), (&since(5), &since(7)));
        socket.send(r#"{"op":"message","topic":"a","seq":6,"data":1}"#);
        socket.receive_close();
    };
    let args = ["sub", "a", "b", "--last", "1", "--count", "2"];
    let (code, stdout, stderr) = run(Server::start(2, script), &args, None);
    assert_eq!((code, stdout.as_str()), (0, "b 7 1\na 6 1\n"));
    assert!(stderr.ends_with("fanfare: connected again\n"), "{stderr}");
}

/// What came of the topics of a filter is listed until the broker tells another moment.
#[test]
fn sub_of_a_filter_comes_back_to_what_it_had() {
    let script = |number, mut socket: Socket| {
        let asked = socket.receive();
        let message = |topic: &str, seq: u64| {
            format!(r#"{{"op":"message","topic":"{topic}","seq":{seq},"data":{seq}}}"#)
        };
        let since = |since: serde_json::Value| assert_eq!(asked["since"], since);
        let replayed = |recovered: bool, tick: u64| {
            let at = format!("{EPOCH}.{tick}");
            format!(r##"{{"op":"replayed","topic":"t/#","count":1,"recovered":{recovered},"at":"{at}"}}"##)
        };
        if number < 5 {
            socket.send(r##"{"op":"ok","id":0,"topic":"t/#"}"##);
        }
        match number {
            0 => {
                assert_eq!((&asked["last"], asked.get("since")), (&1.into(), None));
                socket.send(&message("t/a", 7));
            }
            1 => {
                // Before the first moment: what had not come begins with the newest again.
                since(serde_json::json!({"epochs": {"1": {"t/a": 7}}}));
                assert_eq!(asked["last"], 1);
                socket.send(&message("t/b", 4));
                socket.send(&replayed(false, 1));
            }
            2 => {
                since(serde_json::json!({"at": format!("{EPOCH}.1")}));
                assert_eq!(asked.get("last"), None);
                socket.send(&message("t/a", 8));
                socket.send(r#"{"op":"gap","topic":"t/b","from":5,"to":6,"reason":"retention"}"#);
            }
            3 => {
                since(serde_json::json!({"at": format!("{EPOCH}.1"), "epochs": {"1": {"t/a": 8, "t/b": 6}}}));
                socket.send(&replayed(true, 2));
                socket.send(&message("t/a", 9));
            }
            4 => {
                since(serde_json::json!({"at": format!("{EPOCH}.2"), "epochs": {"1": {"t/a": 9}}}));
                socket.send(&replayed(false, 3));
                socket.send(&message("t/c", 1));
            }
            _ => return socket.send(r#"{"op":"error","for":"subscribe","code":"forbidden","message":"no"}"#),
        }
        socket.send_close(1012, "retry_after_ms=1");
        assert_eq!(socket.receive_frame().0, 0x8);
    };
    let (code, stdout, stderr) = run(Server::start(6, script), &["sub", "t/#", "--last", "1"], None);
    assert_eq!(stdout, "t/a 7 7\nt/b 4 4\nt/a 8 8\nt/a 9 9\nt/c 1 1\n");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.contains("trying again in")).collect();
    let again = "fanfare: connected again";
    let missed = format!("fanfare: t/#: not all that came after {EPOCH}.2 is kept");
    let next = format!(r#"fanfare: next: --since '{{"at":"{EPOCH}.3","epochs":{{"1":{{"t/c":1}}}}}}'"#);
    let gap = "fanfare: gap in t/b: 5 to 6 are lost (retention)";
    let refused = "fanfare: subscribe was refused: no (forbidden)";
    assert_eq!(lines, [again, again, gap, again, again, &missed, again, &next, refused]);
    assert_eq!(code, 1);
}

/// From what `--since` says on: the moment alone, or with what came after it.
#[test]
fn sub_of_a_filter_begins_at_a_moment() {
    let at = format!("{EPOCH}.2.1f");
    let whole = format!(r#"{{"at":"{at}","epochs":{{"1":{{"t/a":8}}}}}}"#);
    for (place, asked) in [
        (&at, serde_json::json!({"at": at})),
        (&whole, serde_json::json!({"at": at, "epochs": {"1": {"t/a": 8}}})),
    ] {
        let script = move |_, mut socket: Socket| {
            assert_eq!(
                socket.receive(),
                serde_json::json!({"op": "subscribe", "topic": "t/#", "id": 0, "since": asked, "last": 3})
            );
            socket.send(r##"{"op":"ok","id":0,"topic":"t/#"}"##);
            socket.send(r#"{"op":"message","topic":"t/a","seq":9,"data":1}"#);
            socket.receive_close();
        };
        let args = ["sub", "t/#", "--since", place, "--last", "3", "--count", "1"];
        let (code, stdout, stderr) = run(Server::start(1, script), &args, None);
        assert_eq!((code, stdout.as_str()), (0, "t/a 9 1\n"));
        // Nothing ended the past: the moment is the same, and what came is listed.
        assert_eq!(
            stderr,
            format!("fanfare: next: --since '{{\"at\":\"{at}\",\"epochs\":{{\"1\":{{\"t/a\":9}}}}}}'\n")
        );
    }
}

/// By a signal, as most do: what is printed is told, and the exit code says which signal it was.
#[test]
fn sub_tells_where_to_go_on_when_it_is_stopped() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let server = Server::start(1, |_, mut socket: Socket| {
            socket.receive();
            socket.send(r#"{"op":"ok","id":0,"topic":"a","seq":4,"epoch":"01473d6923fbdb87","replayed":1}"#);
            socket.send(r#"{"op":"message","topic":"a","seq":4,"data":1}"#);
            let _ = socket.0.read_to_end(&mut Vec::new());
        });
        let mut command = fanfare(&["sub", "a", "--last", "1", "--url", &server.url]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "a 4 1\n");
        // SAFETY: the child is ours and has not been waited for, so its id is its own.
        unsafe { libc::kill(child.id() as i32, signal) };
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        server.script.join().unwrap();
        assert_eq!(String::from_utf8(stderr).unwrap(), format!("fanfare: next: --since {EPOCH}.4\n"));
        assert_eq!(status.code(), Some(code));
    }
}

#[test]
fn a_place_that_is_none() {
    let allowed = "it must be EPOCH.SEQ such as 01473d6923fbdb87.103: 16 digits from 0 to 9 and a to f, and an integer \
                   from 0 to 9007199254740991; `fanfare --help` says what there is";
    for (args, line) in [
        (&["sub", "a", "--since", "5"][..], format!("--since 5 is not allowed here: {}", allowed.split(';').next().unwrap())),
        (&["history", "a", "--after", "5"], format!("invalid value '5' for '--after <EPOCH.SEQ>': {allowed}")),
        (
            &["sub", "a", "b", "--since", "01473d6923fbdb87.1"],
            "--since 01473d6923fbdb87.1 is not allowed here: it must be of one topic or filter, and there are 2".into(),
        ),
        (
            &["sub", "a/+", "--since", "01473d6923fbdb87"],
            "--since 01473d6923fbdb87 is not allowed here: for a filter it must be what `next:` said at the end, such as \
             01473d6923fbdb87.2 or '{\"at\":\"01473d6923fbdb87.2\",\"epochs\":{\"01473d6923fbdb87\":{\"ticker/a\":3}}}'"
                .into(),
        ),
        (
            &["sub", "a", "--last", "10001"],
            "invalid value '10001' for '--last <N>': 10001 is not in 0..=10000; `fanfare --help` says what there is"
                .into(),
        ),
        (
            &["history", "a", "--limit", "1001"],
            "invalid value '1001' for '--limit <N>': 1001 is not in 0..=1000; `fanfare --help` says what there is"
                .into(),
        ),
    ] {
        let output = fanfare(args).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("fanfare: {line}\n"));
        assert_eq!(output.status.code(), Some(2));
    }
}

/// The newest, those before and those after, each with the way on; nothing of a topic that keeps nothing.
#[test]
fn history_prints_what_is_kept_and_tells_where_it_is() {
    let place = format!("{EPOCH}.121");
    let anchor = serde_json::json!({"epoch": EPOCH, "seq": 121});
    let messages = r#"{"op":"message","topic":"a b","seq":39,"data":{"n":[1, 2]}},{"op":"message","topic":"a b","seq":40,"time":1764083000123,"base64":"AAEC"}"#;
    let printed = "\"a b\" 39 {\"n\":[1, 2]}\n\"a b\" 40 \"AAEC\"\n";
    let kept = format!("fanfare: \"a b\" is at {EPOCH}.140 and keeps what came from 21 on\n");
    for (flags, key, limit, more, messages, printed, told) in [
        (&[][..], "", 100, true, messages, printed, format!("{kept}fanfare: next: --before {EPOCH}.39\n")),
        (&["--raw"], "", 100, false, messages, "{\"n\":[1, 2]}\n\"AAEC\"\n", kept.clone()),
        (
            &["--time"],
            "",
            100,
            false,
            messages,
            "\"a b\" 39 - {\"n\":[1, 2]}\n\"a b\" 40 1764083000123 \"AAEC\"\n",
            kept.clone(),
        ),
        (
            &["--before", &place],
            "before",
            100,
            true,
            messages,
            printed,
            format!("{kept}fanfare: next: --before {EPOCH}.39\n"),
        ),
        (
            &["--after", &place],
            "after",
            100,
            true,
            messages,
            printed,
            format!("{kept}fanfare: next: --after {EPOCH}.40\n"),
        ),
        (&["--limit", "0"], "", 0, true, "", "", kept.clone()),
    ] {
        let anchor = anchor.clone();
        let script = move |_, mut socket: Socket| {
            let mut asked = serde_json::json!({"op": "history", "topic": "a b", "id": 0, "limit": limit});
            if !key.is_empty() {
                asked[key] = anchor.clone();
            }
            assert_eq!(socket.receive(), asked);
            socket.send(r#"{"op":"something_new"}"#);
            socket.send(&format!(
                r#"{{"op":"history","id":0,"topic":"a b","epoch":"{EPOCH}","seq":140,"from":21,"more":{more},"messages":[{messages}]}}"#
            ));
            socket.receive_close();
        };
        let args = [&["history", "a b"], flags].concat();
        let (code, stdout, stderr) = run(Server::start(1, script), &args, None);
        assert_eq!((stdout.as_str(), stderr), (printed, told), "{flags:?}");
        assert_eq!(code, 0);
    }
}

#[test]
fn history_of_a_topic_that_keeps_nothing_or_of_none() {
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(
            r#"{"op":"history","id":0,"topic":"a","epoch":"01473d6923fbdb87","seq":7,"from":8,"more":false,"messages":[]}"#,
        );
        socket.receive_close();
    };
    let (code, stdout, stderr) = run(Server::start(1, script), &["history", "a"], None);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert_eq!(stderr, format!("fanfare: a is at {EPOCH}.7 and keeps nothing before that\n"));

    let script = |_, mut socket: Socket| {
        socket.receive();
        socket
            .send(r#"{"op":"error","for":"history","topic":"a","id":0,"code":"unsupported","message":"no"}"#);
        socket.receive_close();
    };
    let (code, stdout, stderr) = run(Server::start(1, script), &["history", "a"], None);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, "fanfare: history was refused: no (unsupported)\n");

    let script = |_, mut socket: Socket| {
        socket.receive();
        let _ = socket.0.read_to_end(&mut Vec::new());
    };
    let (code, _, stderr) = run(Server::start(1, script), &["history", "a", "--timeout", "1"], None);
    assert_eq!((code, stderr.as_str()), (1, "fanfare: no answer for 1 s\n"));
}
