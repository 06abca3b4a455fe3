//! Why a step of the start failed, and what to do about it: pure, for the probe, the rings and the threads
//! alike.

use std::{fs, io};

/// How long a feature that should answer at once may take before it counts as missing.
pub const PATIENCE_NS: u64 = 2_000_000_000;

/// What has to work: the steps of trying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making a thread.
    Thread,
    /// The control thread's runtime: a ring, an epoll and an eventfd.
    Control,
    /// io_uring_setup(2) with a reactor's flags.
    Setup,
    /// The opcodes that the data path uses.
    Opcodes,
    /// Registering a ring of provided buffers.
    BufferRing,
    /// Multishot accept.
    Accept,
    /// Multishot receive into provided buffers.
    Receive,
    /// Sending.
    Send,
    /// A message from another ring into one that sleeps.
    Wake,
}

impl Step {
    /// The step in a line of the report.
    pub fn name(self) -> &'static str {
        match self {
            Step::Thread => "threads",
            Step::Control => "the control thread",
            Step::Setup => "io_uring",
            Step::Opcodes => "opcodes",
            Step::BufferRing => "buffer ring",
            Step::Accept => "multishot accept",
            Step::Receive => "multishot receive",
            Step::Send => "send",
            Step::Wake => "wake across rings",
        }
    }
}

/// What is around a failure that tells its cause from its like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `kernel.io_uring_disabled`, since Linux 6.6.
    pub io_uring_disabled: Option<u32>,
    /// The running kernel's release.
    pub kernel_release: String,
    /// What the rings of the broker lock where the kernel counts it, if that is known.
    pub locked_bytes: Option<u64>,
}

impl Surroundings {
    /// This machine's, for a broker whose rings lock so much.
    pub fn read(locked_bytes: Option<u64>) -> Surroundings {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Surroundings {
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled").parse().ok(),
            kernel_release: read("/proc/sys/kernel/osrelease"),
            locked_bytes,
        }
    }
}

/// Why `step` failed with `error` and what to do about it, as one line.
pub fn line(step: Step, error: &io::Error, around: &Surroundings) -> String {
    let (why, remedy) = explain(step, error, around);
    format!("{why}: {remedy}")
}

/// Why `step` failed with `error`, and what to do about it.
pub fn explain(step: Step, error: &io::Error, around: &Surroundings) -> (String, String) {
    let errno = error.raw_os_error().unwrap_or(0);
    let release = &around.kernel_release;
    let upgrade = "run Linux 6.1 or later".to_owned();
    match (step, errno) {
        // What may be short at any step.
        (_, libc::EAGAIN) => (
            format!("{}: no more threads may be made", step.name()),
            "raise RLIMIT_NPROC (`ulimit -u`, `LimitNPROC=` in systemd), which counts the user's threads, and the \
             limit of the control group (`TasksMax=` in systemd, `--pids-limit` in Docker)"
                .to_owned(),
        ),
        (_, libc::EMFILE | libc::ENFILE) => (
            format!("{}: no file descriptor is left", step.name()),
            "raise RLIMIT_NOFILE (`ulimit -n`, `LimitNOFILE=` in systemd)".to_owned(),
        ),
        (Step::Thread, libc::EPERM | libc::EACCES) => (
            "clone3 is forbidden, most likely by a container's seccomp profile".to_owned(),
            "allow it, or have it fail with ENOSYS, so that the C library makes threads by clone: \
             `--security-opt seccomp=PROFILE` in Docker, `seccompProfile` in Kubernetes, `SystemCallFilter=` in \
             systemd"
                .to_owned(),
        ),
        (Step::Thread, libc::ENOMEM) => (
            "no memory is left for a thread's stack".to_owned(),
            "raise RLIMIT_AS (`ulimit -v`, `LimitAS=` in systemd) or the memory limit of the control group"
                .to_owned(),
        ),
        (Step::Thread, _) => {
            (format!("a thread cannot be made: {error}"), "look at the limits of this user".to_owned())
        }
        (_, libc::ENOMEM) => (
            "no memory may be locked for a ring and its buffers".to_owned(),
            format!(
                "raise RLIMIT_MEMLOCK{} (`ulimit -l`, `LimitMEMLOCK=` in systemd), which counts all rings of this \
                 user, or the memory limit of the control group",
                around.locked_bytes.map_or_else(String::new, |bytes| {
                    format!(" to {} MiB or more", bytes.div_ceil(1 << 20))
                })
            ),
        ),
        // The probe has made a ring by then: it is something else that is forbidden.
        (Step::Control, libc::EPERM | libc::EACCES) => (
            "what the control thread waits with is forbidden, most likely by a container's seccomp profile".to_owned(),
            "allow epoll_create1, eventfd2 and io_uring_setup in it".to_owned(),
        ),
        (Step::Setup, libc::EPERM | libc::EACCES) => match around.io_uring_disabled {
            Some(disabled @ 1..) => (
                format!("io_uring is switched off (kernel.io_uring_disabled = {disabled})"),
                "sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d/".to_owned(),
            ),
            _ => (
                "io_uring_setup is forbidden, most likely by a container's seccomp profile".to_owned(),
                "allow io_uring_setup, io_uring_enter and io_uring_register: `--security-opt \
                 seccomp=PROFILE` in Docker, `seccompProfile` in Kubernetes, `SystemCallFilter=` in systemd"
                    .to_owned(),
            ),
        },
        (Step::Setup, libc::ENOSYS) => (
            format!("kernel {release} has no io_uring, or a seccomp profile hides it"),
            "run Linux 6.1 or later with CONFIG_IO_URING, and allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile"
                .to_owned(),
        ),
        (Step::Setup, libc::EINVAL) => {
            (format!("kernel {release} lacks io_uring's SINGLE_ISSUER or DEFER_TASKRUN"), upgrade)
        }
        (Step::BufferRing, libc::EINVAL) => {
            (format!("kernel {release} cannot register a ring of provided buffers"), upgrade)
        }
        (Step::Accept | Step::Receive, libc::EINVAL) => {
            (format!("kernel {release} has no {}", step.name()), upgrade)
        }
        (_, libc::EACCES | libc::EPERM) => (
            format!("{}: {error}", step.name()),
            "allow io_uring and loopback TCP connections in the container's security profile".to_owned(),
        ),
        (_, libc::ETIME) => (
            format!("{}: no answer within {} s", step.name(), PATIENCE_NS / 1_000_000_000),
            format!(
                "{upgrade}; if it is, this is a bug, please report it with the kernel's release {release}"
            ),
        ),
        _ => (format!("{}: {error}", step.name()), upgrade),
    }
}
