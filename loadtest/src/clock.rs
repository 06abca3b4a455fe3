//! Time as everybody on this machine sees it.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: the same origin in every process, so that a time written by one
/// can be subtracted in another.
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU time that this process has used, user and system.
pub fn process_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// Sleeps until [`now_ns`] has reached `at_ns`.
pub fn sleep_until(at_ns: u64) {
    let now_ns = now_ns();
    if at_ns > now_ns {
        std::thread::sleep(std::time::Duration::from_nanos(at_ns - now_ns));
    }
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
