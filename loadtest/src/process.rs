//! What a process costs, as the kernel counts it.

use std::fs;

/// CPU time that the threads of process `pid` have used, in nanoseconds, user and system.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let thread_ns = |path: std::path::PathBuf| {
        let line = fs::read_to_string(path.join("schedstat")).ok()?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    // A thread that ends in between is gone with its time; brokers keep theirs.
    Some(tasks.flatten().filter_map(|task| thread_ns(task.path())).sum())
}

/// The resident memory of process `pid` in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    parse_rollup(&rollup)
}

fn parse_rollup(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find(|it| it.starts_with("Rss:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Runs the calling thread on `core` alone.
pub fn pin_to_core(core: usize) -> Result<(), String> {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= libc::CPU_SETSIZE as usize {
        return Err(format!("there is no core {core}"));
    }
    // SAFETY: the set is valid and `core` is within it.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is valid and of the size that is told.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(format!("cannot run on core {core}: {}", std::io::Error::last_os_error())),
    }
}

/// Runs the calling thread, and what it starts, before everything that is not real-time (SCHED_FIFO).
pub fn run_in_real_time() -> Result<(), String> {
    // Above nothing in particular: below what the kernel runs at 50 and more.
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameters are valid.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } {
        0 => Ok(()),
        _ => Err(format!("cannot run in real time: {}", std::io::Error::last_os_error())),
    }
}

/// Whether the kernel stops real-time threads for a part of each second, 50 ms by default.
pub fn real_time_is_throttled() -> bool {
    let limit = fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
    !limit.is_empty() && limit.trim() != "-1"
}

/// Gives the calling thread, and what it starts, all but a hundredth of the processor (nice -20). With
/// autogroups a nice value counts only within a session, so the session gets the same.
pub fn run_before_others() -> Result<(), String> {
    // SAFETY: no pointers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } != 0 {
        return Err(format!("cannot run at nice -20: {}", std::io::Error::last_os_error()));
    }
    match fs::write("/proc/self/autogroup", "-20") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("/proc/self/autogroup: {error}"))
        }
        _ => Ok(()),
    }
}

/// Raises the soft limit on descriptors to the hard one, and gives it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is a valid place for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits) };
    limits.rlim_cur = limits.rlim_max;
    // SAFETY: `limits` is valid.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limits) };
    limits.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_ns(pid).unwrap() > 0);
        assert!(resident_bytes(pid).unwrap() > 64 * 1024);
        assert_eq!(cpu_ns(u32::MAX), None);
        assert_eq!(parse_rollup("x\nRss:   12 kB\nPss: 1 kB\n"), Some(12 * 1024));
    }
}
