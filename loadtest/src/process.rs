//! What a process costs, as the kernel counts it.

use std::{collections::BTreeMap, fs, io};

use rustix::{
    io::Errno,
    param::page_size,
    process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
    thread::{CpuSet, gettid, sched_setaffinity},
};

/// A thread's time, in nanoseconds since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// On a processor, user and system.
    pub cpu_ns: u64,
    /// Ready to run, without a processor: another thread had it, or the kernel stopped this one.
    pub waited_ns: u64,
}

/// CPU time that the threads of process `pid` have used, in nanoseconds, user and system.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    Some(thread_times(pid)?.values().map(|it| it.cpu_ns).sum())
}

/// The threads of process `pid`, by id.
pub fn thread_times(pid: u32) -> Option<BTreeMap<u32, ThreadTime>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_task = |task: fs::DirEntry| {
        let time = parse_schedstat(&fs::read_to_string(task.path().join("schedstat")).ok()?)?;
        Some((task.file_name().to_str()?.parse().ok()?, time))
    };
    // A thread that ends in between is gone with its time; brokers keep theirs.
    Some(tasks.flatten().filter_map(of_task).collect())
}

fn parse_schedstat(line: &str) -> Option<ThreadTime> {
    let mut fields = line.split_ascii_whitespace();
    Some(ThreadTime { cpu_ns: fields.next()?.parse().ok()?, waited_ns: fields.next()?.parse().ok()? })
}

/// Whether any thread of process `pid` runs in real time.
pub fn is_real_time(pid: u32) -> bool {
    // SAFETY: takes no pointer.
    let policy = |id: &u32| unsafe { libc::sched_getscheduler(*id as libc::pid_t) };
    thread_times(pid).is_some_and(|threads| threads.keys().any(|id| is_real_time_policy(policy(id))))
}

/// Negative: there is no such thread.
fn is_real_time_policy(policy: libc::c_int) -> bool {
    policy >= 0 && [libc::SCHED_FIFO, libc::SCHED_RR].contains(&(policy & !libc::SCHED_RESET_ON_FORK))
}

/// CPU time of thread `tid` of this process, in nanoseconds, to the moment (`schedstat` lags by a tick).
pub fn thread_cpu_ns(tid: u32) -> Option<u64> {
    // The kernel's numbering of its CPU clocks: a thread's (4), by the scheduler's count (2).
    let clock = (!(tid as libc::clockid_t) << 3) | 4 | 2;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    let result = unsafe { libc::clock_gettime(clock, &mut now) };
    (result == 0).then(|| now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// The calling thread's id.
pub fn thread_id() -> u32 {
    gettid().as_raw_pid() as u32
}

/// CPU time of process `pid` in clock ticks, a hundred per second: user, system.
pub fn cpu_ticks(pid: u32) -> Option<(u64, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&line)
}

fn parse_stat(line: &str) -> Option<(u64, u64)> {
    // The name, in parentheses, may hold anything.
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Context switches of process `pid`: voluntary, involuntary.
pub fn context_switches(pid: u32) -> Option<(u64, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_task = |path: std::path::PathBuf| {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find(|it| it.starts_with(name))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Some((field("voluntary_ctxt_switches:")?, field("nonvoluntary_ctxt_switches:")?))
    };
    let switches = tasks.flatten().filter_map(|task| of_task(task.path()));
    Some(switches.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1)))
}

/// The resident memory of process `pid` as the kernel keeps count of it: cheap, and within some pages
/// per thread.
pub fn resident_now_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(of_pages)
}

/// The resident memory of process `pid` in bytes, exactly; holds up the process while it is counted.
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
///
/// # Errors
/// If there is no such core, or it is not ours.
pub fn pin_to_core(core: usize) -> Result<(), String> {
    pin_to_cores(&[core])
}

/// Runs the calling thread on `cores`; none: wherever.
///
/// # Errors
/// If there is no such core, or it is not ours.
pub fn pin_to_cores(cores: &[usize]) -> Result<(), String> {
    if cores.is_empty() {
        return Ok(());
    }
    run_on(cores).map_err(|_| not_ours(cores))
}

/// The same with the kernel's own error, for where nothing may be allocated.
///
/// # Errors
/// As [`pin_to_cores`].
pub fn run_on(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        if core >= CpuSet::MAX_CPU {
            return Err(Errno::INVAL.into());
        }
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// That `cores` cannot be run on, and which can.
fn not_ours(cores: &[usize]) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    format!("cannot run on core {}: there are {}", cores.join(","), allowed.unwrap_or("others").trim())
}

