//! `fanfare sub`, `pub` and `history` against a scripted server: a few lines of RFC 6455 on a std socket,
//! so that the server's side shares no code with the client's.

mod past;
mod server;

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Output,
};

use serde_json::Value;

use server::*;

#[test]
fn sub_prints_a_line_per_message_and_gaps_apart() {
    let script = |_, mut socket: Socket| {
        for (id, topic) in [(0, "room/#"), (1, "a")] {
            let command = socket.receive();
            assert_eq!(command, serde_json::json!({"op": "subscribe", "topic": topic, "id": id}));
            socket.send(&format!(r#"{{"op":"ok","id":{id},"topic":"{topic}"}}"#));
        }
        socket.send_frame(0x9, b"are you there");
        assert_eq!(socket.receive_frame(), (0xA, b"are you there".to_vec()));
        socket.send(r#"{"op":"message","topic":"room/42","seq":7,"data":{"n":1.0,  "big":123456789012345678901234567890}}"#);
        socket.send(r#"{"op":"gap","topic":"room/42","from":8,"to":9,"reason":"slow_consumer"}"#);
        socket.send(r#"{"op":"gap","topic":"a","reason":"restart"}"#);
        socket.send(r#"{"op":"error","code":"bad_message","message":"no"}"#);
        socket.send(r#"{"op":"something_new","topic":"room/42"}"#);
        socket.send(r#"{"op":"ok","id":1,"topic":"room/*","hint":"it is one topic"}"#);
        socket.send("{\"op\":\"message\",\"topic\":\"room/ 1\",\"seq\":1,\"data\":[\n1,\r\n2]}");
        socket.send(r#"{"op":"message","topic":"a","seq":2,"base64":"AAEC"}"#);
        socket.receive_close();
    };
    let (code, stdout, stderr) = run(Server::start(1, script), &["sub", "room/#", "a", "--count", "3"], None);
    assert_eq!(
        stdout,
        "room/42 7 {\"n\":1.0,  \"big\":123456789012345678901234567890}\n\"room/ 1\" 1 [ 1,  2]\na 2 \"AAEC\"\n"
    );
    assert_eq!(
        stderr,
        "fanfare: gap in room/42: 8 to 9 are lost (slow_consumer)\n\
         fanfare: gap in a: an unknown number of messages is lost (restart)\n\
         fanfare: a command was refused: no (bad_message)\n\
         fanfare: room/*: it is one topic\n"
    );
    assert_eq!(code, 0);
}

#[test]
fn sub_comes_back_after_a_restart_with_the_pause_that_was_asked_for() {
    let script = |number, mut socket: Socket| {
        socket.receive();
        if number == 0 {
            socket.send_close(1012, "retry_after_ms=300");
            assert_eq!(socket.receive_frame().0, 0x8);
            return;
        }
        socket.send(r#"{"op":"message","topic":"a","seq":1,"data":"hi"}"#);
        socket.receive_close();
    };
    let (code, stdout, stderr) = run(Server::start(2, script), &["sub", "a", "--count", "1", "--raw"], None);
    assert_eq!((code, stdout.as_str()), (0, "\"hi\"\n"));
    let (first, second) = stderr.split_once('\n').unwrap();
    let pause = first
        .strip_prefix("fanfare: closed with 1012 (retry_after_ms=300); trying again in ")
        .and_then(|rest| rest.strip_suffix(" s"))
        .unwrap_or_else(|| panic!("{first}"));
    assert!((0.4..=0.6).contains(&pause.parse::<f64>().unwrap()), "{pause}");
    assert_eq!(second, "fanfare: connected again; what was published in between is not replayed\n");
}

/// Events that this version of the broker never sends, and messages that say more.
#[test]
fn sub_passes_over_what_it_does_not_know() {
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(r#"{"op":"ok","id":0,"topic":"a","seq":6,"epoch":"01473d6923fbdb87"}"#);
        socket.send(r#"{"op":"epoch","topic":"a","epoch":"00000000000000ff","seq":6}"#);
        socket.send(r#"{"op":"message","topic":"a","seq":7,"user":"ann","data":1,"new":[3]}"#);
        socket.receive_close();
    };
    let result = run(Server::start(1, script), &["sub", "a", "--count", "1"], None);
    assert_eq!(result, (0, "a 7 1\n".into(), String::new()));
}

#[test]
fn sub_prints_users_and_times_where_it_is_asked() {
    for (flags, printed) in [
        (&[][..], "a 7 1\na 8 2\na 9 3\n"),
        (&["--time"], "a 7 1764083000123 1\na 8 - 2\na 9 - 3\n"),
        (&["--user"], "a 7 \"b c\" 1\na 8 - 2\na 9 \"-\" 3\n"),
        (&["--time", "--user"], "a 7 \"b c\" 1764083000123 1\na 8 - - 2\na 9 \"-\" - 3\n"),
        (&["--raw"], "1\n2\n3\n"),
    ] {
        let script = |_, mut socket: Socket| {
            socket.receive();
            socket.send(r#"{"op":"message","topic":"a","seq":7,"user":"b c","time":1764083000123,"data":1}"#);
            socket.send(r#"{"op":"message","topic":"a","seq":8,"data":2}"#);
            socket.send(r#"{"op":"message","topic":"a","seq":9,"user":"-","data":3}"#);
            socket.receive_close();
        };
        let args = [&["sub", "a", "--count", "3"], flags].concat();
        let result = run(Server::start(1, script), &args, None);
        assert_eq!(result, (0, printed.into(), String::new()), "{flags:?}");
    }
}

/// A proxy whose broker is away, one that hangs up, and one that has enough of it: the pause may double each time.
#[test]
fn sub_comes_back_to_a_broker_that_is_away_with_longer_pauses() {
    let server = Server::accept(4, |number, stream| match number {
        0 => say(stream, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
        1 => drop(stream),
        2 => say(stream, b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"),
        _ => {
            let mut socket = Socket::upgrade(stream);
            socket.receive();
            socket.send(r#"{"op":"message","topic":"a","seq":1,"data":"hi"}"#);
            socket.receive_close();
        }
    });
    let (code, stdout, stderr) = run(server, &["sub", "a", "--count", "1", "--raw"], None);
    assert_eq!((code, stdout.as_str()), (0, "\"hi\"\n"));
    let lines: Vec<(&str, f64)> = stderr
        .lines()
        .map(|line| line.strip_suffix(" s").and_then(|line| line.split_once("; trying again in ")).unwrap())
        .map(|(why, pause)| (why, pause.parse().unwrap()))
        .collect();
    let [(first, shortest), (second, _), (third, longest)] = lines[..] else { panic!("{stderr}") };
    assert_eq!(first, "fanfare: the upgrade was refused with HTTP 503");
    assert!(second.starts_with("fanfare: cannot connect to 127.0.0.1:"), "{second}");
    assert_eq!(third, "fanfare: the upgrade was refused with HTTP 429");
    assert!((0.1..=0.3).contains(&shortest) && (0.5..=1.0).contains(&longest), "{stderr}");
}

#[test]
fn sub_gives_up_where_coming_back_is_no_use() {
    for code in [1002, 1003, 1007, 1008, 1009, 4001, 4003] {
        let script = move |_, mut socket: Socket| {
            socket.receive();
            socket.send_close(code, "so it is");
            assert_eq!(socket.receive_frame().0, 0x8);
        };
        let (exit, stdout, stderr) = run(Server::start(1, script), &["sub", "a"], None);
        assert_eq!((exit, stdout.as_str()), (1, ""));
        assert_eq!(stderr, format!("fanfare: closed with {code} (so it is)\n"));
    }
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(
            r#"{"op":"error","for":"subscribe","topic":"$a","id":0,"code":"forbidden","message":"no"}"#,
        );
    };
    let (exit, _, stderr) = run(Server::start(1, script), &["sub", "$a"], None);
    assert_eq!((exit, stderr.as_str()), (1, "fanfare: subscribe was refused: no (forbidden)\n"));
}

#[test]
fn pub_sends_one_and_waits_for_its_ok() {
    let script = |_, mut socket: Socket| {
        let command = socket.receive();
        let expected = serde_json::json!({"op": "publish", "topic": "room/42", "data": -5, "id": 0});
        assert_eq!(command, expected);
        socket.send(r#"{"op":"ok","id":0,"topic":"room/42","seq":121}"#);
        socket.receive_close();
    };
    let mut server = Server::start(1, script);
    // Schemes have no case.
    server.url = server.url.replacen("ws", "WS", 1);
    let result = run(server, &["pub", "room/42", "-5", "--verbose"], None);
    assert_eq!(result, (0, "121\n".into(), String::new()));
}

#[test]
fn pub_has_what_it_sends_retained_if_it_is_told_to() {
    let script = |_, mut socket: Socket| {
        for data in [serde_json::json!({"n": 1}), Value::Null] {
            let expected =
                serde_json::json!({"op": "publish", "topic": "t", "data": data, "id": 0, "retain": true});
            let mut command = socket.receive();
            let id = std::mem::replace(&mut command["id"], 0.into());
            assert_eq!(command, expected);
            socket.send(&format!(r#"{{"op":"ok","id":{id},"topic":"t","seq":1}}"#));
        }
        socket.receive_close();
    };
    let result = run(Server::start(1, script), &["pub", "t", "--retain"], Some("{\"n\":1}\nnull\n"));
    assert_eq!(result, (0, String::new(), String::new()));
}

#[test]
fn pub_sends_a_thousand_lines_without_waiting_for_each() {
    let script = |_, mut socket: Socket| {
        // More than one are on the way before the first reply, and never more than the window.
        let first: Vec<Value> = (0..256).map(|_| socket.receive()).collect();
        assert_eq!(first[255]["data"], "255");
        for id in 0..1_000 {
            socket.send(&format!(r#"{{"op":"ok","id":{id},"topic":"t","seq":{}}}"#, id + 1));
            if id + 256 < 1_000 {
                assert_eq!(socket.receive()["id"], id + 256);
            }
        }
        socket.receive_close();
    };
    let lines: String = (0..1_000).map(|n| format!("{n}\n")).collect();
    let result = run(Server::start(1, script), &["pub", "t", "--text"], Some(&lines));
    assert_eq!(result, (0, String::new(), String::new()));
}

/// Empty ones too, one that is as long as the broker takes, and not the end of a line of Windows.
#[test]
fn pub_sends_lines_of_text_as_they_are() {
    let longest = "x".repeat(1_024);
    let input = format!("{longest}\n\na\r\n \nlast");
    let script = move |_, mut socket: Socket| {
        for (id, data) in [longest.as_str(), "", "a", " ", "last"].into_iter().enumerate() {
            assert_eq!(socket.receive()["data"], data);
            socket.send(&format!(r#"{{"op":"ok","id":{id},"topic":"t","seq":1}}"#));
        }
        socket.receive_close();
    };
    let result = run(Server::start(1, script), &["pub", "t", "--text"], Some(&input));
    assert_eq!(result, (0, String::new(), String::new()));
}

#[test]
fn what_cannot_be_printed_is_told() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let message = r#"{"op":"message","topic":"a","seq":1,"data":1}"#;
    for (args, answer) in [
        (&["sub", "a"][..], message),
        (&["sub", "a", "--count", "1"], message),
        (&["pub", "a", "1", "--verbose"], r#"{"op":"ok","id":0,"topic":"a","seq":1}"#),
    ] {
        let server = Server::start(1, move |_, mut socket: Socket| {
            socket.receive();
            socket.send(answer);
            let _ = socket.0.read_to_end(&mut Vec::new());
        });
        let mut command = fanfare(args);
        let output = command.args(["--url", &server.url]).stdout(full()).output().unwrap();
        server.script.join().unwrap();
        let line = "fanfare: cannot write to stdout: No space left on device (os error 28)\n";
        assert_eq!(
            (String::from_utf8(output.stderr).unwrap().as_str(), output.status.code()),
            (line, Some(1))
        );
    }
}

#[test]
fn pub_fails_when_a_publication_is_refused() {
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(r#"{"op":"error","for":"publish","topic":"t","id":0,"code":"forbidden","message":"no"}"#);
        socket.receive();
        socket.send(r#"{"op":"ok","id":1,"topic":"t","seq":1}"#);
        socket.receive_close();
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t"], Some("1\n\n2\n"));
    assert_eq!(
        stderr,
        "fanfare: publish was refused: no (forbidden)\nfanfare: 1 of 2 publications were refused\n"
    );
    assert_eq!(code, 1);
}

#[test]
fn pub_tells_what_a_lost_connection_left_unconfirmed() {
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.receive();
        socket.send(r#"{"op":"ok","id":0,"topic":"t","seq":1}"#);
        socket.send_close(1012, "");
        assert_eq!(socket.receive_frame().0, 0x8);
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t"], Some("1\n2\n"));
    assert_eq!(stderr, "fanfare: closed with 1012; 1 publications were confirmed, 1 were not\n");
    assert_eq!(code, 1);

    // One that was refused is neither; and a close frame may say nothing.
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.receive();
        socket.send(r#"{"op":"error","for":"publish","topic":"t","id":0,"code":"forbidden","message":"no"}"#);
        socket.send_frame(0x8, b"");
        assert_eq!(socket.receive_frame(), (0x8, vec![]));
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t"], Some("1\n2\n"));
    assert_eq!(
        stderr,
        "fanfare: publish was refused: no (forbidden)\n\
         fanfare: closed with 1005; 0 publications were confirmed, 1 were not\n"
    );
    assert_eq!(code, 1);
}

#[test]
fn pub_refuses_what_is_no_json() {
    let Output { status, stderr, .. } = fanfare(&["pub", "t", "hello"]).output().unwrap();
    assert_eq!(
        String::from_utf8(stderr).unwrap(),
        "fanfare: DATA is not JSON (expected value at line 1 column 1): \
         quote it as '\"…\"', or send it with --text\n"
    );
    assert_eq!(status.code(), Some(2));

    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(r#"{"op":"ok","id":0,"topic":"t","seq":1}"#);
        socket.receive_close();
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t"], Some("1\nhello\n3\n"));
    assert_eq!(
        stderr,
        "fanfare: line 2 of stdin is not JSON (expected value at line 1 column 1); --text sends lines as strings\n"
    );
    assert_eq!(code, 2);

    let script = |_, mut socket: Socket| socket.receive_close();
    let long = "x".repeat(1_025);
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t", "--text"], Some(&long));
    assert_eq!(stderr, "fanfare: line 1 of stdin is longer than the broker's 1024 bytes\n");
    assert_eq!(code, 2);

    let script = |_, mut socket: Socket| socket.receive_close();
    let (code, _, stderr) = run_with(Server::start(1, script), &["pub", "t", "--text"], Some(b"\xff\n"));
    assert_eq!(stderr, "fanfare: line 1 of stdin is not UTF-8\n");
    assert_eq!(code, 2);
}

#[test]
fn a_url_that_is_none() {
    for (url, line) in [
        ("http://localhost/", "only ws:// is spoken here"),
        ("localhost:7600", "only ws:// is spoken here"),
        ("wss://localhost/", "only ws:// is spoken here"),
        ("ws://127.0.0.1:99999/ws", "invalid port number"),
    ] {
        for command in ["sub", "pub", "history"] {
            let output = fanfare(&[command, "t", "--url", url]).output().unwrap();
            let expected = format!(
                "fanfare: --url {url} is not allowed: {line}; it must be as ws://127.0.0.1:7600/ws\n"
            );
            assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

#[test]
fn a_server_that_is_silent() {
    let server = no_broker("");
    let address = server.url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
    let (code, _, stderr) = run(server, &["pub", "t", "1", "--timeout", "1"], None);
    assert_eq!((code, stderr), (1, format!("fanfare: {address} has not answered for 1 s\n")));
}

#[test]
fn a_server_that_speaks_something_else() {
    for answer in ["\x15\x03\x01\0\x02\x02\x16", "SSH-2.0-OpenSSH_9.2\r\n"] {
        for command in [&["pub", "t", "1"][..], &["sub", "t"]] {
            let (code, _, stderr) = run(no_broker(answer), command, None);
            let line = "fanfare: the server does not speak fanfare.json.v1: no answer in HTTP (";
            assert!(stderr.starts_with(line) && stderr.lines().count() == 1, "{stderr}");
            assert_eq!(code, 1);
        }
    }
}

/// It upgrades, and then it is not what was asked for.
#[test]
fn a_server_of_another_protocol() {
    const OURS: &str = "Sec-WebSocket-Protocol: fanfare.json.v1\r\n";
    for (protocol, hello, why) in [
        ("", HELLO, "it did not choose the subprotocol"),
        ("Sec-WebSocket-Protocol: chat\r\n", HELLO, "it did not choose the subprotocol"),
        (OURS, r#"{"op":"welcome"}"#, "its first message is no hello"),
        (OURS, HELLO, "it sent a binary message"),
    ] {
        for command in [&["pub", "t", "1"][..], &["sub", "t"]] {
            let server = Server::accept(1, move |_, stream| {
                let mut socket = Socket::upgrade_to(stream, protocol, hello);
                let _ = socket.0.get_mut().write_all(&frame(0x2, b"\0"));
                let _ = socket.0.read_to_end(&mut Vec::new());
            });
            let (code, _, stderr) = run(server, command, None);
            // What was published meanwhile is told as well.
            let line = format!("fanfare: the server does not speak fanfare.json.v1: {why}");
            assert!(stderr.starts_with(&line) && stderr.lines().count() == 1, "{stderr}");
            assert_eq!(code, 1);
        }
    }
}

#[test]
fn a_refusal_of_the_upgrade_is_passed_on() {
    let not_found = |kind: &str, body: &str| {
        let len = body.len();
        format!("HTTP/1.1 404 Not Found\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n{body}")
    };
    for (answer, line) in [
        (not_found("text/plain; charset=utf-8", "the path is `/wrong`\n"), "HTTP 404: the path is `/wrong`"),
        // A terminal is told nothing but text, and no more than a line should have.
        (not_found("text/plain", "\x1b[2Jno\u{7}\nmore\n"), "HTTP 404: [2Jno"),
        (not_found("text/plain", &"x".repeat(5_000)), "HTTP 404"),
        (not_found("text/html", "<html>"), "HTTP 404"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), "HTTP 200"),
    ] {
        for command in [&["pub", "t", "1"][..], &["sub", "t"]] {
            let (code, _, stderr) = run(no_broker(answer.as_str()), command, None);
            assert_eq!((code, stderr), (1, format!("fanfare: the upgrade was refused with {line}\n")));
        }
    }
}

/// It lives, by its pings, and neither takes nor refuses what it got.
#[test]
fn a_broker_that_does_not_answer() {
    let script = |_, mut socket: Socket| {
        assert_eq!(socket.receive()["id"], 0);
        socket.send_frame(0x9, b"");
        assert_eq!(socket.receive_frame().0, 0xA);
        let _ = socket.0.read_to_end(&mut Vec::new());
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t", "1", "--timeout", "1"], None);
    let line = "fanfare: no answer for 1 s; 0 publications were confirmed, 1 were not\n";
    assert_eq!((code, stderr.as_str()), (1, line));

    // A subscriber comes back.
    let script = |number, mut socket: Socket| {
        socket.receive();
        socket.receive();
        socket.send(r#"{"op":"ok","id":0,"topic":"a"}"#);
        if number == 0 {
            let _ = socket.0.read_to_end(&mut Vec::new());
            return;
        }
        socket.send(r#"{"op":"message","topic":"a","seq":1,"data":1}"#);
        socket.receive_close();
    };
    let args = ["sub", "a", "b", "--timeout", "1", "--count", "1"];
    let (code, stdout, stderr) = run(Server::start(2, script), &args, None);
    assert_eq!((code, stdout.as_str()), (0, "a 1 1\n"));
    let line = "fanfare: no answer to 1 subscribe commands for 1 s; trying again in ";
    assert!(stderr.starts_with(line), "{stderr}");
}

#[test]
fn pub_takes_an_error_without_an_id_for_an_answer() {
    let script = |_, mut socket: Socket| {
        socket.receive();
        socket.send(r#"{"op":"error","code":"bad_message","message":"no"}"#);
        socket.receive_close();
    };
    let (code, _, stderr) = run(Server::start(1, script), &["pub", "t", "1e400"], None);
    let lines =
        "fanfare: a command was refused: no (bad_message)\nfanfare: 1 of 1 publications were refused\n";
    assert_eq!((code, stderr.as_str()), (1, lines));
}

#[test]
fn pub_without_a_broker() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = fanfare(&["pub", "t", "1", "--url", &format!("ws://{address}/ws")]).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!("fanfare: cannot connect to {address}: Connection refused (os error 111)\n")
    );
    assert_eq!(output.status.code(), Some(1));
}
