//! Looking again for a while before going to sleep, for those who buy latency with CPU time.
//!
//! A reactor that sleeps has to be woken, which costs whoever wakes it, and the kernel some microseconds. One that has
//! just had something to do is likely to have something soon: with `reactor.spin_us` it asks the ring again and again for
//! so long, and sleeps when nothing has come.

/// For how long, and since when.
#[derive(Debug, Default)]
pub struct Spin {
    spin_ns: u64,
    /// Since when there was nothing to do.
    idle_ns: Option<u64>,
    /// When the last turn began, if it is to look again.
    looked_ns: Option<u64>,
    /// The time that went into it.
    spent_ns: u64,
}

impl Spin {
    /// From now on for so long; 0 is not at all.
    pub fn set(&mut self, spin_us: u32) {
        self.spin_ns = u64::from(spin_us) * 1_000;
    }

    /// A turn begins.
    pub fn begin_turn(&mut self, now_ns: u64) {
        if let Some(looked_ns) = self.looked_ns.take() {
            self.spent_ns += now_ns.saturating_sub(looked_ns);
        }
    }

    /// Whether the turn that began at `now_ns`, which could sleep, is to be followed by another at once; it was idle, or not.
    pub fn looks_again(&mut self, now_ns: u64, was_idle: bool) -> bool {
        if self.spin_ns == 0 {
            return false;
        }
        if !was_idle {
            self.idle_ns = None;
        }
        let idle_ns = *self.idle_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(idle_ns) >= self.spin_ns {
            // Whatever ends the sleep is followed by a look of the same length.
            self.idle_ns = None;
            return false;
        }
        if was_idle {
            self.looked_ns = Some(now_ns);
        }
        true
    }

    /// The time that was spent looking since this was last asked, in nanoseconds: it is time that the core has.
    pub fn take_spent_ns(&mut self) -> u64 {
        std::mem::take(&mut self.spent_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_time_it_never_looks_again() {
        let mut spin = Spin::default();
        assert!(!spin.looks_again(5, false) && !spin.looks_again(6, true));
    }

    /// Turns a microsecond apart: the last that did something, those that look for more, and the sleep.
    #[test]
    fn it_looks_again_for_as_long_as_it_is_told() {
        let mut spin = Spin::default();
        spin.set(20);
        let turn = |spin: &mut Spin, us: u64, was_idle| {
            spin.begin_turn(us * 1_000);
            spin.looks_again(us * 1_000, was_idle)
        };
        assert!(turn(&mut spin, 100, false));
        for us in 101..120 {
            assert!(turn(&mut spin, us, true), "{us}");
        }
        // Something came: from then on again.
        assert!(turn(&mut spin, 119, false));
        for us in 120..139 {
            assert!(turn(&mut spin, us, true), "{us}");
        }
        assert!(!turn(&mut spin, 139, true));
        assert_eq!(spin.take_spent_ns(), (18 + 19) * 1_000);
        assert_eq!(spin.take_spent_ns(), 0);
        // A sleep that nothing ended but time: one look, not none.
        assert!(turn(&mut spin, 2_000, true));
    }
}
