//! The clients of the command line against a broker that keeps what is published.

use std::{
    io::{BufRead, BufReader},
    process::{Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

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

/// Prints the newest of each topic of a filter, so many, and is interrupted when it was told the moment; what to go on with.
fn moment_of(broker: &Broker, filter: &str, count: usize) -> String {
    for _ in 0..100 {
        let mut command = broker_command();
        command.args(["sub", filter, "--last", "1", "--url", &format!("ws://{}/ws", broker.address)]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(stdout.lines().take(count).count(), count);
        // The end of the past is not printed: it comes right behind.
        thread::sleep(Duration::from_millis(50));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
        if let Some(next) = stderr.strip_prefix("fanfare: next: ") {
            return next.trim_end().to_owned();
        }
        assert_eq!(stderr, "");
    }
    panic!("it was never told a moment");
}

/// As a shell user does, who copies the line: also topics that the filter did not know, and nothing twice.
#[test]
fn sub_of_a_filter_goes_on_where_it_was_told_to() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &["topic=[{ match = '#', history_count = 100 }]"]);
        let publish = |topics: &[&str], data: &str| {
            topics.iter().for_each(|topic| drop(run(&broker, &["pub", topic, data])));
        };
        let go_on = |next: &str, count: usize| {
            let line = format!("\"$0\" sub 'room/#' {next} --count {count} --url ws://{}/ws", broker.address);
            let program = broker_command().get_program().to_owned();
            let output = std::process::Command::new("sh").arg("-c").arg(line).arg(program).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{stderr}");
            let mut lines: Vec<String> =
                String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            (
                lines,
                stderr
                    .strip_prefix("fanfare: next: ")
                    .unwrap_or_else(|| panic!("{stderr}"))
                    .trim_end()
                    .to_owned(),
            )
        };
        publish(&["room/a", "room/b", "elsewhere"], "1");
        let next = moment_of(&broker, "room/#", 2);
        assert!(!next.contains('\''), "{next}");
        publish(&["room/a", "room/it's", "elsewhere"], "2");
        let (lines, next) = go_on(&next, 2);
        assert_eq!(lines, ["room/a 2 2", "room/it's 1 2"]);
        publish(&["room/b", "room/it's"], "3");
        let (lines, next) = go_on(&next, 2);
        assert_eq!(lines, ["room/b 2 3", "room/it's 2 3"]);
        publish(&["room/c"], "4");
        assert_eq!(go_on(&next, 1).0, ["room/c 1 4"]);
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
