//! The loop's process, as whoever measures it sees it.

use std::{
    io::{self, BufRead, BufReader, Lines, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::cli::Floor;

/// A loop that runs; it ends with this.
pub struct Server {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts this program again, as the loop.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn start(floor: &Floor) -> Result<Server, String> {
        let failed = |error: io::Error| format!("cannot start the floor's server: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("floor-server").args(["--rate", &floor.rate.to_string()]).args(floor.shape.arguments());
        if let Some(core) = floor.server_core {
            command.args(["--server-core", &core.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut server = Server {
            child,
            lines: BufReader::new(stdout).lines(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        server.address = server.next_line()?.parse().map_err(|error| format!("floor's server: {error}"))?;
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says `line`.
    ///
    /// # Errors
    /// One line: what it says instead, or that it is gone.
    pub fn expect(&mut self, line: &str) -> Result<(), String> {
        match self.next_line()? {
            said if said == line => Ok(()),
            said => Err(format!("the floor's server says {said}")),
        }
    }

    /// Tells it something.
    ///
    /// # Errors
    /// One line: it is gone.
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").map_err(|error| format!("the floor's server: {error}"))
    }

    fn next_line(&mut self) -> Result<String, String> {
        match self.lines.next() {
            Some(Ok(line)) => Ok(line),
            _ => Err("the floor's server is gone".to_owned()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
