//! The real binary: what it says and how it ends when it is asked for something wrong, and that a flag
//! wins over the environment, that over the file, that over the defaults.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The binary with none of the caller's FANFARE_ variables.
fn fanfare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"FANFARE_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// Asserts that the command ends with `code` and exactly this one line on stderr.
fn assert_fails(command: &mut Command, code: i32, line: &str) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!(String::from_utf8(stderr).unwrap(), format!("fanfare: {line}\n"));
    assert_eq!(status.code(), Some(code));
    assert!(stdout.is_empty());
}

fn stdout_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!(String::from_utf8(stderr).unwrap(), "");
    assert_eq!(status.code(), Some(0));
    String::from_utf8(stdout).unwrap()
}

/// A file of this text in a directory of its own, so that its name in errors is known.
fn file(text: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{number}"));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("fanfare.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Asserts that a file of this text is refused with `{path}{line}`, by `check` and by `serve`.
fn assert_file_refused(text: &str, line: &str) {
    let path = file(text);
    let path = path.to_str().unwrap();
    assert_fails(&mut fanfare(&["config", "check", path]), 2, &format!("{path}{line}"));
    assert_fails(&mut fanfare(&["serve", "--config", path]), 2, &format!("{path}{line}"));
}

#[test]
fn the_default_file_is_printed_and_passes_its_check() {
    let text = stdout_of(&mut fanfare(&["config", "default"]));
    assert!(text.contains("\n[listen]\n") && text.contains("\naddress = \"127.0.0.1:7600\"\n"), "{text}");
    let path = file(&text);
    let path = path.to_str().unwrap();
    assert_eq!(stdout_of(&mut fanfare(&["config", "check", path])), format!("{path}: ok\n"));
    assert_eq!(stdout_of(fanfare(&["config", "check"]).env("FANFARE_CONFIG", path)), format!("{path}: ok\n"));
    assert_eq!(stdout_of(&mut fanfare(&["config", "check"])), "the defaults: ok\n");
    assert_eq!(stdout_of(fanfare(&["config", "check"]).env("FANFARE_CONFIG", "")), "the defaults: ok\n");
}

#[test]
fn what_cannot_be_printed_is_told() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["config", "default"][..], &["config", "check"], &["probe"], &["--help"], &["--version"]] {
        let Output { status, stderr, .. } = fanfare(args).stdout(full()).output().unwrap();
        let line = "fanfare: cannot write to stdout: No space left on device (os error 28)\n";
        assert_eq!((String::from_utf8(stderr).unwrap().as_str(), status.code()), (line, Some(1)), "{args:?}");
        // Nor is it a reason to panic if even that cannot be told.
        let status = fanfare(args).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{args:?}");
    }
    // A reader that went away wants no more.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let Output { status, stderr, .. } = fanfare(&["config", "default"]).stdout(writer).output().unwrap();
    assert_eq!((stderr, status.code()), (vec![], Some(0)));
}

#[test]
fn an_unknown_key_in_a_file() {
    assert_file_refused(
        "# a comment\n[listen]\nadress = \"127.0.0.1:1\"\n",
        ":3: there is no key listen.adress; did you mean listen.address?",
    );
    assert_file_refused("[lissten]\n", ":1: there is no key lissten; did you mean listen?");
    assert_file_refused(
        "[listen]\nflavour = 3\n",
        ":2: there is no key listen.flavour; `fanfare config default` lists every key",
    );
    assert_file_refused(
        "[[topic]]\nmatch = \"a\"\nslow_consumers = \"skip\"\n",
        ":3: there is no key topic.slow_consumers; did you mean topic.slow_consumer?",
    );
}

