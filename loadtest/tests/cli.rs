//! The real binary: what it says and how it ends when it is asked for something wrong.

use std::{
    fs::OpenOptions,
    process::{Command, Output},
};

fn loadtest(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-loadtest"));
    command.args(args);
    command
}

#[test]
fn what_cannot_be_printed_is_told() {
    for args in [&["--help"][..], &["fanout", "--help"], &["--version"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let Output { status, stderr, .. } = loadtest(args).stdout(full).output().unwrap();
        let line = "fanfare-loadtest: cannot write to stdout: No space left on device (os error 28)\n";
        assert_eq!((String::from_utf8(stderr).unwrap().as_str(), status.code()), (line, Some(1)), "{args:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let Output { status, stderr, .. } = loadtest(&["--help"]).stdout(writer).output().unwrap();
    assert_eq!((stderr, status.code()), (vec![], Some(0)));
}

#[test]
fn what_is_wrong_is_one_line() {
    for (args, line) in [
        (
            &["fanout", "--rat", "5"][..],
            "unexpected argument '--rat' found; tip: a similar argument exists: '--rate'; ",
        ),
        (&[], "'fanfare-loadtest' requires a subcommand but one was not provided; [subcommands: fanout, "),
        (&["run"], "the following required arguments were not provided: <FILE>; "),
    ] {
        let Output { status, stdout, stderr } = loadtest(args).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(stderr.starts_with(&format!("fanfare-loadtest: {line}")), "{args:?}: {stderr}");
        assert_eq!(
            (stderr.lines().count(), stdout.len(), status.code()),
            (1, 0, Some(2)),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn help_is_written_as_it_is_typed() {
    let help = loadtest(&["--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    assert!(help.contains(r#"`scenario = "fanout"`"#), "{help}");
}
