//! Configurations that others have taken the place of, and whom they let in.
//!
//! Whoever lets go of one last frees all that is in it, up to 65,536 tokens and as many networks, which takes milliseconds: that is not
//! to be a reactor. So each is kept here until no reactor has it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::{access::Access, config::Config};

/// Those that some reactor may still have: of each reload one, until it is over.
#[derive(Debug, Default)]
pub struct Superseded(Mutex<Vec<Kept>>);

/// A configuration, and whom it lets in.
type Kept = (Arc<Config>, Option<Arc<Access>>);

impl Superseded {
    /// Reactors are told of another one.
    pub fn keep(&self, config: Arc<Config>, access: Option<Arc<Access>>) {
        self.lock().push((config, access));
    }

    /// Lets go of those that nobody else has any more.
    pub fn let_go(&self) {
        let is_held = |access: &Arc<Access>| Arc::strong_count(access) > 1;
        self.lock()
            .retain(|(config, access)| Arc::strong_count(config) > 1 || access.as_ref().is_some_and(is_held));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reactor_has_is_kept_until_it_lets_go_of_it() {
        let superseded = Superseded::default();
        let count = || superseded.lock().len();
        let (config, access) = (Arc::new(Config::default()), Arc::new(Access::new(1, Vec::new())));
        superseded.keep(config.clone(), Some(access.clone()));
        superseded.keep(Arc::default(), None);
        superseded.let_go();
        assert_eq!(count(), 1, "nobody has the other one");
        drop(config);
        superseded.let_go();
        assert_eq!(count(), 1, "somebody still lets in by it");
        drop(access);
        superseded.let_go();
        assert_eq!(count(), 0);
    }
}
