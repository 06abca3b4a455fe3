//! The control socket's server: it meets processes that want this broker's place, one at a time.

use std::{future, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{net::UnixListener, sync::mpsc, time};
use tracing::{info, warn};

use super::{activation::Inherited, admin::Admin, fleet::Fleet, socket::ControlSocket, takeover::Successor};

/// After a failed accept, which is mostly a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Processes that are ready to take over; none without a control socket.
pub(super) struct Successors {
    socket: Option<ControlSocket>,
    ready: Option<mpsc::Receiver<Successor>>,
}

impl Successors {
    /// Puts the socket where it is found and serves it from now on.
    ///
    /// # Errors
    /// A sentence that says why that cannot be.
    pub fn meet<F: Fleet>(
        mut socket: Option<ControlSocket>,
        fleet: &Arc<F>,
        admin: Option<&Admin>,
    ) -> Result<Successors, String> {
        let ready = match &mut socket {
            None => None,
            Some(socket) => {
                let open = || Ok((socket.listener()?, admin.map(Admin::duplicate).transpose()?));
                let (listener, admin) = open()
                    .map_err(|error: io::Error| format!("the control socket cannot be served: {error}"))?;
                socket.publish()?;
                let (sender, receiver) = mpsc::channel(1);
                tokio_uring::spawn(serve(listener, admin, Arc::clone(fleet), sender));
                Some(receiver)
            }
        };
        Ok(Successors { socket, ready })
    }

    /// The next one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Successor {
        match &mut self.ready {
            Some(ready) => ready.recv().await.expect("the control socket is served while the broker is"),
            None => future::pending().await,
        }
    }

    /// Leaves the socket's path to the one that has taken over.
    pub fn leave(self) {
        if let Some(socket) = self.socket {
            socket.leave();
        }
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
