//! Where results go: files that are checked before a run, and what one sees while it lasts.

mod live;

use std::{
    fmt::Display,
    fs::OpenOptions,
    io::{ErrorKind, Write, stderr, stdout},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use clap::Args;
use serde::Serialize;

pub use live::{Live, thousands};

/// Files that the result is written to.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The result")]
pub struct Outputs {
    /// Also write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write a page with plots to this file: one file, readable without a network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Outputs {
    /// Opens each file without changing it: better told before a run of hours than after.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn check(&self) -> Result<(), String> {
        for path in [&self.json, &self.html].into_iter().flatten() {
            // A link to a file that is not there yet is no file of ours to remove.
            let is_new = path.symlink_metadata().is_err();
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            if is_new {
                // An empty file would look like a result if the run fails.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Writes `value` to the JSON file, if there is to be one.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn write_json(&self, value: &impl Serialize) -> Result<(), String> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(value).expect("a report is plain data") + "\n";
        write(path, &text)
    }

    /// Writes the page, if there is to be one.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn write_html(&self, page: impl FnOnce() -> String) -> Result<(), String> {
        self.html.as_deref().map_or(Ok(()), |path| write(path, &page()))
    }
}

/// Whether all that was to be printed was.
static IS_PRINTED: AtomicBool = AtomicBool::new(true);

/// Prints a line of the result. A reader that went away (`| head`) is no error of ours: files are written
/// all the same, and the exit code says what came of it. Any other error is told once, and by [`is_printed`].
pub fn print(text: impl Display) {
    match writeln!(stdout(), "{text}").and_then(|()| stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe && IS_PRINTED.swap(false, Relaxed) => {
            tell(format_args!("fanfare-loadtest: cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

/// Whether all that was to be printed was, or nobody wanted it any more.
pub fn is_printed() -> bool {
    IS_PRINTED.load(Relaxed)
}

/// Tells, on standard error, a line about how it goes.
pub fn tell(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_told_before_and_named() {
        let outputs = Outputs { json: Some("/nowhere/out.json".into()), html: None };
        let error = outputs.check().unwrap_err();
        assert!(error.starts_with("cannot write /nowhere/out.json: "), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn checking_leaves_no_file_and_changes_none() {
        let directory = std::env::temp_dir().join(format!("fanfare-outputs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (absent, present) = (directory.join("absent"), directory.join("present"));
        std::fs::write(&present, "before").unwrap();
        let link = directory.join("link");
        std::os::unix::fs::symlink(directory.join("target"), &link).unwrap();
        assert_eq!(Outputs { json: Some(link.clone()), html: None }.check(), Ok(()));
        assert!(link.is_symlink());
        let outputs = Outputs { json: Some(absent.clone()), html: Some(present.clone()) };
        assert_eq!(outputs.check(), Ok(()));
        assert!(!absent.exists());
        assert_eq!(std::fs::read_to_string(&present).unwrap(), "before");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
