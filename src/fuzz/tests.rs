//! The targets on stable: with the kept corpus, and with changes to it under a fixed seed.

use std::{fs, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed, TestRunner},
};

use super::{TARGETS, Target};

/// Miri takes some hundred times as long: one of so many kept inputs is enough for it.
const STEP: usize = if cfg!(miri) { 20 } else { 1 };
/// Those of which Miri runs nothing, since the cryptography is in C.
const NOT_FOR_MIRI: [&str; 2] = ["jwks", "token"];
/// Changed inputs per target.
const CHANGED_COUNT: u32 = if cfg!(miri) { 20 } else { 1_000 };

/// The targets that can be run.
fn targets() -> impl Iterator<Item = (&'static str, Target)> {
    TARGETS.into_iter().filter(|(name, _)| !cfg!(miri) || !NOT_FOR_MIRI.contains(name))
}

/// The kept inputs of `target`, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("a kept corpus").map(|entry| entry.expect("a file").path()).collect();
    paths.sort_unstable();
    paths.iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

/// One change to an input.
#[derive(Clone, Debug)]
enum Change {
    /// These bytes stand in place of as many as there are.
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    /// From the first place on, what another input has from the second place on.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let interesting = prop::sample::select(&b"\x00\x01\x7f\x80\xff\"\\{}[],: \r\n/+#"[..]);
    let bytes = vec(prop_oneof![any::<u8>(), interesting], 1..5);
    prop_oneof![
        3 => (any::<Index>(), bytes.clone()).prop_map(|(at, bytes)| Change::Overwrite(at, bytes)),
        2 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => any::<(Index, Index)>().prop_map(|(from, to)| Change::Remove(from, to)),
        2 => any::<(Index, Index, Index)>().prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

fn apply(change: &Change, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let place = |at: &Index| at.index(input.len() + 1);
    match change {
        Change::Overwrite(at, bytes) => {
            let at = place(at);
            let end = input.len().min(at + bytes.len());
            input.splice(at..end, bytes.iter().copied());
        }
        Change::Insert(at, bytes) => {
            let at = place(at);
            input.splice(at..at, bytes.iter().copied());
        }
        Change::Remove(from, to) => {
            let (from, to) = (place(from), place(to));
            input.drain(from.min(to)..from.max(to));
        }
        Change::Splice(at, other, from) => {
            let other = &corpus[other.index(corpus.len())];
            let at = place(at);
            input.truncate(at);
            input.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
    }
}

#[test]
fn every_kept_input_passes_its_target() {
    for (name, target) in targets() {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().step_by(STEP).for_each(|input| target(input));
    }
}

#[test]
fn changes_to_kept_inputs_pass_their_target() {
    for (name, target) in targets() {
        let corpus = corpus(name);
        let config = Config {
            cases: CHANGED_COUNT,
            rng_seed: RngSeed::Fixed(0x66616e66617265),
            failure_persistence: None,
            ..Config::default()
        };
        let changed = (any::<Index>(), vec(change(), 0..4)).prop_map(|(base, changes)| {
            let mut input = corpus[base.index(corpus.len())].clone();
            changes.iter().for_each(|change| apply(change, &mut input, &corpus));
            input
        });
        let run = |input: Vec<u8>| {
            target(&input);
            Ok(())
        };
        TestRunner::new(config).run(&changed, run).unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}
