//! The clients of the command line against a broker that keeps what is published.

use std::process::{Output, Stdio};

use crate::common::{Broker, broker_command};

/// Runs a client to its good end; what it printed, and its lines on stderr.
fn run(broker: &Broker, args: &[&str]) -> (String, Vec<String>) {
    let mut command = broker_command();
    command.args(args).args(["--url", &format!("ws://{}/ws", broker.address)]).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{args:?}: {stderr}");
    (String::from_utf8(stdout).unwrap(), stderr.lines().map(str::to_owned).collect())
}

fn publish(broker: &Broker, numbers: std::ops::RangeInclusive<u64>) {
    numbers.for_each(|number| drop(run(broker, &["pub", "room/42", &number.to_string()])));
}

/// What follows `next: ` on the last line, flag and place.
fn next(lines: &[String]) -> Vec<String> {
    let next = lines.last().and_then(|line| line.strip_prefix("fanfare: next: "));
    next.unwrap_or_else(|| panic!("{lines:?}")).split(' ').map(str::to_owned).collect()
}

/// Each run goes on where the one before says.
#[test]
fn sub_goes_on_where_it_was_told_to() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &["topic=[{ match = '#', history_count = 100 }]"]);
        publish(&broker, 1..=5);
        let (printed, lines) = run(&broker, &["sub", "room/42", "--last", "2", "--count", "2"]);
        assert_eq!(printed, "room/42 4 4\nroom/42 5 5\n");
        publish(&broker, 6..=7);
        let next = next(&lines);
        let since =
            [&["sub", "room/42", "--count", "2"], &*next.iter().map(|it| &**it).collect::<Vec<_>>()].concat();
        let (printed, lines) = run(&broker, &since);
        assert_eq!(printed, "room/42 6 6\nroom/42 7 7\n");
        assert_eq!(lines.len(), 1, "{lines:?}");

        let foreign = ["sub", "room/42", "--since", "00000000000000ff.1", "--last", "1", "--count", "1"];
        let (printed, lines) = run(&broker, &foreign);
        assert_eq!(printed, "room/42 7 7\n");
        let told =
            "fanfare: room/42: not all that came after 00000000000000ff.1 is kept; the newest 1 follow";
        assert_eq!(lines[0], told);
        broker.stop();
    }
}

/// From the newest back to the oldest, a page after the other; and that the position alone is told.
#[test]
fn history_goes_through_all_that_is_kept() {
    let broker = Broker::start(2, &["topic=[{ match = 'room/#', history_count = 5 }]"]);
    publish(&broker, 1..=7);
    let mut args: Vec<String> = ["history", "room/42", "--limit", "2"].map(str::to_owned).to_vec();
    let mut pages = Vec::new();
    loop {
        let (printed, lines) = run(&broker, &args.iter().map(|it| &**it).collect::<Vec<_>>());
        pages.push(printed);
        assert!(lines[0].ends_with(".7 and keeps what came from 3 on"), "{lines:?}");
        if lines.len() == 1 {
            break;
        }
        args.truncate(4);
        args.extend(next(&lines));
    }
    assert_eq!(pages, ["room/42 6 6\nroom/42 7 7\n", "room/42 4 4\nroom/42 5 5\n", "room/42 3 3\n"]);

    let (printed, lines) = run(&broker, &["history", "room/43", "--limit", "0"]);
    assert_eq!(printed, "");
    assert!(
        lines[0].starts_with("fanfare: room/43 is at ")
            && lines[0].ends_with(".0 and keeps nothing before that")
    );
    broker.stop();
}
