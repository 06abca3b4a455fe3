//! Listeners that were there before the process: from a service manager (LISTEN_FDS), or from the broker
//! whose place this one takes.

use std::os::fd::{FromRawFd, OwnedFd};

/// The name of the admin listener in LISTEN_FDNAMES.
const ADMIN_NAME: &str = "admin";

/// Sockets that listen already.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Where clients connect.
    pub listeners: Vec<OwnedFd>,
    /// The admin listener.
    pub admin: Option<OwnedFd>,
}

impl Inherited {
    /// What the service manager passed, none if it passed nothing: sd_listen_fds(3). The descriptor named
    /// `admin` is the admin listener; the others, whatever their names, are for clients.
    ///
    /// Called once in a process: the descriptors become the result's.
    ///
    /// # Errors
    /// A sentence that says what is wrong with LISTEN_FDS or LISTEN_FDNAMES.
    pub fn from_service_manager() -> Result<Option<Inherited>, String> {
        let wrong = |error| format!("LISTEN_FDS or LISTEN_FDNAMES is not as sd_listen_fds(3) says: {error}");
        // First without names: those of another process's descriptors, handed down by it, do not count.
        if sd_notify::listen_fds().map_err(wrong)?.len() == 0 {
            return Ok(None);
        }
        let mut inherited = Inherited::default();
        for (descriptor, name) in sd_notify::listen_fds_with_names().map_err(wrong)? {
            // SAFETY: by sd_listen_fds(3) the descriptors are open and this process's own, and this is the
            // one time that they are taken.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            if name != ADMIN_NAME {
                inherited.listeners.push(descriptor);
            } else if inherited.admin.replace(descriptor).is_some() {
                return Err(format!("LISTEN_FDNAMES names more than one descriptor `{ADMIN_NAME}`"));
            }
        }
        Ok(Some(inherited))
    }
}
