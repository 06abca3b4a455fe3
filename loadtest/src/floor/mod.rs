//! The floor: the same deliveries by a loop that does nothing else.
//!
//! What it costs to hand the same bytes to the same number of sockets at the same pace, with nothing
//! to parse, order, look up or account for: the least that a broker on this kernel can take per
//! delivery. It is a process of its own, like a broker, and its CPU time is read the same way.
//!
//! The loop is the best that we know: one ring with DEFER_TASKRUN, one io_uring_enter per turn, at most
//! 256 sends per turn, one send per socket and visit with everything up to the head as it is then, and
//! frames written once into memory that the sends share.
//!
//! Two shapes: [`fan_out`], in which the loop itself makes up what is due and nobody publishes, and [`relay`], in
//! which publishers send what a broker would get and each publication goes to the members of one room.

mod fan_out;
mod relay;
mod server;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use fanfare::uring::listener::{listen, local_address};

use crate::{
    cli::{self, Floor, FloorServer, FloorShape},
    client::{Pace, Times, Watcher},
    connect::open_socket,
    dialect::Dialect,
    output::{Live, print},
    process,
    report::Report,
    scenario::{self, Plan, Setting, ensure_descriptors, finish},
};
use server::Server;

const SENDS_PER_TURN: usize = 256;
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Sequence numbers have ten digits, so that all frames of a topic have the same length.
const SEQ_BASE: u64 = 1_000_000_000;

/// Measures and prints.
///
/// # Errors
/// One line for the operator.
pub fn run(floor: &Floor, parameters: Vec<(String, String)>) -> Result<bool, String> {
    floor.run.outputs.check()?;
    let plan = plan(floor)?;
    let mut live = Live::new(&plan.title, &plan.groups, floor.run.warmup, floor.run.duration);
    finish(&measure_plan(floor, &plan, parameters, &mut live)?, &floor.run.outputs)
}

/// Starts the loop as a process and runs publishers and sinks here.
///
/// # Errors
/// One line for the operator.
pub fn measure(
    floor: &Floor,
    parameters: Vec<(String, String)>,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    measure_plan(floor, &plan(floor)?, parameters, watcher)
}

fn plan(floor: &Floor) -> Result<Plan, String> {
    let Floor { shape, rate, sample, .. } = floor;
    match shape.rooms {
        None => {
            let FloorShape { subscribers, frame_bytes, merge, .. } = *shape;
            let title =
                format!("floor: {rate} frames/s × {subscribers} × {frame_bytes} B, merged by {merge}");
            Ok(fan_out::plan(title, subscribers, *rate, frame_bytes, *sample))
        }
        Some(_) => relay::plan(&relay::Shape::of(shape)?, *rate, *sample),
    }
}

fn measure_plan(
    floor: &Floor,
    plan: &Plan,
    parameters: Vec<(String, String)>,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    ensure_descriptors(plan.connection_count())?;
    let mut server = Server::start(floor)?;
    let address = server.address;
    let open = |index| {
        open_socket(address, index)
            .and_then(|socket| socket.set_read_timeout(None).map(|()| socket))
            .map_err(|error| format!("{address}: {error}"))
    };
    let connections = plan.open_bare(SEQ_BASE, &open)?;
    server.expect("ready")?;
    let times = Times::starting_soon(floor.run.warmup, floor.run.duration, floor.run.drain);
    server.tell(&format!("{} {}", times.start_ns, times.end_ns))?;
    let broker = cli::Broker {
        url: format!("tcp://{address}"),
        token: None,
        token_file: None,
        protocol: Dialect::Json,
        pid: Some(server.pid()),
        metrics: None,
    };
    let setting = Setting { broker: &broker, run: &floor.run, pace: Pace::Open, parameters };
    scenario::measure_opened(&setting, plan, connections, times, watcher)
}

/// The loop's process itself: says where it listens, waits for its sockets, is told when to begin.
///
/// # Errors
/// One line for the operator.
pub fn serve(options: &FloorServer) -> Result<(), String> {
    options.server_core.map_or(Ok(()), process::pin_to_core)?;
    process::raise_descriptor_limit();
    let failed = |error: io::Error| format!("floor's server: {error}");
    let listener: OwnedFd = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 4096, None).map_err(failed)?;
    print(local_address(&listener).map_err(failed)?);
    let listener = TcpListener::from(listener);
    let accept = |count: usize| -> Result<Vec<TcpStream>, String> {
        (0..count).map(|_| listener.accept().map(|(socket, _)| socket).map_err(failed)).collect()
    };
    let mut line = String::new();
    let mut next_line = || io::stdin().read_line(&mut line).map(|_| line.clone()).map_err(failed);
    match options.shape.rooms {
        None => {
            let sockets = accept(options.shape.subscribers)?;
            print("ready");
            let line = next_line()?;
            let mut times = line.split_whitespace().filter_map(|it| it.parse().ok());
            let (Some(start_ns), Some(end_ns)) = (times.next(), times.next()) else {
                return Ok(());
            };
            fan_out::FanOut::new(options, sockets, start_ns, end_ns)?.run()?;
            // Stays to be looked at, its sockets open, until whoever started it has seen enough.
            next_line().map(drop)
        }
        Some(_) => {
            // Subscribers come first, room after room, then the publishers.
            let shape = relay::Shape::of(&options.shape)?;
            let members = accept(shape.rooms * shape.members)?;
            let publishers = accept(shape.publishers)?;
            let mut relay = relay::Relay::new(shape, members, publishers)?;
            print("ready");
            relay.run_until_input_ends()
        }
    }
}
