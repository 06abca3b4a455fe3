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
