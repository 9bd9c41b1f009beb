//! The kept inputs of every fuzz target, replayed: what a fuzzer once found stays found.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::TARGETS;

/// The most seeds of one target.
const MAX_SEEDS: usize = 100;

/// The most bytes that the seeds of one target have together.
const MAX_BYTES: usize = 200 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| name(entry.unwrap().path())).collect()
}

#[test]
fn every_kept_input_is_read_without_a_panic() {
    for (name, target) in TARGETS {
        let folder = fuzz().join("seeds").join(name);
        for seed in names(&folder) {
            let input = fs::read(folder.join(&seed)).unwrap();
            let read = std::panic::catch_unwind(|| target(&input));
            assert!(read.is_ok(), "{name} panics at {seed}");
        }
    }
}

#[test]
fn every_target_has_its_file_and_a_few_seeds() {
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(known, names(&fuzz().join("fuzz_targets")));
    assert_eq!(known, names(&fuzz().join("seeds")));
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in known {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let folder = fuzz().join("seeds").join(&name);
        let seeds = names(&folder);
        let bytes: u64 = seeds
            .iter()
            .map(|seed| fs::metadata(folder.join(seed)).unwrap().len())
            .sum();
        assert!((1..=MAX_SEEDS).contains(&seeds.len()), "{name}");
        assert!(usize::try_from(bytes).unwrap() <= MAX_BYTES, "{name}");
    }
}
