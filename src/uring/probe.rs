//! What this kernel offers of what fanfare needs, found out by doing it, and what to do about the rest.
//!
//! A version number says little: distributions backport, containers filter system calls, sysctls
//! switch io_uring off. So each feature is tried on a ring like a reactor's, and only what cannot be
//! tried cheaply is asked for.

use std::{
    fmt, fs,
    io::{self, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::mpsc,
    thread,
};

use io_uring::{IoUring, Probe, opcode};
use rustix::{
    net::{Shutdown, shutdown},
    param::page_size,
};

use super::{
    Completion, Io, Op, Token, Wait,
    buffers::BufferRing,
    remedy::{PATIENCE_NS, Step, Surroundings, explain},
    ring::{self, Ring, RingConfig},
    wake::Doorbell,
};

/// Descriptors that are not for connections to be served: those of connections that are being refused, and
/// logs, files, the admin listener's and the control socket's.
pub const DESCRIPTORS_RESERVED: u64 = 128;
/// A reactor's ring, its listener and the duplicate of that.
const DESCRIPTORS_PER_REACTOR: u64 = 3;
/// The name of the finding about their limit.
pub const DESCRIPTORS: &str = "file descriptors";

/// Descriptors that a broker with so many reactors needs besides one per connection.
pub fn reserved_descriptors(reactor_count: usize) -> u64 {
    DESCRIPTORS_RESERVED + DESCRIPTORS_PER_REACTOR * reactor_count as u64
}

/// What is asked of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Connections that the broker is to hold.
    pub connections: u64,
    /// Its reactors.
    pub reactor_count: usize,
    /// What the kernel may buffer for one that does not read: `[listen] sndbuf_bytes`, or about 320 KiB with
    /// the TCP_NOTSENT_LOWAT that our listeners set.
    pub kernel_bytes_per_connection: u64,
    /// What its rings lock, on kernels that count that.
    pub locked_bytes: Option<u64>,
}

impl Default for Needs {
    fn default() -> Needs {
        Needs {
            connections: 10_000,
            reactor_count: 1,
            kernel_bytes_per_connection: 320 * 1024,
            locked_bytes: None,
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was seen; may be empty.
    pub detail: String,
}

/// How something that fanfare needs or could use stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Ok,
    /// fanfare cannot run without it.
    Missing {
        /// What went wrong.
        why: String,
        /// What the operator can do.
        remedy: String,
    },
    /// fanfare runs, but not as configured under full load.
    Warning {
        /// What will go wrong.
        why: String,
        /// What the operator can do.
        remedy: String,
    },
    /// Newer than what fanfare uses: offered or not.
    Optional(bool),
}

/// What `fanfare probe` prints and the broker checks before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of looking.
    pub findings: Vec<Finding>,
    kernel_release: String,
}

impl Report {
    /// Tries everything. Takes some milliseconds; opens and closes a few descriptors on loopback.
    pub fn run(needs: &Needs) -> Report {
        let around = Surroundings::read(needs.locked_bytes);
        let mut findings =
            vec![Finding { name: "kernel", state: State::Ok, detail: around.kernel_release.clone() }];
        let setup = ring::set_up(8, 64);
        findings.push(tried(Step::Setup, setup.as_ref().map(drop), &around, "defer_taskrun, single_issuer"));
        // Without a ring there is nothing else to try, and one reason is enough.
        if let Ok(ring) = setup {
            findings.extend(try_features(&ring, &around));
            findings.extend(try_data_path(&around));
            let woken = try_wake();
            let step = woken.as_ref().map_or_else(|(step, _)| *step, |()| Step::Wake);
            findings.push(tried(step, woken.as_ref().copied().map_err(|(_, error)| error), &around, ""));
            findings.extend(optional_features(&ring));
        }
        findings.push(descriptors(descriptor_limits().unwrap_or_default(), needs));
        let tcp_mem = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
        findings.push(socket_memory(&tcp_mem, page_size() as u64, needs));
        Report { findings, kernel_release: around.kernel_release }
    }

