//! Who a client is at the broker: the token that it brings along.

use std::{fs, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::protocol::secret::Secret;

/// A longer token is not read: no broker takes one.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// What clients take to say who they are.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// A token to bring along. Other users of this machine can see it: better have it in a file. It wins over one.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A file that holds the token. It is read anew for every connection.
    #[arg(long, value_name = "FILE", env = "FANFARE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl Login {
    /// The token, if there is one.
    pub fn token(&self) -> Result<Option<Secret>, Failure> {
        let (origin, token) =
            match (&self.token, self.token_file.as_ref().filter(|path| !path.as_os_str().is_empty())) {
                (Some(token), _) => ("--token".to_owned(), token.clone()),
                (None, Some(path)) => {
                    let origin = format!("--token-file {}", path.display());
                    let failed = |why: &dyn std::fmt::Display| {
                        Failure::Usage(format!("{origin} cannot be read: {why}"))
                    };
                    let about = fs::metadata(path).map_err(|error| failed(&error))?;
                    if about.len() > TOKEN_BYTES_MAX {
                        return Err(failed(&format_args!(
                            "it has {} bytes; at most {TOKEN_BYTES_MAX} are allowed",
                            about.len()
                        )));
                    }
                    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
                    (origin, text.trim_ascii().to_owned())
                }
                (None, None) => return Ok(None),
            };
        // It becomes a line of a request.
        match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Some(Secret::new(token))),
            false => {
                Err(Failure::Usage(format!("{origin} holds no token: visible ASCII characters are allowed")))
            }
        }
    }
}