/// Puts the calling thread above this process's others: to nice -20, or among real-time threads one
/// priority higher.
///
/// # Errors
/// Why it is not allowed.
pub fn raise_priority() -> io::Result<()> {
    // SAFETY: takes no pointer.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if !is_real_time_policy(policy) {
        return Ok(setpriority_process(Some(gettid()), -20)?);
    }
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is a valid place for the answer, and then a valid priority.
    let result = unsafe {
        libc::sched_getparam(0, &mut param);
        param.sched_priority += 1;
        libc::sched_setscheduler(0, policy, &param)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread below this process's others (nice 19).
pub fn lower_priority() {
    // Nobody is refused to be nicer.
    let _ = setpriority_process(Some(gettid()), 19);
}

/// Runs the calling thread, and what it starts, before everything that is not real-time (SCHED_FIFO).
pub fn run_in_real_time() -> Result<(), String> {
    // Above nothing in particular: below what the kernel runs at 50 and more.
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameters are valid.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } {
        0 => Ok(()),
        _ => Err(format!("cannot run in real time: {}", io::Error::last_os_error())),
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
    setpriority_process(None, -20).map_err(|error| format!("cannot run at nice -20: {error}"))?;
    match fs::write("/proc/self/autogroup", "-20") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("/proc/self/autogroup: {error}"))
        }
        _ => Ok(()),
    }
}

/// Raises the soft limit on descriptors to the hard one, and gives it.
pub fn raise_descriptor_limit() -> u64 {
    let hard = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    hard.unwrap_or(u64::MAX)
}

/// What the kernel holds for TCP, both directions and all programs in this network namespace, in bytes.
pub fn socket_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find_map(|it| it.strip_prefix("TCP: "))?;
    let pages: u64 = line.split_once(" mem ")?.1.split(' ').next()?.parse().ok()?;
    Some(of_pages(pages))
}

/// What /proc counts in pages, in bytes.
fn of_pages(count: u64) -> u64 {
    count * page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_ours_is_told_with_those_that_are() {
        for cores in [&[777_777][..], &[1_000]] {
            let error = pin_to_cores(cores).unwrap_err();
            let rest = error.strip_prefix(&format!("cannot run on core {}: there are ", cores[0]));
            assert!(rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())), "{error}");
        }
    }

    #[test]
    fn a_process_is_in_real_time_if_a_thread_is() {
        assert!(!is_real_time(u32::MAX));
        // SAFETY: takes no pointer.
        let own_policy = unsafe { libc::sched_getscheduler(0) };
        assert_eq!(is_real_time(std::process::id()), is_real_time_policy(own_policy));
        for (policy, expected) in [
            (libc::SCHED_OTHER, false),
            (libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK, false),
            (libc::SCHED_FIFO, true),
            (libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, true),
            (-1, false),
        ] {
            assert_eq!(is_real_time_policy(policy), expected, "{policy}");
        }
    }

    /// What is counted in pages and what is counted in bytes are the same memory, while other tests take and give some.
    #[test]
    fn pages_are_as_large_as_this_system_has_them() {
        let pid = std::process::id();
        let (rough, exact) = (resident_now_bytes(pid).unwrap(), resident_bytes(pid).unwrap());
        assert!((exact / 4..exact * 4).contains(&rough), "{rough} {exact}");
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_ns(pid).unwrap() > 0);
        assert!(resident_bytes(pid).unwrap() > 64 * 1024);
        assert!(resident_now_bytes(pid).unwrap() > 64 * 1024);
        assert!(thread_cpu_ns(thread_id()).unwrap() > 0);
        assert!(cpu_ticks(pid).is_some() && context_switches(pid).is_some());
        assert_eq!((cpu_ns(u32::MAX), thread_times(u32::MAX)), (None, None));
        assert_eq!(parse_schedstat("12 34 5\n"), Some(ThreadTime { cpu_ns: 12, waited_ns: 34 }));
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 55 66 0 0 20 0 1";
        assert_eq!(parse_stat(stat), Some((55, 66)));
        assert_eq!(parse_rollup("x\nRss:   12 kB\nPss: 1 kB\n"), Some(12 * 1024));
    }
}