    /// Whether a broker can run here.
    pub fn is_usable(&self) -> bool {
        !self.findings.iter().any(|it| matches!(it.state, State::Missing { .. }))
    }

    /// One line for the start banner.
    pub fn summary(&self) -> String {
        let mut line = format!("Linux {}:", self.kernel_release);
        for step in [Step::Setup, Step::BufferRing, Step::Accept, Step::Receive, Step::Send, Step::Wake] {
            let works = |it: &Finding| it.name == step.name() && it.state == State::Ok;
            if self.findings.iter().any(works) {
                line += &format!(" {},", step.name());
            }
        }
        let problems = self
            .findings
            .iter()
            .filter(|it| matches!(it.state, State::Missing { .. } | State::Warning { .. }));
        match problems.count() {
            0 => line.trim_end_matches([',', ':']).to_owned(),
            count => format!("{line} {count} to look at (fanfare probe)"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, state, detail } = self;
        let mark = match state {
            State::Ok => "ok",
            State::Missing { .. } => "MISSING",
            State::Warning { .. } => "warning",
            State::Optional(true) => "offered",
            State::Optional(false) => "absent",
        };
        write!(f, "{mark:<8} {name:<20} {detail}")?;
        if let State::Missing { why, remedy } | State::Warning { why, remedy } = state {
            write!(f, "{}{why}\n{:29} → {remedy}", if detail.is_empty() { "" } else { "; " }, "")?;
        }
        Ok(())
    }
}

fn tried(step: Step, result: Result<(), &io::Error>, around: &Surroundings, detail: &str) -> Finding {
    let (state, detail) = match result {
        Ok(()) => (State::Ok, detail.to_owned()),
        Err(error) => {
            let (why, remedy) = explain(step, error, around);
            (State::Missing { why, remedy }, String::new())
        }
    };
    Finding { name: step.name(), state, detail }
}

fn try_features(ring: &IoUring, around: &Surroundings) -> [Finding; 2] {
    let opcodes = try_opcodes(ring);
    let buffers = BufferRing::new(ring, super::buffers::GROUP, 4, 64);
    if buffers.is_ok() {
        // The ring outlives these buffers.
        let _ = ring.submitter().unregister_buf_ring(super::buffers::GROUP);
    }
    [
        tried(Step::Opcodes, opcodes.as_ref().map(drop), around, ""),
        tried(Step::BufferRing, buffers.as_ref().map(drop), around, ""),
    ]
}

fn try_opcodes(ring: &IoUring) -> io::Result<()> {
    const NEEDED: [(u8, &str); 6] = [
        (opcode::AcceptMulti::CODE, "ACCEPT"),
        (opcode::RecvMulti::CODE, "RECV"),
        (opcode::Send::CODE, "SEND"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::MsgRingData::CODE, "MSG_RING"),
    ];
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let absent: Vec<_> =
        NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if absent.is_empty() { Ok(()) } else { Err(io::Error::other(format!("no {}", absent.join(", ")))) }
}

/// A connection on loopback, accepted, read and answered as a reactor does it.
fn try_data_path(around: &Surroundings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut step = Step::Accept;
    let result = walk_data_path(|reached| {
        findings.push(tried(step, Ok(()), around, ""));
        step = reached;
    });
    // A step that was not reached is not known to be missing: only the first that failed is told.
    findings.push(tried(step, result.as_ref().map(drop), around, ""));
    findings
}

fn walk_data_path(mut reached: impl FnMut(Step)) -> io::Result<()> {
    let mut ring = probe_ring()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (accept, receive, send) =
        (Token::new(Op::Accept, 0, 0), Token::new(Op::Receive, 0, 0), Token::new(Op::Send, 0, 0));
    ring.accept_multishot(listener.as_raw_fd(), accept);
    // Two connections, because one accept more than the first is what multishot means.
    let mut sockets = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(listener.local_addr()?)?);
        let accepted = expect(&mut ring, accept)?;
        // SAFETY: the kernel has just opened it, and nobody else has it.
        sockets.push(Socket(unsafe { OwnedFd::from_raw_fd(accepted.result) }));
        if !accepted.more {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
    }
    reached(Step::Receive);
    ring.receive_multishot(sockets[0].0.as_raw_fd(), receive);
    for byte in [b'a', b'b'] {
        clients[0].write_all(&[byte])?;
        let received = expect(&mut ring, receive)?;
        let Some(lease) = received.lease.filter(|_| received.more) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let as_sent = *ring.leased(&lease) == [byte];
        ring.recycle(lease);
        if !as_sent {
            return Err(io::Error::other("other bytes than were sent"));
        }
    }
    reached(Step::Send);
    static ANSWER: &[u8] = b"c";
    // SAFETY: a static lives long enough for any send.
    unsafe { ring.send(sockets[0].0.as_raw_fd(), ANSWER.as_ptr(), ANSWER.len() as u32, send) };
    expect(&mut ring, send)?;
    Ok(())
}