/// They overlap, match nothing, say nothing, or are written as they were once.
#[test]
fn policies_in_a_file() {
    let overlapping =
        "[[topic]]\nmatch = \"a/+\"\nowed_ms_max = 0\n[[topic]]\nmatch = \"+/b\"\nslow_consumer = \"skip\"\n";
    let path = file(overlapping);
    let path = path.to_str().unwrap();
    assert_eq!(stdout_of(&mut fanfare(&["config", "check", path])), format!("{path}: ok\n"));
    assert_file_refused(
        "[[topic]]\nmatch = \"a/#\"\nowed_ms_max = 0\n\n[[topic]]\nmatch = \"a/#\"\nslow_consumer = \"skip\"\n",
        ":6: topic.match = \"a/#\" is not allowed: \
         it must be a filter that no other [[topic]] has: put what both set into one",
    );
    assert_file_refused(
        "[[topic]]\nmatch = \"a\"\nhistory_format = \"xml\"\n",
        ":3: topic.history_format = \"xml\" is not allowed: it must be \"json\" or \"binary\"",
    );
    assert_file_refused(
        "[[topic]]\nmatch = \"a\"\nstamp = [\"name\"]\n",
        ":3: topic.stamp = [\"name\"] is not allowed: it must be an array that holds \"user\", \"time\", both or nothing",
    );
    assert_file_refused(
        "[[topic]]\nmatch = \"a\"\nhistory_count = -1\n",
        ":3: topic.history_count = -1 is not allowed: it must be 0 or an integer from 1 to 10_000_000 (publications)",
    );
    let allowed = "it must be a table with match and what it sets, such as slow_consumer";
    assert_file_refused(
        "[[topic]]\nmatch = \"a\"\n",
        &format!(":1: topic = [[topic]] is not allowed: {allowed}"),
    );
    assert_file_refused(
        "\n[[topic]]\nslow_consumer = \"skip\"\n",
        &format!(":2: topic = [[topic]] is not allowed: {allowed}"),
    );
    assert_file_refused(
        "[topic]\nmatch = \"a\"\n",
        ":1: topic = [topic] is not allowed: \
         it must be an array of tables such as { match = \"ticker/#\", slow_consumer = \"skip\" }",
    );
    assert_file_refused(
        "[delivery]\nowed_ms_max = 500\n[[delivery.topics]]\nfilter = \"a\"\nslow_consumer = \"skip\"\n",
        ":3: there is no key delivery.topics any more: write each entry as a table [[topic]] with match in place of \
         filter, and mind that the most specific one that matches decides, wherever it stands",
    );
    assert_file_refused("[[topics]]\nmatch = \"a\"\n", ":1: there is no key topics; did you mean topic?");
}

#[test]
fn a_bad_value_in_a_file() {
    assert_file_refused(
        "[reactor]\nbuffer_count = 500\n",
        ":2: reactor.buffer_count = 500 is not allowed: it must be a power of two from 16 to 32_768 (buffers)",
    );
    assert_file_refused(
        "[listen]\n\naddress = \"localhost\"\n",
        ":3: listen.address = \"localhost\" is not allowed: \
         it must be an IP address and port such as 127.0.0.1:7600 or [::]:7600 (names are not resolved), \
         or unix: and an absolute path of at most 107 bytes such as unix:/run/fanfare/ws.sock",
    );
    assert_file_refused(
        "[timeouts]\nping_ms = \"25s\"\n",
        ":2: timeouts.ping_ms = \"25s\" is not allowed: \
         it must be an integer from 100 to 3_600_000 (milliseconds)",
    );
    assert_file_refused(
        "[delivery]\nslow_consumer = \"drop\"\n",
        ":2: delivery.slow_consumer = \"drop\" is not allowed: it must be \"disconnect\" or \"skip\"",
    );
    assert_file_refused(
        "[[topic]]\nmatch = \"a/#/b\"\nslow_consumer = \"skip\"\n",
        ":2: topic.match = \"a/#/b\" is not allowed: \
         it must be a topic of 1 to 256 bytes, with + for one level or # for all that follow",
    );
    assert_file_refused("listen = 5\n", ":1: listen is a section: write [listen]");
    assert_file_refused(
        "[log]\njson = yes\n",
        ":2: not valid TOML: string values must be quoted, expected literal string",
    );
    assert_file_refused(
        "[listen]\naddress = 0.0.0.0:80 # everywhere\n",
        ":2: not valid TOML: strings need quotes: write address = \"0.0.0.0:80\"",
    );
}

