//! Replays the inputs that the fuzzer has found. The tests of each crate that owns the driver of a
//! target include this file.

use std::fs;
use std::path::Path;

/// Runs a target's driver with every file of its corpus.
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let files = fs::read_dir(corpus.join(target)).expect("the corpus is committed");
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        // The file's name in the test's output shows which input a failure comes from.
        println!("{}", path.display());
        run(&fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files for {target}");
}