/// Closed on every way out of the probe; shut down first, because the ring's receive holds it open.
struct Socket(OwnedFd);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

fn try_wake() -> Result<(), (Step, io::Error)> {
    let (tell, told) = mpsc::channel();
    let sleep = move || {
        let mut ring = probe_ring()?;
        let _ = tell.send(ring.as_raw_fd());
        expect(&mut ring, Token::new(Op::Wake, 0, 0)).map(drop)
    };
    let sleeper = thread::Builder::new().name("probe".to_owned()).spawn(sleep);
    let sleeper = sleeper.map_err(|error| (Step::Thread, error))?;
    // If the sleeper could not make its ring, its own error is the one to tell.
    let rung = match told.recv() {
        Ok(target) => Doorbell::new(vec![target]).and_then(|mut doorbell| doorbell.ring(0)),
        Err(_) => Ok(()),
    };
    let woken = sleeper.join().unwrap_or_else(|_| Err(io::Error::other("the sleeping thread panicked")));
    rung.and(woken).map_err(|error| (Step::Wake, error))
}

fn probe_ring() -> io::Result<Ring> {
    let config = RingConfig {
        entries: 8,
        buffer_count: 8,
        buffer_bytes: 256,
        sends_per_turn: 8,
        pending_sends: 8,
        ..RingConfig::default()
    };
    Ring::new(config).map_err(|error| error.source)
}

