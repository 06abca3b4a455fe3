//! The control socket: where a fanfare of the same user reaches the running one.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    process,
};

use rustix::{net::sockopt::socket_peercred, process::geteuid};

use crate::uring::socket_file::{SocketFile, ensure_replaceable, is_alive, remove_left_behind};

/// A listening socket in the file system, which is removed with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    /// Where it is found once it is published.
    path: PathBuf,
    listener: UnixListener,
    file: SocketFile,
}

impl ControlSocket {
    /// Makes it under a name of its own; nobody finds it before [`ControlSocket::publish`].
    ///
    /// # Errors
    /// A sentence that names the path: it cannot be made, something that is no socket is there, or `is_exclusive`
    /// and another broker listens there.
    pub fn bind(path: &Path, is_exclusive: bool) -> Result<ControlSocket, String> {
        let name = path.display();
        ensure_free(path)?;
        if is_exclusive && is_alive(path) {
            return Err(format!(
                "control.socket = \"{name}\" is another broker's; choose another, or take its place with --takeover"
            ));
        }
        let own = own_path(path);
        let bound = || {
            // Of a process that had our id and ended in the middle.
            remove_left_behind(&own)?;
            let listener = UnixListener::bind(&own)?;
            let file = SocketFile::of(&own)?;
            fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok((listener, file))
        };
        let (listener, file) = bound().map_err(|error: io::Error| {
            format!(
                "control.socket = \"{name}\" cannot be made: {error}; choose a path in a directory that this user \
                 may write, or \"\" for none"
            )
        })?;
        Ok(ControlSocket { path: path.into(), listener, file })
    }

    /// Puts it at its path at once, in the place of the socket that is there.
    ///
    /// # Errors
    /// A sentence that names the path.
    pub fn publish(&mut self) -> Result<(), String> {
        // Much time may have passed: the reactors have started, or a predecessor has ended.
        ensure_free(&self.path)?;
        self.file.move_to(&self.path).map_err(|error| {
            format!("control.socket = \"{}\" cannot be put there: {error}", self.path.display())
        })
    }

    /// A listener on it for the runtime.
    ///
    /// # Errors
    /// A want of descriptors.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }

    /// Leaves the path to a successor, which puts its own socket there.
    pub fn leave(self) {
        self.file.leave();
    }
}

/// Whether the other end of a socket in the file system is of our own user.
pub(super) fn is_same_user(stream: impl AsFd) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid())
}

/// Nothing is at `path` but perhaps a socket.
fn ensure_free(path: &Path) -> Result<(), String> {
    ensure_replaceable(path).map_err(|why| format!("control.socket = \"{}\" {why}", path.display()))
}

fn own_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    name.into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::{fs::symlink, net::UnixStream};

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    pub fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("fanfare-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// Somebody who listens at `path` and accepts nothing, with as many in his queue as he takes.
    pub fn stuck(path: &Path) -> (Socket, Vec<Socket>) {
        let address = SockAddr::unix(path).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(1).unwrap();
        let connect = || {
            let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
            client.connect(&address).ok().map(|()| client)
        };
        (listener, std::iter::from_fn(connect).collect())
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_private_found_when_published_and_gone_when_dropped() {
        let directory = directory("life");
        let path = directory.join("control");
        let mut socket = ControlSocket::bind(&path, true).unwrap();
        assert!(UnixStream::connect(&path).is_err());
        socket.publish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = UnixStream::connect(&path).unwrap();
        assert!(is_same_user(&client));
        drop(socket);
        assert!(names(&directory).is_empty());
        drop(ControlSocket::bind(&path, true).unwrap());
        assert!(names(&directory).is_empty(), "one that was never published leaves nothing either");
        fs::remove_dir(directory).unwrap();
    }

    #[test]
    fn one_left_behind_is_replaced_and_a_live_one_is_an_error() {
        let directory = directory("stale");
        let path = directory.join("control");
        drop(UnixListener::bind(&path).unwrap());
        let mut socket = ControlSocket::bind(&path, true).unwrap();
        socket.publish().unwrap();
        let error = ControlSocket::bind(&path, true).unwrap_err();
        assert!(error.contains("is another broker's"), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
        fs::remove_dir(directory).unwrap();
    }

    /// A file, a link to one, a link to nothing, a directory, and a file with the name of its own before it is
    /// published: each is as it was.
    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = directory("files");
        let (file, link, loose, folder) = (
            directory.join("file"),
            directory.join("link"),
            directory.join("loose"),
            directory.join("folder"),
        );
        fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        symlink(directory.join("nothing"), &loose).unwrap();
        fs::create_dir(&folder).unwrap();
        for (path, what) in [
            (&file, "an ordinary file"),
            (&link, "a symbolic link"),
            (&loose, "a symbolic link"),
            (&folder, "a directory"),
        ] {
            for is_exclusive in [true, false] {
                let error = ControlSocket::bind(path, is_exclusive).unwrap_err();
                let line = format!("control.socket = \"{}\" is {what}, which is left alone", path.display());
                assert!(error.starts_with(&line), "{error}");
            }
        }

        // It comes between the two steps.
        let late = directory.join("late");
        let mut socket = ControlSocket::bind(&late, true).unwrap();
        fs::write(&late, "precious").unwrap();
        assert!(socket.publish().unwrap_err().contains("an ordinary file"));
        drop(socket);

        let taken = directory.join("taken");
        fs::write(own_path(&taken), "precious").unwrap();
        assert!(ControlSocket::bind(&taken, true).unwrap_err().contains("cannot be made"));

        for path in [file, link, late, own_path(&taken)] {
            assert_eq!(fs::read_to_string(path).unwrap(), "precious");
        }
        assert!(loose.is_symlink() && folder.is_dir());
        fs::remove_dir_all(directory).unwrap();
    }

    /// It accepts nothing, and its queue is full.
    #[test]
    fn one_that_is_stuck_is_alive() {
        let directory = directory("stuck");
        let path = directory.join("control");
        let _stuck = stuck(&path);
        let error = ControlSocket::bind(&path, true).unwrap_err();
        assert!(error.contains("is another broker's"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    /// The old one's end comes after the new one took the path.
    #[test]
    fn a_successor_keeps_the_path() {
        let directory = directory("successor");
        let path = directory.join("control");
        let mut old = ControlSocket::bind(&path, true).unwrap();
        old.publish().unwrap();
        let mut new = ControlSocket::bind(&path, false).unwrap();
        new.publish().unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();
        drop(new);
        fs::remove_dir(directory).unwrap();
    }
}