#[test]
fn values_that_do_not_go_together() {
    let line = "limits.message_bytes_max = 1048576 is not allowed with delivery.owed_bytes_max = 65536: \
                a connection must be able to be owed one whole message, which may be 1400664 bytes as JSON";
    assert_fails(&mut fanfare(&["serve", "--set", "delivery.owed_bytes_max=65_536"]), 2, line);
    let line = "limits.message_bytes_max = 4194305 is not allowed with limits.log_bytes_max = 16777216: \
                a message on its way to another reactor counts there, and may be a quarter of it";
    let log = ["serve", "--set", "limits.log_bytes_max=16_777_216", "--set"];
    assert_fails(fanfare(&log).arg("limits.message_bytes_max=4_194_305"), 2, line);
    let line = "admin.address = \"127.0.0.1:7601\" is not allowed with listen.address = \"0.0.0.0:7601\": \
                clients and the operator need ports of their own";
    assert_fails(&mut fanfare(&["serve", "--listen", "0.0.0.0:7601"]), 2, line);
    let line = "listen.address = \"0.0.0.0:7602\" is reachable by others than this machine, and whoever reaches it may \
         publish and subscribe: say in [auth] who may, listen on 127.0.0.1 or a Unix socket, behind a proxy that lets \
         nobody in who must not, or say --insecure (listen.insecure = true)";
    assert_fails(&mut fanfare(&["serve", "--listen", "0.0.0.0:7602"]), 2, line);
}

#[test]
fn a_file_that_is_not_there() {
    assert_fails(
        &mut fanfare(&["config", "check", "/nonexistent/fanfare.toml"]),
        2,
        "cannot read the configuration file /nonexistent/fanfare.toml: No such file or directory (os error 2)",
    );
}

#[test]
fn wrong_variables() {
    let mut check = fanfare(&["config", "check"]);
    let Output { status, stderr, .. } = check.env("FANFARE_LISTEN_ADRESS", "127.0.0.1:1").output().unwrap();
    assert_eq!(
        String::from_utf8(stderr).unwrap(),
        "fanfare: the variable FANFARE_LISTEN_ADRESS is no key and is passed over; did you mean FANFARE_LISTEN_ADDRESS?\n"
    );
    assert_eq!(status.code(), Some(0));
    assert_fails(
        fanfare(&["serve"]).env("FANFARE_REACTOR_COUNT", "65"),
        2,
        "FANFARE_REACTOR_COUNT: reactor.count = 65 is not allowed: it must be an integer from 0 to 62 (reactors)",
    );
    assert_fails(
        fanfare(&["serve"]).env("FANFARE_LOG_LEVEL", "verbose"),
        2,
        "FANFARE_LOG_LEVEL: log.level = verbose is not allowed: \
         it must be off, error, warn, info, debug, trace or a filter such as info,fanfare::control=debug",
    );
    assert_fails(
        fanfare(&["serve"]).env("FANFARE_LOG_JSON", ""),
        2,
        "FANFARE_LOG_JSON: log.json = \"\" is not allowed: it must be true or false",
    );
    assert_fails(
        fanfare(&["config", "check"]).env("FANFARE_LOG_LEVEL", OsStr::from_bytes(b"\xff")),
        2,
        "FANFARE_LOG_LEVEL: the environment holds \"\\xFF\", which is not UTF-8",
    );
    // What Kubernetes sets for a service named fanfare is not ours.
    stdout_of(
        fanfare(&["config", "check"])
            .env("FANFARE_SERVICE_HOST", "10.0.0.1")
            .env("FANFARE_PORT_7600_TCP", "tcp://10.0.0.1:7600"),
    );
}

