//! The file of revocations: a line of JSON for each, of which a later one of the same subject takes the place of an earlier one.
//!
//! A line is in the file, and on the disk, before whoever asked for it is told so. At the start what is over goes, and so it does
//! when there are many more lines than revocations. One broker at a time has the file.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use super::entry::{ENTRY_BYTES_MAX, Entry};
use crate::{
    access::revocation::{Full, REVOCATIONS_MAX, Revocations},
    control::credentials::exposure,
};

/// With more lines than this the file is written anew.
const LINES_MAX: usize = 2 * REVOCATIONS_MAX;
/// The longest file, in bytes.
const FILE_BYTES_MAX: u64 = ((LINES_MAX + 1) * ENTRY_BYTES_MAX) as u64;
/// For so long the broker before this one may have the file still: it ends.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The file, which is this broker's.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    bytes: u64,
    line_count: usize,
}

impl Store {
    /// Opens the file at `path`, makes it if there is none, and reads what is in force at `now_s`.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn open(path: &Path, now_s: u64) -> Result<(Store, Revocations), String> {
        let refused = |why: String| refusal(path, why);
        let file = lock(path).map_err(refused)?;
        let revocations = read(path, &file, now_s).map_err(refused)?;
        let mut store = Store { path: path.into(), file, bytes: 0, line_count: 0 };
        store.rewrite(&revocations, now_s).map_err(|error| refused(format!("cannot be written: {error}")))?;
        Ok((store, revocations))
    }

    /// Whether what is at `path` could be opened at `now_s`, whoever has it; there may be nothing yet.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn check(path: &Path, now_s: u64) -> Result<(), String> {
        let read = match File::open(path) {
            Ok(file) => read(path, &file, now_s).map(|_| ()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("cannot be opened: {error}")),
        };
        read.map_err(|why| refusal(path, why))
    }

    /// Adds these lines, which are in `all` already.
    ///
    /// # Errors
    /// What the file system says; then the file is as it was.
    pub fn append(&mut self, lines: &[String], all: &Revocations, now_s: u64) -> io::Result<()> {
        if self.line_count + lines.len() > LINES_MAX {
            return self.rewrite(all, now_s);
        }
        let text = lines.concat();
        match self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.bytes += text.len() as u64;
                self.line_count += lines.len();
                Ok(())
            }
            Err(error) => {
                if self.file.set_len(self.bytes).is_err() {
                    // Nothing may stand behind half a line.
                    self.line_count = LINES_MAX;
                }
                Err(error)
            }
        }
    }

    /// Writes what is in force at `now_s`, and nothing else.
    fn rewrite(&mut self, all: &Revocations, now_s: u64) -> io::Result<()> {
        let mut path = self.path.clone().into_os_string();
        path.push(".new");
        // Of a broker that was ended while it wrote it.
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut newest = all.newest(now_s);
        newest.reverse();
        let text: String = newest.into_iter().map(|it| Entry::from(it).line()).collect();
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&path, &self.path)?;
        let folder = self.path.parent().expect("an absolute path of a file is in a folder");
        File::open(folder)?.sync_all()?;
        (self.file, self.bytes, self.line_count) = (file, text.len() as u64, text.lines().count());
        Ok(())
    }
}

fn refusal(path: &Path, why: String) -> String {
    format!("auth.revocations_file = \"{}\" {why}", path.display())
}

/// What is in the file at `path`, which nobody but the broker's user may have written.
fn read(path: &Path, mut file: &File, now_s: u64) -> Result<Revocations, String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let about = file.metadata().map_err(unread)?;
    if !about.is_file() {
        return Err("is no file".into());
    }
    if let Some(why) = exposure(about.mode(), about.uid(), about.gid()) {
        return Err(why);
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(format!("has {} bytes; at most {FILE_BYTES_MAX} are allowed", about.len()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unread)?;
    parse(path, &bytes, now_s)
}

/// Opens the file and keeps others from it, waiting a while for the one before.
fn lock(path: &Path) -> Result<File, String> {
    let deadline = Instant::now() + LOCK_LIMIT;
    let failed = |error: io::Error| format!("cannot be opened: {error}");
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            // Else it is one that was written anew meanwhile.
            Ok(()) if is_at(&file, path) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err("is another broker's, which runs".into());
            }
            Err(TryLockError::WouldBlock) => {}
        }
        thread::sleep(LOCK_PAUSE);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let numbers = |about: fs::Metadata| (about.dev(), about.ino());
    file.metadata().map(numbers).ok() == fs::metadata(path).map(numbers).ok()
}

/// What the lines say. The last one may be half a line, of a broker that was ended while it wrote it.
fn parse(path: &Path, bytes: &[u8], now_s: u64) -> Result<Revocations, String> {
    let mut revocations = Revocations::default();
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        if line.is_empty() {
            continue;
        }
        match Entry::parse(line).and_then(|entry| entry.revocation(None)) {
            Ok(revocation) => {
                let held = revocations.insert(revocation, now_s);
                held.map_err(|Full| format!("has more than {REVOCATIONS_MAX} revocations"))?;
            }
            Err(why) if lines.peek().is_none_or(|(_, rest)| rest.is_empty()) && is_end(&mut lines) => {
                warn!("{}: line {number} is cut and passed over: {why}", path.display());
            }
            Err(why) => return Err(format!("is not read: line {number}: {why}")),
        }
    }
    Ok(revocations)
}

