//! The cores that reactors run on: which there are, how many reactors that makes, and what became of it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{config::Config, pubsub::home::REACTORS_MAX};

/// Where control groups of version 2 are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What the broker may run on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cores {
    /// Those of the affinity mask.
    pub allowed: Vec<usize>,
    /// The CPU time per time that its control groups let it have, if they bound it.
    pub quota: Option<f64>,
}

impl Cores {
    /// This process's.
    pub fn read() -> Cores {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Cores { allowed: allowed(), quota: quota(Path::new(CONTROL_GROUPS), &own) }
    }

    /// How many reactors there are to be, and why as many.
    pub fn reactor_count(&self, config: &Config) -> (usize, Origin) {
        let core_count = self.allowed.len().max(1);
        match (config.reactor.count, self.quota) {
            (1.., _) => (config.reactor.count, Origin::Configured),
            // Down: a reactor that is stopped for the rest of a period keeps everybody waiting.
            (0, Some(quota)) if (quota as usize) < core_count.min(REACTORS_MAX) => {
                ((quota as usize).max(1), Origin::Quota(quota))
            }
            (0, _) => (core_count.min(REACTORS_MAX), Origin::Affinity),
        }
    }
}

/// Where a number of reactors comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin {
    /// `reactor.count`.
    Configured,
    /// The cores of the affinity mask.
    Affinity,
    /// What the control group lets the process have, which is less.
    Quota(f64),
}

/// How reactors came to lie on cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// How many there are.
    pub reactor_count: usize,
    /// On how many cores they run.
    pub core_count: usize,
    /// How many are pinned to one of those.
    pub pinned_count: usize,
    /// Why there are as many.
    pub origin: Origin,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placement { reactor_count, core_count, pinned_count, origin } = *self;
        let cores = if core_count == 1 { "core" } else { "cores" };
        write!(f, "{reactor_count} on {core_count} {cores}, ")?;
        match pinned_count {
            0 => write!(f, "not pinned")?,
            _ if pinned_count < reactor_count => write!(f, "{pinned_count} of them pinned")?,
            _ if reactor_count <= core_count && core_count > 1 => write!(f, "each pinned to its own")?,
            _ => write!(f, "pinned")?,
        }
        match origin {
            Origin::Configured => write!(f, " (reactor.count)"),
            Origin::Affinity if reactor_count == REACTORS_MAX => write!(f, " (the most there can be)"),
            Origin::Affinity => write!(f, " (one per core that the process may run on)"),
            Origin::Quota(quota) => write!(f, " (the control group's CPU quota is {quota:.2} cores)"),
        }
    }
}

/// Sees when the cores that the process may run on become others: the kernel then moves pinned threads as well.
#[derive(Debug)]
pub struct CoreWatch {
    known: Vec<usize>,
}

impl CoreWatch {
    /// Those that the calling thread may run on, which must not be pinned.
    pub fn here() -> CoreWatch {
        CoreWatch { known: allowed() }
    }

    /// What there is to say, if they are others than at the last look of this thread.
    pub fn look(&mut self) -> Option<String> {
        self.compare(allowed())
    }

    fn compare(&mut self, now: Vec<usize>) -> Option<String> {
        if now == self.known {
            return None;
        }
        let before = std::mem::replace(&mut self.known, now);
        Some(format!(
            "the process may run on {} now, which was {}: the reactors go on where the kernel puts them; restart to \
             have one per core again",
            said(&self.known),
            said(&before)
        ))
    }
}

/// Cores as taskset(1) lists them.
fn said(cores: &[usize]) -> String {
    let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    format!("{} {list}", if cores.len() == 1 { "core" } else { "cores" })
}

/// Keeps the calling thread on `core`. False where that is not allowed: it runs wherever it may.
pub(super) fn pin_to(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

/// The cores that this process may run on.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// The least of the quotas (`cpu.max`) of the control group that `own` (/proc/self/cgroup) names and of those that it
/// lies in, all below `root`; none where nothing bounds it. Seen from a container the last of them is the container's.
fn quota(root: &Path, own: &str) -> Option<f64> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut group: PathBuf = root.join(own);
    let mut least: Option<f64> = None;
    while group.starts_with(root) {
        if let Some(quota) =
            fs::read_to_string(group.join("cpu.max")).ok().and_then(|text| parse_quota(&text))
        {
            least = Some(least.map_or(quota, |least| least.min(quota)));
        }
        group.pop();
    }
    least
}

