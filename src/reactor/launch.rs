//! Starting reactors: their threads, rings and cores, and the control thread's end of them all.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    os::{
        fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, atomic::AtomicUsize, mpsc},
    thread::{self, JoinHandle},
};

use super::{
    admission::{accept::Source, addresses::Addresses, listeners::Listeners},
    audit::Audit,
    cores::{Cores, Placement, pin_to},
    desk::Shared,
    exchange::ReactorPort,
    guest::Guest,
    orders::Order,
    settings::{connections_max, locked_bytes, log_bytes_min, ring_config},
    turn::{Reactor, Turn},
};
use crate::{
    access::{Access, revocation::Revocations},
    channel::Mesh,
    config::{Config, ListenAddress},
    metrics::Troubles,
    pubsub::{
        home::Homes,
        log::Budget,
        message::{Delivery, Request},
    },
    uring::{
        Io, clock_ns,
        remedy::{self, Step, Surroundings},
        ring::{Ring, RingConfig, SetupError},
        wake::{Doorbell, Peer},
    },
};

/// Entries that the queue between two reactors has at least.
const QUEUE_ENTRIES_MIN: usize = 16;
/// Why a lock is not poisoned: whoever holds it does not panic.
const LOCK_HELD: &str = "nobody panics with the listeners locked";

/// The control thread's end of all reactors.
pub struct Reactors {
    mesh: Arc<Mesh<Request, Delivery, Order>>,
    doorbell: Mutex<Doorbell>,
    threads: Vec<JoinHandle<()>>,
    /// For a successor; the reactors have duplicates of their own. None when they are closed.
    listeners: Mutex<Option<Listeners>>,
    address: ListenAddress,
    placement: Placement,
    troubles: Arc<Troubles>,
    audit: Arc<Audit>,
    addresses: Arc<Addresses>,
    /// By which reactors wake the guest.
    guest_waker: UnixStream,
    /// Until the control thread takes it.
    guest: Mutex<Option<GuestSeat>>,
}

/// What a guest needs to take part: see [`Reactors::take_guest`].
#[derive(Debug)]
pub struct GuestSeat {
    /// What it knows and decides.
    pub guest: Guest,
    /// A byte comes here when a reactor has something for it while it sleeps.
    pub woken: UnixStream,
}

/// Reactors that have everything they need and do not accept yet.
pub struct Prepared {
    config: Arc<Config>,
    reactors: Reactors,
    starts: Vec<mpsc::Sender<Start>>,
    rings: Vec<RawFd>,
}

/// What a reactor waits for before it accepts.
struct Start {
    peers: Vec<Peer>,
    revocations: Arc<Revocations>,
}

/// What a reactor's thread says when it has its ring, or why there is none.
type Setup = Result<Ready, SetupError>;

/// A reactor that has its ring.
struct Ready {
    index: usize,
    ring: RawFd,
    is_pinned: bool,
}

