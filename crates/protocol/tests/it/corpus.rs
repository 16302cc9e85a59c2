//! Replays the inputs that the fuzzer has found, in every run of the tests.

use std::fs;
use std::path::Path;

use crate::fuzz_drivers;

fn replay(target: &str, run: fn(&[u8])) {
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

#[test]
fn the_frame_decoder_survives_its_corpus() {
    replay("frame_decoder", fuzz_drivers::frame_decoder::run);
}

#[test]
fn the_server_session_survives_its_corpus() {
    replay("server_session", fuzz_drivers::server_session::run);
}
