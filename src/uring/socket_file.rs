//! Sockets in the file system: whose place one may take, and that nobody's but its own is removed with it.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket of this process, which is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// What says whether the file at `path` is still this socket's: device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Of the socket that is bound to `path`.
    ///
    /// # Errors
    /// What lstat(2) says.
    pub fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.into(), identity: identity(path)? })
    }

    /// Moves it to `path` at once, in the place of what is there.
    ///
    /// # Errors
    /// What rename(2) says.
    pub fn move_to(&mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.path = path.into();
        Ok(())
    }

    /// Leaves it to whoever takes this process's place.
    pub fn leave(mut self) {
        self.identity = (0, 0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whatever is no socket is somebody's, and stays: a file, a directory, and a link wherever it leads.
///
/// # Errors
/// What is at `path` and what to do: completes a sentence that begins with the path.
pub fn ensure_replaceable(path: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = metadata.file_type();
    let what = match kind {
        _ if kind.is_socket() => return Ok(()),
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_dir() => "a directory",
        _ if kind.is_file() => "an ordinary file",
        _ => "a device or a pipe",
    };
    Err(format!(
        "is {what}, which is left alone: name a path where nothing is, or a socket that a broker left behind"
    ))
}

/// Whether somebody has the socket at `path`. A file that a process left behind refuses; of one that we may not
/// connect to, or not in this way, nobody knows, so that it is somebody's.
pub fn is_alive(path: &Path) -> bool {
    is_somebodys(&connect(path))
}

/// Whether nobody has the socket at `path`. Where somebody has, it waits for his end, for `limit` at most: a listener
/// that ends resets what is in its queue. It asks by one connection, since many would fill that queue.
///
/// # Errors
/// `AddrInUse` if somebody had it, who may have ended meanwhile; else what setsockopt(2) says.
pub fn ensure_unused(path: &Path, limit: Duration) -> io::Result<()> {
    let connected = connect(path);
    if !is_somebodys(&connected) {
        return Ok(());
    }
    if let Ok(socket) = connected {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(limit))?;
        // However that ends, the next look tells whether anybody is there.
        let _ = UnixStream::from(OwnedFd::from(socket)).read(&mut [0]);
    }
    Err(ErrorKind::AddrInUse.into())
}

/// Removes what a process left behind at `path`; what is no socket stays.
///
/// # Errors
/// What unlink(2) says.
pub fn remove_left_behind(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// A connection that does not wait for a process that accepts nothing.
fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn is_somebodys(connected: &io::Result<Socket>) -> bool {
    !connected
        .as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{
            fs::symlink,
            net::{UnixDatagram, UnixListener},
        },
        thread,
    };

    use super::*;

    /// Where a socket is of another kind, the question is answered with an error that is no refusal.
    #[test]
    fn only_what_refuses_was_left_behind() {
        let directory = std::env::temp_dir().join(format!("fanfare-{}-alive", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        let listener = UnixListener::bind(path("stream")).unwrap();
        let other = UnixDatagram::bind(path("datagram")).unwrap();
        assert!(is_alive(&path("stream")) && is_alive(&path("datagram")) && !is_alive(&path("nothing")));
        drop((listener, other));
        for name in ["stream", "datagram"] {
            assert!(!is_alive(&path(name)) && ensure_replaceable(&path(name)).is_ok(), "{name}");
            remove_left_behind(&path(name)).unwrap();
        }
        // The question waits in the queue of one that ends, and is answered by that.
        let ending = UnixListener::bind(path("ending")).unwrap();
        let asked = thread::spawn({
            let path = path("ending");
            move || ensure_unused(&path, Duration::from_secs(30)).unwrap_err().kind()
        });
        drop(ending.accept().unwrap());
        drop(ending);
        assert_eq!(asked.join().unwrap(), ErrorKind::AddrInUse);
        ensure_unused(&path("ending"), Duration::from_secs(30)).unwrap();
        symlink(path("ending"), path("link")).unwrap();
        remove_left_behind(&path("link")).unwrap();
        assert!(path("link").is_symlink() && path("ending").exists());
        let why = ensure_replaceable(Path::new("/dev/null")).unwrap_err();
        assert!(why.starts_with("is a device or a pipe, which is left alone"), "{why}");
        fs::write(path("file"), "precious").unwrap();
        remove_left_behind(&path("file")).unwrap();
        assert!(path("file").exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