/// `150000 100000` is one and a half cores, `max 100000` no bound.
fn parse_quota(text: &str) -> Option<f64> {
    let (quota_us, period_us) = text.trim().split_once(' ')?;
    let (quota_us, period_us): (f64, f64) = (quota_us.parse().ok()?, period_us.parse().ok()?);
    (quota_us > 0.0 && period_us > 0.0).then_some(quota_us / period_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(count: usize) -> Config {
        let mut config = Config::default();
        config.reactor.count = count;
        config
    }

    #[test]
    fn as_many_reactors_as_the_lesser_of_mask_and_quota() {
        use Origin::{Affinity, Configured, Quota};
        for (allowed, quota, count, expected) in [
            (8, None, 0, (8, Affinity)),
            (8, Some(2.0), 0, (2, Quota(2.0))),
            (8, Some(1.9), 0, (1, Quota(1.9))),
            (8, Some(0.1), 0, (1, Quota(0.1))),
            (2, Some(4.0), 0, (2, Affinity)),
            (2, Some(2.0), 0, (2, Affinity)),
            (1, Some(0.5), 0, (1, Quota(0.5))),
            (256, None, 0, (62, Affinity)),
            (256, Some(100.0), 0, (62, Affinity)),
            (2, Some(0.5), 5, (5, Configured)),
        ] {
            let cores = Cores { allowed: (0..allowed).collect(), quota };
            assert_eq!(cores.reactor_count(&config(count)), expected, "{allowed} {quota:?} {count}");
        }
    }

    #[test]
    fn a_placement_is_said_as_it_is() {
        for (numbers, origin, line) in [
            (
                (2, 2, 2),
                Origin::Affinity,
                "2 on 2 cores, each pinned to its own (one per core that the process may run on)",
            ),
            ((5, 2, 5), Origin::Configured, "5 on 2 cores, pinned (reactor.count)"),
            (
                (1, 1, 1),
                Origin::Quota(1.5),
                "1 on 1 core, pinned (the control group's CPU quota is 1.50 cores)",
            ),
            ((2, 2, 0), Origin::Configured, "2 on 2 cores, not pinned (reactor.count)"),
            ((3, 2, 2), Origin::Configured, "3 on 2 cores, 2 of them pinned (reactor.count)"),
            (
                (62, 62, 62),
                Origin::Affinity,
                "62 on 62 cores, each pinned to its own (the most there can be)",
            ),
        ] {
            let (reactor_count, core_count, pinned_count) = numbers;
            let placement = Placement { reactor_count, core_count, pinned_count, origin };
            assert_eq!(placement.to_string(), line);
        }
    }

    #[test]
    fn cores_that_become_others_are_said_once() {
        let mut watch = CoreWatch { known: vec![0, 1, 2] };
        assert_eq!(watch.compare(vec![0, 1, 2]), None);
        let line = watch.compare(vec![1]).unwrap();
        assert!(line.starts_with("the process may run on core 1 now, which was cores 0,1,2: "), "{line}");
        assert_eq!(watch.compare(vec![1]), None);
        assert!(
            watch.compare(vec![2]).unwrap().contains("on core 2 now, which was core 1: "),
            "as many, and others"
        );
        watch.compare(vec![1]);
        assert!(watch.compare(vec![1, 2]).unwrap().contains("on cores 1,2 now, which was core 1: "));
    }

    /// A service in a slice with less, a container that sees only its own group, and one without a bound.
    #[test]
    fn the_least_quota_of_the_groups_around_counts() {
        let root = std::env::temp_dir().join(format!("fanfare-{}-groups", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("slice/service")).unwrap();
        let write = |group: &str, text| fs::write(root.join(group).join("cpu.max"), text).unwrap();
        write("slice/service", "300000 100000\n");
        assert_eq!(quota(&root, "0::/slice/service\n"), Some(3.0));
        write("slice", "150000 100000\n");
        assert_eq!(quota(&root, "1:name=systemd:/x\n0::/slice/service\n"), Some(1.5));
        assert_eq!(quota(&root, "0::/elsewhere\n"), None);
        assert_eq!(quota(&root, "4:cpu:/slice\n"), None);
        write("", "max 100000\n");
        assert_eq!(quota(&root, "0::/\n"), None);
        for nonsense in ["0 100000", "100000 0", "-1 100000", "100000", ""] {
            write("", nonsense);
            assert_eq!(quota(&root, "0::/\n"), None, "{nonsense}");
        }
        write("", "50000 100000\n");
        assert_eq!(quota(&root, "0::/\n"), Some(0.5));
        fs::remove_dir_all(root).unwrap();
    }
}