#[test]
fn wrong_flags() {
    assert_fails(
        &mut fanfare(&["serve", "--listen", "7600"]),
        2,
        "--listen: listen.address = 7600 is not allowed: \
         it must be an IP address and port such as 127.0.0.1:7600 or [::]:7600 (names are not resolved), \
         or unix: and an absolute path of at most 107 bytes such as unix:/run/fanfare/ws.sock",
    );
    assert_fails(
        &mut fanfare(&["--set", "reactor.counts=1"]),
        2,
        "--set: there is no key reactor.counts; did you mean reactor.count?",
    );
    assert_fails(
        &mut fanfare(&["--set", " reactor.count = 65 "]),
        2,
        "--set: reactor.count = 65 is not allowed: it must be an integer from 0 to 62 (reactors)",
    );
    assert_fails(
        &mut fanfare(&["--set", "backlog=5"]),
        2,
        "--set: there is no key backlog; did you mean listen.backlog?",
    );
    assert_fails(
        &mut fanfare(&["--set", "address=5"]),
        2,
        "--set: there is no key address; did you mean listen.address or admin.address?",
    );
    assert_fails(
        &mut fanfare(&["sub"]),
        2,
        "the following required arguments were not provided: <FILTERS>...; `fanfare --help` says what there is",
    );
    assert_fails(
        &mut fanfare(&["config"]),
        2,
        "'fanfare config' requires a subcommand but one was not provided; [subcommands: default, check, permissions, help]; \
         `fanfare --help` says what there is",
    );
    assert_fails(
        &mut fanfare(&["--set", "reactor.count"]),
        2,
        "--set reactor.count has no value: write --set KEY=VALUE, as in --set listen.backlog=1024",
    );
    assert_fails(
        &mut fanfare(&["serve", "--lisen", "127.0.0.1:1"]),
        2,
        "unexpected argument '--lisen' found; tip: a similar argument exists: '--listen'; \
         `fanfare --help` says what there is",
    );
    assert_fails(
        &mut fanfare(&["serv"]),
        2,
        "unrecognized subcommand 'serv'; tip: a similar subcommand exists: 'serve'; \
         `fanfare --help` says what there is",
    );
}

