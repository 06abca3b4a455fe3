//! Time as everybody on this machine sees it.

/// Nanoseconds of CLOCK_MONOTONIC: the same origin in every process, so that a time written by one
/// can be subtracted in another.
pub fn now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// CPU time that this process has used, user and system.
pub fn process_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Sleeps until [`now_ns`] has reached `at_ns`.
pub fn sleep_until(at_ns: u64) {
    let now_ns = now_ns();
    if at_ns > now_ns {
        std::thread::sleep(std::time::Duration::from_nanos(at_ns - now_ns));
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
