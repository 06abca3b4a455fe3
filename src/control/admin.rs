//! The admin listener's socket: bound or inherited, served, and handed on.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::task::JoinHandle;
use tracing::warn;

use super::{
    fleet::{Fleet, Watch},
    guard::{Guard, Operators},
    http,
};
use crate::{
    access::static_token,
    config::{self, Config},
    protocol::{secret::Secret, site::Hosts},
    uring::listener::wait_until_unused,
};

/// How long requests under way may delay the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The admin listener.
pub(super) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    places: http::Places,
    guard: Arc<Guard>,
    /// Who may use it where no file of tokens is.
    of_the_start: Option<Arc<Operators>>,
    serving: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on `address`, as `config` says, or goes on with a socket that does already, which is said if it is another's. It
    /// answers `operators` what is not everybody's. Where there are none and only this machine reaches it, whoever reads what `tell`
    /// is given has a token until the broker ends.
    ///
    /// # Errors
    /// A sentence that names the key and the value.
    pub fn open(
        address: SocketAddr,
        config: &Config,
        operators: Option<Arc<Operators>>,
        inherited: Option<OwnedFd>,
        tell: Option<fn(&str)>,
    ) -> Result<Admin, String> {
        let cannot_listen = |error: io::Error| {
            let reason = match error.kind() {
                ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
                _ => error.to_string(),
            };
            format!(
                "admin.address = \"{address}\" cannot be listened on: {reason}; \
                 choose another with --admin, or turn it off with --admin ''"
            )
        };
        let is_inherited = inherited.is_some();
        let listener = match inherited {
            Some(socket) => TcpListener::from(socket),
            None => wait_until_unused(|| TcpListener::bind(address)).map_err(cannot_listen)?,
        };
        listener.set_nonblocking(true).map_err(cannot_listen)?;
        let configured = address;
        let address = listener.local_addr().map_err(cannot_listen)?;
        if is_inherited && configured.port() != 0 && configured != address {
            warn!(inherited = %address, %configured, "the inherited admin listener is not at admin.address; it is served");
        }
        let is_loopback = address.ip().to_canonical().is_loopback();
        let is_insecure = config.listen.insecure;
        if !is_loopback && !is_insecure && operators.is_none() {
            return Err(config::admin_reachable(address));
        }
        let of_the_start = tell.filter(|_| is_loopback && operators.is_none()).and_then(make_token);
        let hosts = Hosts::of(&config.admin.hosts, is_loopback);
        let operators = operators.or_else(|| of_the_start.clone());
        let guard = Arc::new(Guard::new(hosts, is_loopback, is_insecure, operators));
        Ok(Admin { listener, address, places: http::Places::new(), guard, of_the_start, serving: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes by these tokens from now on.
    pub fn set_operators(&self, operators: Option<Arc<Operators>>) {
        self.guard.set_operators(operators.or_else(|| self.of_the_start.clone()));
    }

    /// Answers from now on.
    pub fn serve<F: Fleet>(&mut self, watch: &Arc<Watch<F>>) {
        let listener = self.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
        match listener {
            Ok(listener) => {
                let serving =
                    http::serve(listener, self.places.clone(), Arc::clone(&self.guard), Arc::clone(watch));
                self.serving = Some(tokio_uring::spawn(serving));
            }
            Err(error) => warn!(%error, "the admin listener cannot be served"),
        }
    }

    /// Takes no more requests; those under way are answered.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    /// Takes no more requests and waits for those under way, but not for long.
    pub async fn finish(&mut self) {
        self.stop();
        self.places.wait_until_free(FINISH_TIMEOUT).await;
    }

    /// A duplicate for another process.
    ///
    /// # Errors
    /// A want of descriptors.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.listener.try_clone()?.into())
    }
}

/// Makes a token and tells it, once.
fn make_token(tell: fn(&str)) -> Option<Arc<Operators>> {
    let mut random = [0; 32];
    let filled = getrandom(&mut random, GetRandomFlags::empty());
    if filled != Ok(random.len()) {
        warn!(?filled, "the kernel gave no random bytes for a token of the admin listener");
        return None;
    }
    let token = Secret::new(static_token::from_random(&random));
    tell(token.get());
    Some(Arc::new(Operators::of_the_start(&token)))
}