impl Prepared {
    /// Starts the threads of as many reactors as [`super::reactor_count`] says, which accept from `listeners`, let in whom
    /// `access` says, and
    /// returns when each has its ring.
    ///
    /// # Errors
    /// A sentence that says what is wanting.
    pub fn new(
        config: Arc<Config>,
        access: Option<Arc<Access>>,
        listeners: Listeners,
    ) -> Result<Prepared, String> {
        let cores = Cores::read();
        let (count, origin) = cores.reactor_count(&config);
        let cores = cores.allowed;
        let log_bytes_min = count * log_bytes_min(&config);
        if config.limits.log_bytes_max < log_bytes_min {
            return Err(format!(
                "limits.log_bytes_max = {} is too little for {count} reactors: at least {log_bytes_min} bytes, \
                 or set reactor.count",
                config.limits.log_bytes_max
            ));
        }
        let connections_max = connections_max(&config, count);
        let around = Surroundings::read(Some(locked_bytes(&config)));
        let connection_count = Arc::new(AtomicUsize::new(0));
        let shared = Shared {
            homes: Homes::new(count, random()),
            budget: Budget::with_past(config.limits.log_bytes_max, config.history.bytes_max),
            epoch: random(),
            addresses: Arc::default(),
            veil: Default::default(),
            usages: Arc::default(),
            scopes: Default::default(),
            troubles: Arc::default(),
            audit: Arc::default(),
            buffered: Arc::default(),
            is_loopback: listeners.are_loopback(),
            config: config.clone(),
            access,
            revocations: Arc::default(),
        };
        let (mesh, mut ports) =
            Mesh::new(count, 1, (config.reactor.queue_entries / count).max(QUEUE_ENTRIES_MIN));
        let guest_port = ports.pop().expect("the last port is the guest's");
        let (guest_waker, woken) =
            UnixStream::pair().map_err(|error| remedy::line(Step::Control, &error, &around))?;
        let guest = GuestSeat { guest: Guest::new(guest_port, &shared), woken };
        let (said, setups) = mpsc::channel::<Setup>();
        let mut threads = Vec::new();
        let mut starts = Vec::new();
        for (port, sources) in ports.into_iter().zip(listeners.share(count)?) {
            let (start, started) = mpsc::channel::<Start>();
            let index = port.index();
            let run = ReactorThread {
                core: config.reactor.pin.then(|| cores[index % cores.len()]),
                ring: ring_config(&config, connections_max / count),
                port,
                sources,
                shared: shared.clone(),
                connection_count: connection_count.clone(),
                connections_max,
            };
            let said = said.clone();
            let thread = thread::Builder::new()
                .name(format!("reactor-{index}"))
                .spawn(move || run.run(said, started))
                .map_err(|error| {
                    format!("reactor {index} of {count}: {}", remedy::line(Step::Thread, &error, &around))
                })?;
            threads.push(thread);
            starts.push(start);
        }
        drop(said);
        let mut rings = vec![-1; count];
        let mut pinned_count = 0;
        for _ in 0..count {
            let setup = setups.recv().map_err(|_| "a reactor ended before it had its ring".to_string())?;
            let Ready { index, ring, is_pinned } = setup.map_err(|SetupError { step, source }| {
                format!("a reactor of {count} has no ring: {}", remedy::line(step, &source, &around))
            })?;
            rings[index] = ring;
            pinned_count += usize::from(is_pinned);
        }
        let doorbell = Doorbell::new(rings.clone()).map_err(|error| {
            let why = remedy::line(Step::Setup, &error, &around);
            format!("the control thread has no ring to wake reactors with: {why}")
        })?;
        let address = listeners.address().clone();
        // Those that are pinned take the cores in turn; the others run on any.
        let core_count = if pinned_count == count { cores.len().min(count) } else { cores.len() };
        let placement = Placement { reactor_count: count, core_count, pinned_count, origin };
        let (doorbell, listeners) = (Mutex::new(doorbell), Mutex::new(Some(listeners)));
        let Shared { troubles, audit, addresses, .. } = shared;
        Ok(Prepared {
            config,
            reactors: Reactors {
                mesh,
                doorbell,
                threads,
                listeners,
                address,
                placement,
                troubles,
                audit,
                addresses,
                guest_waker,
                guest: Mutex::new(Some(guest)),
            },
            starts,
            rings,
        })
    }

    /// Lets them accept whoever `revocations` do not keep out.
    ///
    /// # Errors
    /// A sentence that says why they cannot.
    pub fn start(self, revocations: &Arc<Revocations>) -> Result<Reactors, String> {
        if let Some(listeners) = self.reactors.listeners.lock().expect(LOCK_HELD).as_mut() {
            listeners.open(&self.config)?;
        }
        let rings = self.rings.iter().copied().map(Peer::Ring);
        let peers: Vec<Peer> = rings.chain([Peer::Socket(self.reactors.guest_waker.as_raw_fd())]).collect();
        for start in self.starts {
            let peers = peers.clone();
            start
                .send(Start { peers, revocations: revocations.clone() })
                .map_err(|_| "a reactor ended before it accepted".to_string())?;
        }
        Ok(self.reactors)
    }
}

