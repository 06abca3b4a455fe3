//! A broker's process: started, awaited, looked at, ended.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::config::Broker;
use crate::{
    connect::{self, Target},
    dialect::Role,
    process,
};

const LOOK: Duration = Duration::from_millis(50);
/// How long a broker has to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// The process that runs now, for whoever has to end everything at once; 0 if there is none.
pub static RUNNING_PID: AtomicU32 = AtomicU32::new(0);

/// A broker that runs; it ends with this.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `broker` on `core` and waits until it answers a subscriber.
    ///
    /// # Errors
    /// One line: that it is not there, ended, or does not answer.
    pub fn start(broker: &Broker, directory: &Path, core: usize, log: PathBuf) -> Result<Running, String> {
        let target = Target::parse(&broker.url)?;
        if target.is_listening() {
            return Err(format!("something else listens at {}", broker.url));
        }
        let output = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let mut command = command(&broker.start, broker, directory);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // SAFETY: only system calls, on values of this function.
        unsafe {
            command.pre_exec(move || {
                // What is left when this program is killed would listen for ever.
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                process::run_on(&[core])
            })
        };
        let child = command.spawn().map_err(|error| format!("{}: {error}", broker.start[0]))?;
        RUNNING_PID.store(child.id(), SeqCst);
        let mut running = Running { child, log };
        running.await_answer(broker, &target)?;
        Ok(running)
    }

    fn await_answer(&mut self, broker: &Broker, target: &Target) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(broker.ready_s);
        loop {
            if let Some(end) = self.end() {
                return Err(end);
            }
            if target.is_listening() {
                return connect::connect(target, broker.protocol, Role::Subscriber("ready"), 0, 1).map(drop);
            }
            if Instant::now() >= until {
                return Err(format!("it does not listen after {} s", broker.ready_s));
            }
            thread::sleep(LOOK);
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did, with its last words.
    pub fn end(&mut self) -> Option<String> {
        let status: ExitStatus = self.child.try_wait().ok().flatten()?;
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.trim_end().lines().next_back().unwrap_or("it said nothing");
        Some(format!("it ended ({status}): {last}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        if matches!(self.child.try_wait(), Ok(None)) {
            // It is ours and not waited for, so the number is still its own.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        RUNNING_PID.store(0, SeqCst);
    }
}

/// Whether its program is there, and which version: the first line that it prints about it.
///
/// # Errors
/// Why it cannot be run, and how to get it.
pub fn version(broker: &Broker, directory: &Path) -> Result<String, String> {
    let words = if broker.version.is_empty() { &broker.start } else { &broker.version };
    let missing = |error: &dyn std::fmt::Display| match &*broker.install {
        "" => format!("{}: {error}", words[0]),
        install => format!("{}: {error} (to get it: {install})", words[0]),
    };
    if broker.version.is_empty() {
        return Ok(String::new());
    }
    let output =
        command(words, broker, directory).stdin(Stdio::null()).output().map_err(|error| missing(&error))?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned();
    // Some print their version and call it a failure.
    if !output.status.success() && !line.contains(|it: char| it.is_ascii_digit()) {
        return Err(missing(&line));
    }
    if line.contains("Error") || line.contains("not found") {
        return Err(missing(&line));
    }
    Ok(line)
}

/// A program name with a slash in it is relative to the file's directory, like everything it is told.
fn command(words: &[String], broker: &Broker, directory: &Path) -> Command {
    let program = match words[0].contains('/') {
        true => directory.join(&words[0]),
        false => PathBuf::from(&words[0]),
    };
    // The child changes its directory before it looks for the program.
    let program = program.canonicalize().unwrap_or(program);
    let mut command = Command::new(program);
    command.args(&words[1..]).envs(&broker.environment).current_dir(directory);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    fn broker(start: &[&str]) -> Broker {
        Broker {
            name: "test".to_owned(),
            protocol: Dialect::Plain,
            url: "ws://127.0.0.1:1/".to_owned(),
            start: start.iter().map(|it| it.to_string()).collect(),
            version: Vec::new(),
            environment: Default::default(),
            ready_s: 1,
            begin: 1000,
            install: "ask".to_owned(),
        }
    }

    fn start(broker: &Broker) -> String {
        let log =
            std::env::temp_dir().join(format!("compare-test-{}-{}", std::process::id(), broker.start.len()));
        let error = Running::start(broker, Path::new("/"), 0, log.clone()).err().unwrap();
        let _ = fs::remove_file(log);
        error
    }

    #[test]
    fn one_that_ends_or_never_listens_is_told_so() {
        let ended = start(&broker(&["sh", "-c", "echo one; echo no such config >&2; exit 3"]));
        assert_eq!(ended, "it ended (exit status: 3): no such config");
        assert_eq!(start(&broker(&["sleep", "60"])), "it does not listen after 1 s");
    }

    #[test]
    fn one_that_is_not_there_comes_with_how_to_get_it() {
        let mut absent = broker(&["/no/such/program"]);
        absent.version = absent.start.clone();
        let error = version(&absent, Path::new("/")).unwrap_err();
        assert_eq!(error, "/no/such/program: No such file or directory (os error 2) (to get it: ask)");
        let mut present = broker(&["sh"]);
        present.version = ["sh", "-c", "echo v1.2; exit 1"].map(str::to_owned).to_vec();
        assert_eq!(version(&present, Path::new("/")).unwrap(), "v1.2");
    }
}