fn is_end<'a>(lines: &mut impl Iterator<Item = (usize, &'a [u8])>) -> bool {
    lines.all(|(_, line)| line.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::access::revocation::{Kind, Revocation, Subject, Terms};

    const NOW_S: u64 = 1_000;

    fn path(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("fanfare-revocations-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        path
    }

    fn block(name: &str, until_s: u64) -> Revocation {
        let subject = Subject { kind: Kind::User, name: name.into(), issuer: None };
        Revocation { subject, terms: Terms { issued_before_s: 0, until_s } }
    }

    /// The names that are blocked, the newest first.
    fn names(revocations: &Revocations, now_s: u64) -> Vec<String> {
        let newest = revocations.newest(now_s);
        newest.iter().map(|it| it.subject.name.to_string()).collect()
    }

    fn add(store: &mut Store, all: &mut Revocations, revocation: Revocation) {
        all.insert(revocation.clone(), NOW_S).unwrap();
        store.append(&[Entry::from(revocation).line()], all, NOW_S).unwrap();
    }

    #[test]
    fn what_was_added_is_there_at_the_next_start_and_what_is_over_is_not() {
        let path = path("kept");
        let (mut store, mut all) = Store::open(&path, NOW_S).unwrap();
        assert!(all.is_empty());
        for (name, until_s) in [("bob", 1_500), ("eve", 2_000), ("bob", 3_000), ("sue", 2_000), ("sue", 0)] {
            add(&mut store, &mut all, block(name, until_s));
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
        // While it is another one's.
        assert!(Store::open(&path, NOW_S).unwrap_err().ends_with("is another broker's, which runs"));
        drop(store);
        let (store, all) = Store::open(&path, NOW_S).unwrap();
        assert_eq!(
            (names(&all, NOW_S), names(&all, 2_000)),
            (vec!["bob".into(), "eve".into()], vec!["bob".into()])
        );
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"user\":\"eve\",\"until\":2000}\n{\"user\":\"bob\",\"until\":3000}\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(store);
        assert_eq!(names(&Store::open(&path, 2_000).unwrap().1, 2_000), ["bob"]);
    }

    #[test]
    fn half_a_line_at_the_end_is_passed_over_and_what_is_bad_elsewhere_is_not() {
        let path = path("cut");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            Store::open(&path, NOW_S).map(|(_, all)| names(&all, NOW_S))
        };
        let whole = "{\"user\":\"bob\",\"until\":2000}\n";
        for cut in ["", "{", "{\"user\":\"eve\",\"until\":20", "\0\0\0\0"] {
            assert_eq!(write(&format!("{whole}{cut}")).unwrap(), ["bob"], "{cut:?}");
        }
        for bad in ["{\n", "{\"user\":\"eve\"}\n", "{\"user\":\"eve\",\"until\":2000,\"x\":1}\n"] {
            let why = write(&format!("{bad}{whole}")).unwrap_err();
            assert!(why.contains(" is not read: line 1: "), "{why}");
        }
        assert!(Store::check(&path, NOW_S).unwrap_err().contains(" is not read: line 1: "));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        for result in [Store::open(&path, NOW_S).map(|_| ()), Store::check(&path, NOW_S)] {
            assert!(result.unwrap_err().contains("has mode 660"));
        }
        assert!(Store::open(Path::new("/nowhere/at/all"), NOW_S).unwrap_err().contains("cannot be opened"));
        assert_eq!(Store::check(Path::new("/nowhere/at/all"), NOW_S), Ok(()));
        assert!(Store::check(&env::temp_dir(), NOW_S).unwrap_err().ends_with("is no file"));
    }

    #[test]
    fn a_file_of_many_lines_is_written_anew() {
        let path = path("anew");
        let (mut store, mut all) = Store::open(&path, NOW_S).unwrap();
        store.line_count = LINES_MAX;
        add(&mut store, &mut all, block("bob", 2_000));
        add(&mut store, &mut all, block("eve", 2_000));
        assert_eq!((store.line_count, fs::read_to_string(&path).unwrap().lines().count()), (2, 2));
        drop(store);
        assert_eq!(names(&Store::open(&path, NOW_S).unwrap().1, NOW_S), ["eve", "bob"]);
    }

    /// The device takes no byte.
    #[test]
    fn what_cannot_be_written_is_said() {
        let (mut store, all) = Store::open(&path("full"), NOW_S).unwrap();
        store.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        store.append(&["{}\n".into()], &all, NOW_S).unwrap_err();
        // Such a device cannot be cut either: so the next one writes the file anew.
        assert_eq!(store.line_count, LINES_MAX);
        store.append(&["{}\n".into()], &all, NOW_S).unwrap();
        assert_eq!(store.line_count, 0);
    }
}