impl Reactors {
    /// How many reactors there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Where clients connect; the port is a real one even if the configuration says 0.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// On which cores they run.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Asks reactor `index`; false when its control queue is full or it has ended.
    pub fn ask(&self, index: usize, request: Order) -> bool {
        if self.has_ended(index) {
            return false;
        }
        match self.mesh.send_order(index, request) {
            Ok(false) => true,
            Ok(true) => self.wake(index),
            Err(_) => false,
        }
    }

    /// Wakes reactor `index`; false if it has ended.
    pub fn wake(&self, index: usize) -> bool {
        self.doorbell.lock().is_ok_and(|mut doorbell| doorbell.ring(index).is_ok())
    }

    /// The guest of these reactors, once: it publishes and subscribes for whoever has no connection of theirs.
    pub fn take_guest(&self) -> Option<GuestSeat> {
        self.guest.lock().expect("nobody panics with the guest locked").take()
    }

    /// Duplicates of the listeners for another process, none when they are closed.
    ///
    /// # Errors
    /// What fcntl(2) says: a want of descriptors.
    pub fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        self.listeners.lock().expect(LOCK_HELD).as_ref().map_or(Ok(Vec::new()), Listeners::duplicates)
    }

    /// Whether this may be the configuration, by who reaches the listeners.
    ///
    /// # Errors
    /// A sentence about one that others than this machine reach, if nobody is asked who they are.
    pub fn check_reach(&self, config: &Config) -> Result<(), String> {
        self.listeners.lock().expect(LOCK_HELD).as_ref().map_or(Ok(()), |it| it.check_reach(config))
    }

    /// Leaves what the listeners have in the file system to a successor, which has them.
    pub fn leave_listeners(&self) {
        if let Some(listeners) = self.listeners.lock().expect(LOCK_HELD).as_mut() {
            listeners.leave();
        }
    }

    /// Closes the listeners here; each reactor closes its own when it drains.
    pub fn close_listeners(&self) {
        self.listeners.lock().expect(LOCK_HELD).take();
    }

    /// What the operator is to be told of.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// What whoever audits the broker is to be told of.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// How many addresses are banned now.
    pub fn ban_count(&self) -> usize {
        self.addresses.ban_count(clock_ns() / 1_000_000)
    }

    /// Whether reactor `index`'s thread has ended: by drain, or by a panic (which ends the process
    /// in release builds).
    pub fn has_ended(&self, index: usize) -> bool {
        self.threads[index].is_finished()
    }
}

/// Everything that goes along to a reactor's thread.
struct ReactorThread {
    core: Option<usize>,
    ring: RingConfig,
    port: ReactorPort,
    sources: Vec<Source<OwnedFd>>,
    shared: Shared,
    connection_count: Arc<AtomicUsize>,
    connections_max: usize,
}

impl ReactorThread {
    fn run(mut self, said: mpsc::Sender<Setup>, started: mpsc::Receiver<Start>) {
        let is_pinned = self.core.is_some_and(pin_to);
        let index = self.port.index();
        let mut ring = match Ring::new(self.ring) {
            Ok(ring) => ring,
            Err(error) => {
                // The starter may have given up over another reactor's error.
                let _ = said.send(Err(error));
                return;
            }
        };
        let _ = said.send(Ok(Ready { index, ring: ring.as_raw_fd(), is_pinned }));
        let Ok(Start { peers, revocations }) = started.recv() else { return };
        ring.set_peers(peers);
        self.shared.revocations = revocations;
        let raw = |Source { socket, is_shared }: Source<OwnedFd>| Source {
            socket: socket.into_raw_fd(),
            is_shared,
        };
        let mut reactor = Reactor::new(
            ring,
            self.port,
            self.shared,
            self.sources.into_iter().map(raw).collect(),
            self.connection_count,
            self.connections_max,
        );
        loop {
            let now_ns = reactor.io().clock_ns();
            match reactor.turn(now_ns) {
                Ok(Turn::Next) => {}
                Ok(Turn::Ended) => return,
                Err(error) => panic!("reactor {index}'s ring cannot be entered: {error}"),
            }
        }
    }
}

/// 64 bits that nobody can foresee: the standard hasher's keys come from the kernel.
fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}