/// The next completion of `token`; one that failed is an error.
fn expect(ring: &mut Ring, token: Token) -> io::Result<Completion> {
    loop {
        ring.enter(Wait::Sleep { timeout_ns: PATIENCE_NS })?;
        let mut timed_out = true;
        while let Some(completion) = ring.reap() {
            timed_out = false;
            if completion.token == token {
                return match completion.result {
                    0.. => Ok(completion),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
        }
        if timed_out {
            return Err(io::Error::from_raw_os_error(libc::ETIME));
        }
    }
}

fn optional_features(ring: &IoUring) -> Vec<Finding> {
    /// `IOU_PBUF_RING_INC`, since Linux 6.12.
    const INCREMENTAL: u16 = 2;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe).is_ok();
    let group = 1;
    let page = Page([0; 4096]);
    // SAFETY: `page` is page aligned, larger than four entries, and outlives the registration.
    let incremental = unsafe {
        ring.submitter().register_buf_ring_with_flags(page.0.as_ptr() as u64, 4, group, INCREMENTAL).is_ok()
    };
    if incremental {
        let _ = ring.submitter().unregister_buf_ring(group);
    }
    let napi = ring.submitter().register_napi(&mut io_uring::types::Napi::new()).is_ok();
    if napi {
        let _ = ring.submitter().unregister_napi(&mut io_uring::types::Napi::new());
    }
    let optional =
        |name, offered| Finding { name, state: State::Optional(offered), detail: "not used".to_owned() };
    vec![
        optional("incremental buffers", incremental),
        optional("send bundles", ring.params().is_feature_recvsend_bundle()),
        optional("zero-copy send", probed && probe.is_supported(opcode::SendZc::CODE)),
        optional("NAPI busy polling", napi),
    ]
}

#[repr(align(4096))]
struct Page([u8; 4096]);

/// Soft and hard RLIMIT_NOFILE.
///
/// # Errors
/// A filter of system calls has refused it.
pub fn descriptor_limits() -> io::Result<(u64, u64)> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // Not rustix's, which gives whatever was in memory if it is refused.
    // SAFETY: `limits` is a valid place for the answer.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) } {
        0 => Ok((limits.rlim_cur, limits.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptors((soft, hard): (u64, u64), needs: &Needs) -> Finding {
    let Needs { connections, reactor_count, .. } = *needs;
    let reserved = reserved_descriptors(reactor_count);
    let needed = connections + reserved;
    let detail = format!("{soft} (hard limit {hard})");
    let raise = "raise it (`ulimit -Hn`, `LimitNOFILE=` in systemd)";
    // The broker raises its soft limit to the hard one by itself.
    let state = if hard >= needed {
        State::Ok
    } else if hard > reserved {
        State::Warning {
            why: format!(
                "{connections} connections need {needed}, and these are enough for {}",
                hard - reserved
            ),
            remedy: format!("{raise} or set limits.connections_max to that"),
        }
    } else {
        State::Missing {
            why: format!("{hard} are too few, the first connection needs {}", reserved + 1),
            remedy: raise.into(),
        }
    };
    Finding { name: DESCRIPTORS, state, detail }
}

/// `tcp_mem` is three counts of pages; past the last, the kernel drops connections' data at random.
fn socket_memory(tcp_mem: &str, page_bytes: u64, needs: &Needs) -> Finding {
    const MIB: u64 = 1 << 20;
    let name = "socket memory";
    let Some(limit) = tcp_mem.split_whitespace().nth(2).and_then(|pages| pages.parse::<u64>().ok()) else {
        let detail = "net.ipv4.tcp_mem is not readable here".to_owned();
        return Finding { name, state: State::Ok, detail };
    };
    let limit_mib = limit * page_bytes / MIB;
    let needed_mib = needs.connections * needs.kernel_bytes_per_connection / MIB;
    let state = if needed_mib <= limit_mib {
        State::Ok
    } else {
        let pages = needed_mib * MIB / page_bytes;
        State::Warning {
            why: format!("{} connections that do not read could hold {needed_mib} MiB", needs.connections),
            remedy: format!(
                "sysctl -w net.ipv4.tcp_mem=\"{} {} {pages}\", or set listen.sndbuf_bytes",
                pages / 2,
                pages * 3 / 4
            ),
        }
    };
    Finding { name, state, detail: format!("{limit_mib} MiB for all TCP (net.ipv4.tcp_mem)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::ring::tests::small_ring;

    fn failed(step: Step, errno: i32, around: &Surroundings) -> String {
        tried(step, Err(&io::Error::from_raw_os_error(errno)), around, "").to_string()
    }

    fn kernel(release: &str, io_uring_disabled: Option<u32>) -> Surroundings {
        let locked_bytes = Some(5 << 20);
        Surroundings { io_uring_disabled, kernel_release: release.to_owned(), locked_bytes }
    }

    /// Each way in which the kernel can refuse a ring, and the words that help.
    #[test]
    fn a_missing_feature_comes_with_its_remedy() {
        let plain = kernel("5.15.0", None);
        for (step, errno, around, told) in [
            (Step::Setup, libc::EPERM, kernel("6.6.1", Some(2)), "sysctl -w kernel.io_uring_disabled=0"),
            (Step::Setup, libc::EPERM, kernel("6.6.1", Some(1)), "(kernel.io_uring_disabled = 1)"),
            (Step::Setup, libc::EPERM, kernel("6.6.1", Some(0)), "seccomp"),
            (Step::Setup, libc::EPERM, plain.clone(), "seccomp"),
            (Step::Setup, libc::ENOSYS, plain.clone(), "CONFIG_IO_URING"),
            (Step::Setup, libc::ENOMEM, plain.clone(), "to 5 MiB or more (`ulimit -l`, `LimitMEMLOCK=`"),
            (Step::BufferRing, libc::ENOMEM, plain.clone(), "LimitMEMLOCK="),
            (Step::Opcodes, libc::ENOMEM, plain.clone(), "LimitMEMLOCK="),
            (Step::Accept, libc::ENOMEM, plain.clone(), "LimitMEMLOCK="),
            (Step::Wake, libc::ENOMEM, plain.clone(), "LimitMEMLOCK="),
            (Step::Setup, libc::EMFILE, plain.clone(), "LimitNOFILE="),
            (Step::Wake, libc::EMFILE, plain.clone(), "LimitNOFILE="),
            (Step::Setup, libc::EAGAIN, plain.clone(), "LimitNPROC="),
            (Step::Thread, libc::EAGAIN, plain.clone(), "TasksMax="),
            (
                Step::Thread,
                libc::EPERM,
                plain.clone(),
                "clone3 is forbidden, most likely by a container's seccomp",
            ),
            (Step::Thread, libc::ENOMEM, plain.clone(), "a thread's stack"),
            (Step::Setup, libc::EINVAL, plain.clone(), "5.15.0 lacks io_uring's SINGLE_ISSUER"),
            (Step::BufferRing, libc::EINVAL, plain.clone(), "provided buffers"),
            (Step::Receive, libc::EINVAL, plain.clone(), "5.15.0 has no multishot receive"),
            (Step::Wake, libc::ETIME, plain.clone(), "no answer within 2 s"),
            (Step::Accept, libc::EACCES, plain.clone(), "loopback"),
        ] {
            let line = failed(step, errno, &around);
            assert!(line.starts_with("MISSING") && line.contains(told), "{step:?} {errno}: {line}");
        }
    }

    #[test]
    fn one_missing_feature_makes_the_report_unusable_and_a_warning_does_not() {
        let around = kernel("6.1.0", None);
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let mut report = Report {
            findings: vec![
                tried(Step::Setup, Ok(()), &around, ""),
                descriptors((1024, 4096), &Needs::default()),
            ],
            kernel_release: around.kernel_release.clone(),
        };
        assert!(report.is_usable());
        assert_eq!(report.summary(), "Linux 6.1.0: io_uring, 1 to look at (fanfare probe)");
        report.findings.push(tried(Step::Receive, Err(&error), &around, ""));
        assert!(!report.is_usable());
    }

    #[test]
    fn limits_are_compared_with_what_is_configured() {
        let needs = Needs::default();
        assert_eq!(descriptors((1024, 20_000), &needs).state, State::Ok);
        assert!(matches!(descriptors((1024, 4096), &needs).state, State::Warning { .. }));
        assert!(matches!(descriptors((16, 32), &needs).state, State::Missing { .. }));
        // What is left for connections is looked at, not only what the broker itself needs.
        let four = Needs { reactor_count: 4, ..needs };
        assert!(matches!(descriptors((140, 140), &four).state, State::Missing { .. }));
        let scarce = descriptors((150, 150), &four).to_string();
        assert!(scarce.contains("10000 connections need 10140, and these are enough for 10"), "{scarce}");
        // 3,125 MiB are 800,000 pages.
        assert_eq!(socket_memory("1 2 800000\n", 4096, &needs).state, State::Ok);
        let short = socket_memory("1 2 575802", 4096, &needs);
        assert!(short.to_string().contains("tcp_mem=\"400000 600000 800000\""), "{short}");
        assert_eq!(socket_memory("", 4096, &needs).state, State::Ok);
    }

    #[test]
    fn this_kernel_passes_its_own_probe() {
        if small_ring().is_none() {
            return;
        }
        let report =
            Report::run(&Needs { connections: 1, kernel_bytes_per_connection: 0, ..Needs::default() });
        println!("{report}{}", report.summary());
        assert!(report.is_usable(), "{report}");
        for step in [Step::Opcodes, Step::BufferRing, Step::Accept, Step::Receive, Step::Send, Step::Wake] {
            let finding = report.findings.iter().find(|it| it.name == step.name());
            assert_eq!(finding.map(|it| &it.state), Some(&State::Ok), "{step:?}");
        }
    }
}
