//! SIGHUP: the configuration is read again, and what can change in a running broker does.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::{guard::Operators, keys::fetch::KeyUrl};
use crate::{
    access::Access,
    config::{
        Config,
        reload::{Change, Reload},
    },
};

/// A configuration with what the files say that it names.
#[derive(Debug)]
pub struct Loaded<C = Arc<Config>> {
    /// The configuration.
    pub config: C,
    /// Who may do what by it; none if everybody may do everything.
    pub access: Option<Arc<Access>>,
    /// Where keys are to be fetched from that are not in files.
    pub key_urls: Vec<KeyUrl>,
    /// Who may use the admin listener beside what is everybody's.
    pub operators: Option<Arc<Operators>>,
}

/// What the control thread calls: where a new configuration comes from, who takes its log level, and what is due from
/// time to time.
pub struct Hooks {
    /// Reads every source again; one line if that cannot be.
    pub load: Box<dyn FnMut() -> Result<Loaded<Config>, String>>,
    /// Logs at this level from now on.
    pub set_log_level: Box<dyn FnMut(&str)>,
    /// Gives memory that is not used back to the kernel.
    pub release_memory: fn(),
}

/// The configuration that runs.
pub(super) struct Reloader {
    running: Arc<Config>,
    hooks: Hooks,
}

impl Reloader {
    pub fn new(running: Arc<Config>, hooks: Hooks) -> Reloader {
        Reloader { running, hooks }
    }

    /// What it is.
    pub fn running(&self) -> &Config {
        &self.running
    }

    /// The same, to be kept.
    pub fn config(&self) -> Arc<Config> {
        self.running.clone()
    }

    /// Reads the configuration and says what becomes of it; gives what the reactors are to run with from now
    /// on. With anything wrong everything stays as it was. `check` says what is wrong with what would run, which has of some
    /// keys the values of the start, whatever is read.
    pub fn reload(&mut self, check: impl FnOnce(&Config) -> Result<(), String>) -> Option<Loaded> {
        let loaded = (self.hooks.load)().and_then(|Loaded { config, access, key_urls, operators }| {
            let config = Reload::new(&self.running, &config);
            check(&config.config).map(|()| Loaded { config, access, key_urls, operators })
        });
        let Loaded { config, access, key_urls, operators } = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                error!("not reloaded, the configuration is as it was: {why}");
                return None;
            }
        };
        let Reload { config, changed, waiting } = config;
        if config.log.level != self.running.log.level {
            (self.hooks.set_log_level)(&config.log.level);
        }
        match changed.is_empty() {
            true => info!("reloaded: nothing has changed"),
            false => info!("reloaded: {}", listed(&changed)),
        }
        for change in waiting {
            warn!("{change} needs a restart");
        }
        self.running = Arc::new(config);
        Some(Loaded { config: self.running.clone(), access, key_urls, operators })
    }
}

fn listed(changes: &[Change]) -> String {
    changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}
