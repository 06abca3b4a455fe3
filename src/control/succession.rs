//! The control socket's server: it meets processes that want this broker's place, one at a time.

use std::{future, io, os::fd::OwnedFd, sync::Arc};

use tokio::{net::UnixListener, sync::mpsc, time};
use tracing::{info, warn};

use super::{
    ACCEPT_PAUSE, activation::Inherited, admin::Admin, fleet::Fleet, socket::ControlSocket,
    takeover::Successor,
};

/// What meeting successors takes, before there is anything to hand over to them.
pub(super) struct Reception {
    socket: ControlSocket,
    listener: UnixListener,
    admin: Option<OwnedFd>,
}

/// Processes that are ready to take over.
pub(super) struct Successors {
    socket: ControlSocket,
    ready: mpsc::Receiver<Successor>,
}

impl Reception {
    /// On `socket`, which nobody finds yet.
    ///
    /// # Errors
    /// A sentence about a want of descriptors.
    pub fn new(socket: ControlSocket, admin: Option<&Admin>) -> Result<Reception, String> {
        let open = || Ok((socket.listener()?, admin.map(Admin::duplicate).transpose()?));
        let (listener, admin) =
            open().map_err(|error: io::Error| format!("the control socket cannot be served: {error}"))?;
        Ok(Reception { socket, listener, admin })
    }

    /// Puts the socket where it is found and serves it from now on.
    ///
    /// # Errors
    /// A sentence that says why it cannot be put there.
    pub fn open<F: Fleet>(mut self, fleet: &Arc<F>) -> Result<Successors, String> {
        self.socket.publish()?;
        let (sender, ready) = mpsc::channel(1);
        tokio_uring::spawn(serve(self.listener, self.admin, Arc::clone(fleet), sender));
        Ok(Successors { socket: self.socket, ready })
    }
}

impl Successors {
    /// The next one; never without a control socket. Dropping the future loses nothing.
    pub async fn next(successors: &mut Option<Successors>) -> Successor {
        match successors {
            Some(it) => it.ready.recv().await.expect("the control socket is served while the broker is"),
            None => future::pending().await,
        }
    }

    /// Leaves the socket's path to the one that has taken over.
    pub fn leave(self) {
        self.socket.leave();
    }
}

async fn serve<F: Fleet>(
    listener: UnixListener,
    admin: Option<OwnedFd>,
    fleet: Arc<F>,
    sender: mpsc::Sender<Successor>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the control socket could not accept");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let offer = || {
            let admin = admin.as_ref().map(OwnedFd::try_clone).transpose()?;
            Ok(Inherited { listeners: fleet.listeners()?, admin })
        };
        match Successor::meet(stream, offer).await {
            Ok((successor, is_over)) => {
                // Only a broker that ends does not take it, and then nothing more is to be served. The next
                // one is met when this one has failed: two would both think that they take over.
                if sender.send(successor).await.is_err() {
                    return;
                }
                let _ = is_over.await;
            }
            Err(why) => info!("not handing over: {why}"),
        }
    }
}