#[test]
fn the_probe_answers() {
    let output = fanfare(&["probe"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
}

/// Reactors write a chunk for each encoding that may be received, of which compression makes twice as many.
#[test]
fn too_little_log_for_the_reactors() {
    for (reactors, settings, bytes_min) in
        [(22, &[][..], 17_301_504), (13, &["--set", "deflate.enabled=true"], 17_039_360)]
    {
        let serve =
            ["serve", "--listen", "127.0.0.1:0", "--admin", "", "--set", "limits.log_bytes_max=16777216"];
        assert_fails(
            fanfare(&serve).args(["--reactors", &reactors.to_string()]).args(settings),
            1,
            &format!(
                "limits.log_bytes_max = 16777216 is too little for {reactors} reactors: at least {bytes_min} bytes, \
                 or set reactor.count"
            ),
        );
    }
}

/// It would be replaced at the start and removed at the end.
#[test]
fn a_control_socket_where_a_file_is() {
    let precious = file("precious");
    let path = precious.to_str().unwrap();
    assert_fails(
        fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin", "", "--reactors", "1"])
            .args(["--set", &format!("control.socket={path}")]),
        1,
        &format!(
            "control.socket = \"{path}\" is an ordinary file, which is left alone: \
             name a path where nothing is, or a socket that a broker left behind"
        ),
    );
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
}

/// Has the kernel refuse a system call to `command` with `errno`, as a container's seccomp profile does.
fn refuse(command: &mut Command, call: libc::c_long, errno: i32) {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    // SAFETY: only system calls, with a program that lives as long as the closure.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let is_set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// Whatever the kernel refuses, the line names what to change. What needs more memory or more threads than there
/// may be is refused with the errors of the kernel, since no limit holds for a test that root runs.
#[test]
fn what_the_kernel_refuses_at_the_start_is_told_with_its_remedy() {
    for (call, errno, words) in [
        (libc::SYS_clone3, libc::EPERM, &["clone3 is forbidden", "seccomp"][..]),
        (libc::SYS_clone3, libc::EAGAIN, &["no more threads", "LimitNPROC=", "TasksMax="]),
        (libc::SYS_io_uring_setup, libc::EPERM, &["io_uring_setup", "seccomp"]),
        (libc::SYS_io_uring_setup, libc::ENOMEM, &["raise RLIMIT_MEMLOCK to 2 MiB or more", "LimitMEMLOCK="]),
        (libc::SYS_io_uring_register, libc::ENOMEM, &["raise RLIMIT_MEMLOCK to 2 MiB or more"]),
        (libc::SYS_io_uring_enter, libc::EPERM, &["allow io_uring"]),
        (libc::SYS_epoll_create1, libc::EPERM, &["allow epoll_create1", "seccomp"]),
        (libc::SYS_eventfd2, libc::EMFILE, &["LimitNOFILE="]),
    ] {
        let mut command = fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin", "", "--reactors", "1"]);
        refuse(&mut command, call, errno);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let line = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{line}");
        assert!(stdout.is_empty() && line.lines().count() == 1, "{line}");
        for word in words {
            assert!(line.contains(word), "{word} is missing: {line}");
        }
    }
}

/// Of a limit that nobody tells, none is made up.
#[test]
fn a_limit_of_descriptors_that_the_kernel_does_not_tell() {
    let mut command = fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin", "", "--reactors", "1"]);
    refuse(&mut command, libc::SYS_prlimit64, libc::EPERM);
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    for words in ["the limit of open files could not be raised: Operation not permitted", "0 are too few"] {
        assert!(text.contains(words), "{words} is missing: {text}");
    }
}

/// The process may run on one core only; five reactors share it.
#[test]
fn the_banner_says_on_how_many_cores_reactors_run() {
    for (arguments, line) in [
        (&["--reactors", "5"][..], "  reactors  5 on 1 core, pinned (reactor.count)"),
        (
            &["--reactors", "5", "--set", "reactor.pin=false"],
            "  reactors  5 on 1 core, not pinned (reactor.count)",
        ),
    ] {
        let mut command = fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin", ""]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: only system calls, on values of the closure.
        unsafe {
            command.pre_exec(|| {
                let mut cores: libc::cpu_set_t = std::mem::zeroed();
                libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cores);
                let is_in = |core: &usize| libc::CPU_ISSET(*core, &cores);
                let first = (0..libc::CPU_SETSIZE as usize).find(is_in).unwrap_or(0);
                libc::CPU_ZERO(&mut cores);
                libc::CPU_SET(first, &mut cores);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores);
                Ok(())
            });
        }
        let mut broker = command.spawn().unwrap();
        let banner = BufReader::new(broker.stdout.take().unwrap()).lines().map_while(Result::ok);
        let lines: Vec<String> = banner.take(5).collect();
        broker.kill().unwrap();
        broker.wait().unwrap();
        assert!(lines.iter().any(|it| it == line), "{lines:?}");
    }
}

/// One reactor and what the broker has of its own take 131.
#[test]
fn too_few_descriptors_for_the_first_connection() {
    let mut command = fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin", "", "--reactors", "1"]);
    // SAFETY: only a system call, on a value of the closure.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 130, rlim_max: 130 };
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            Ok(())
        });
    }
    assert_fails(
        &mut command,
        1,
        "this machine lacks file descriptors: 130 are too few, the first connection needs 132; \
         raise it (`ulimit -Hn`, `LimitNOFILE=` in systemd)",
    );
}

#[test]
fn an_admin_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_fails(
        &mut fanfare(&["serve", "--admin", &address]),
        1,
        &format!(
            "admin.address = \"{address}\" cannot be listened on: the address is in use by another process; \
             choose another with --admin, or turn it off with --admin ''"
        ),
    );
}
