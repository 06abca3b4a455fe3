//! Clients connect to a Unix socket: it is there while a broker serves, and nobody else's file is touched for it.

use std::{
    fs,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{self, Output},
};

use serde_json::json;

use super::restart::activated;
use crate::common::{Broker, broker_command, raw::Raw};

/// A directory of the test's own, which is removed with this.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        // Not in the target directory, whose path may be longer than a socket's may be.
        let path = std::env::temp_dir().join(format!("fanfare-unix-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> Raw {
    Raw::connect_unix(path).upgraded()
}

/// Somebody subscribes, somebody publishes.
fn expect_service(path: &Path) {
    let (mut subscriber, mut publisher) = (open(path), open(path));
    assert_eq!(subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
    let ok = publisher.ask(r#"{"op":"publish","topic":"t","data":1,"id":1}"#);
    let message = json!({"op": "message", "topic": "t", "seq": ok["seq"], "data": 1});
    assert_eq!(subscriber.receive(), message);
    subscriber.close();
    publisher.close();
}

/// Every reactor accepts, whatever the limit per address: there is no address. At the drain it is gone at once.
#[test]
fn clients_of_a_unix_socket_are_served_by_all_reactors() {
    let directory = Directory::new("serves");
    let path = directory.path("ws.sock");
    let settings = ["listen.mode=606", "limits.connections_per_address_max=1"];
    let broker = Broker::start_at(&path, 2, &settings);
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o606);
    expect_service(&path);
    let mut clients: Vec<Raw> = (0..100).map(|_| open(&path)).collect();
    let accepts = broker.metric("fanfare_accepts_total", "");
    assert!(accepts.iter().all(|count| *count > 20.0), "{accepts:?}");
    broker.terminate();
    for client in &mut clients {
        client.receive_restart();
    }
    assert!(!path.exists());
    clients.into_iter().for_each(|client| client.answer_close(1012));
    broker.wait();
}

/// The binary's own client reaches it by the URL that the banner tells.
#[test]
fn sub_and_pub_reach_a_unix_socket() {
    let directory = Directory::new("client");
    let path = directory.path("ws.sock");
    let broker = Broker::start_at(&path, 1, &[]);
    let url = format!("unix:{}", path.display());
    let mut subscriber = open(&path);
    assert_eq!(subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
    let output = broker_command().args(["pub", "t", "1", "--url", &url]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(subscriber.receive()["data"], 1);
    subscriber.close();
    broker.stop();
    let Output { status, stderr, .. } =
        broker_command().args(["pub", "t", "1", "--url", &url]).output().unwrap();
    assert_eq!(
        (status.code(), String::from_utf8(stderr).unwrap()),
        (Some(1), format!("fanfare: cannot connect to {url}: No such file or directory (os error 2)\n"))
    );
}

/// What is no socket, and one that a broker listens at, are as they were.
#[test]
fn the_path_of_a_unix_socket_is_nobody_else_s() {
    let directory = Directory::new("refused");
    let (file, link, live) = (directory.path("file"), directory.path("link"), directory.path("live"));
    fs::write(&file, "precious").unwrap();
    symlink(&live, &link).unwrap();
    let broker = Broker::start_at(&live, 1, &[]);
    let left_alone = |what| {
        format!(
            "is {what}, which is left alone: name a path where nothing is, or a socket that a broker left behind"
        )
    };
    for (path, why) in [
        (&file, left_alone("an ordinary file")),
        (&link, left_alone("a symbolic link")),
        (&directory.0, left_alone("a directory")),
        (
            &live,
            "cannot be listened on: another process does; choose another with --listen, or take its place with \
             --takeover"
                .into(),
        ),
        (
            &directory.path("none/ws.sock"),
            "cannot be listened on: No such file or directory (os error 2); choose a path in a directory that this \
             user may write"
                .into(),
        ),
    ] {
        let listen = format!("unix:{}", path.display());
        let output = broker_command().args(["--listen", &listen, "--admin", ""]).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(1), format!("fanfare: listen.address = \"{listen}\" {why}\n"))
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    expect_service(&live);
    broker.stop();
    assert!(!live.exists() && link.is_symlink());
}

/// The kernel closes the listener of the first one some time after its process is gone; the file stays.
#[test]
fn a_unix_socket_that_a_killed_broker_left_is_taken() {
    let directory = Directory::new("killed");
    let path = directory.path("ws.sock");
    let broker = Broker::start_at(&path, 2, &[]);
    let _client = open(&path);
    broker.kill();
    assert!(path.exists());
    let broker = Broker::start_at(&path, 2, &[]);
    expect_service(&path);
    broker.stop();
    assert!(!path.exists());
}

/// Whoever has put a socket of his own there keeps it.
#[test]
fn the_unix_socket_of_another_is_left_at_the_end() {
    let directory = Directory::new("other");
    let path = directory.path("ws.sock");
    let broker = Broker::start_at(&path, 1, &[]);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    broker.stop();
    UnixStream::connect(&path).unwrap();
}

/// The file is the same all the time; the last one takes it along.
#[test]
fn a_takeover_hands_a_unix_socket_over() {
    let directory = Directory::new("takeover");
    let path = directory.path("ws.sock");
    let control = format!("control.socket={}", directory.path("control").display());
    let first = Broker::start_at(&path, 2, &[&control]);
    let inode = || fs::metadata(&path).unwrap().ino();
    let before = inode();
    let mut client = open(&path);
    let starting = first.succeed(3);
    client.receive_restart();
    // It waits in the queue for the successor.
    let mut waiting = Raw::connect_unix(&path);
    client.answer_close(1012);
    first.wait();
    let second = starting.wait_until_ready();
    waiting = waiting.upgraded();
    waiting.close();
    expect_service(&path);
    assert_eq!(inode(), before);
    second.stop();
    assert!(!path.exists());
}

/// This test is the service manager: the socket and its file are its own.
#[test]
fn a_unix_socket_of_a_service_manager_outlives_the_broker() {
    let directory = Directory::new("activated");
    let path = directory.path("ws.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let passed = [OwnedFd::from(listener)];
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    for _ in 0..2 {
        let command = activated(&passed, "clients");
        let listen = format!("unix:{}", path.display());
        let broker = Broker::start_activated(command, listen, any, 2, &[]);
        expect_service(&path);
        broker.stop();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
