use std::{
    num::ParseIntError,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
};

use tickstorm_testkit::TempDir;
use tokio::{
    sync::mpsc::unbounded_channel,
    time::{advance, timeout},
};

use super::*;
use crate::env::{FileError, read_text_file};

/// Far longer than any step takes: only a bug exceeds it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two files with a number on each line, which must not be negative.
struct Numbers {
    paths: [PathBuf; 2],
    /// Runs at the beginning of each load.
    before: Box<dyn FnMut() + Send>,
}

#[derive(Debug, thiserror::Error)]
enum NumberError {
    #[error("{}", path.display())]
    File { path: PathBuf, source: FileError },
    #[error("a line is not a number")]
    Line(#[from] ParseIntError),
}

/// The same files, so that a load may change what runs before it.
struct Shared(Arc<Mutex<Numbers>>);

impl FileSet for Shared {
    const NAME: &'static str = "numbers";
    const EFFECT: &'static str = "sums use them";
    type Loaded = Vec<u32>;
    type Error = NumberError;

    fn files(&self) -> Vec<WatchedFile> {
        let numbers = self.0.lock().unwrap();
        let file = |path| WatchedFile::lines("NUMBERS_FILE", path, "numbers", "sums are smaller");
        numbers.paths.iter().map(|path| file(path)).collect()
    }

    fn load(&self) -> Result<Vec<u32>, NumberError> {
        let mut numbers = self.0.lock().unwrap();
        (numbers.before)();
        let mut loaded = Vec::new();
        for path in numbers.paths.clone() {
            let text = read_text_file(&path, 1_000);
            let text = text.map_err(|source| NumberError::File { path, source })?;
            for line in text.lines().filter(|line| !line.is_empty()) {
                loaded.push(line.parse()?);
            }
        }
        Ok(loaded)
    }
}

/// The files, and the time.
struct Files {
    dir: TempDir,
    numbers: Arc<Mutex<Numbers>>,
    watched: Watched<Shared>,
    now: Instant,
}

impl Files {
    fn with(first: &str, second: &str) -> Self {
        let (dir, numbers) = numbers(first, second);
        let (watched, _) = Watched::load(Shared(Arc::clone(&numbers))).unwrap();
        Self {
            dir,
            numbers,
            watched,
            now: Instant::now(),
        }
    }

    fn write(&self, name: &str, content: &str) {
        self.dir.write(name, content);
    }

    /// Looks a second later.
    fn look(&mut self) -> Found<Vec<u32>> {
        self.now += CHECK_INTERVAL;
        self.watched.check(self.now)
    }

    fn loads(&mut self) -> Vec<u32> {
        let verdict = self.look().verdict;
        let name = name(&verdict);
        let Verdict::Loaded(loaded) = verdict else {
            panic!("{name}");
        };
        loaded
    }

    fn is(&mut self, expected: &str) {
        let found = self.look();
        assert_eq!(name(&found.verdict), expected);
    }
}

fn numbers(first: &str, second: &str) -> (TempDir, Arc<Mutex<Numbers>>) {
    let dir = TempDir::new("numbers");
    let numbers = Numbers {
        paths: [dir.write("first", first), dir.write("second", second)],
        before: Box::new(|| ()),
    };
    (dir, Arc::new(Mutex::new(numbers)))
}

fn name<L>(verdict: &Verdict<L>) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Unconfirmed => "unconfirmed",
        Verdict::Loaded(_) => "loaded",
        Verdict::Refused { is_new: true, .. } => "refused",
        Verdict::Refused { is_new: false, .. } => "still refused",
    }
}

fn missing(found: &Found<Vec<u32>>) -> Vec<Option<String>> {
    let reports = found.reports.iter().map(|report| match &report.outcome {
        Outcome::Unchanged | Outcome::Refused(_) => None,
        Outcome::Changed(missing) | Outcome::Unconfirmed(missing) => {
            missing.as_ref().map(MissingEntries::to_string)
        }
    });
    reports.collect()
}

#[test]
fn files_with_more_or_other_entries_take_effect_at_once() {
    let mut files = Files::with("1\n", "2\n");
    files.is("same");
    files.write("first", "1\n3\n");
    assert_eq!(files.loads(), [1, 3, 2]);
    files.write("second", "4");
    assert_eq!(files.loads(), [1, 3, 4]);
    files.is("same");
}

#[test]
fn files_with_fewer_entries_take_effect_after_a_second_look_that_finds_the_same() {
    let mut files = Files::with("1\n2\n3\n", "4\n");
    for (content, gone) in [("1\n2", "1 of 3"), ("", "2 of 2")] {
        files.write("first", content);
        let first = files.look();
        assert_eq!(name(&first.verdict), "unconfirmed");
        let second = files.look();
        assert_eq!(name(&second.verdict), "loaded");
        let expected = Some(format!("{gone} numbers gone"));
        for found in [first, second] {
            assert_eq!(missing(&found), [expected.clone(), None]);
        }
        files.is("same");
    }
    // A set in which one file has more entries and the other has fewer.
    files.write("first", "1");
    files.write("second", "# nothing");
    files.is("refused");
    files.write("second", "");
    files.is("unconfirmed");
    assert_eq!(files.loads(), [1]);
}

#[test]
fn files_that_are_rewritten_in_place_take_effect_only_when_they_are_complete() {
    let whole = "1\n2\n3\n4\n";
    let mut files = Files::with(whole, "");
    files.write("first", "");
    files.is("unconfirmed");
    files.write("first", "5\n");
    files.is("unconfirmed");
    files.write("first", "5\n6\n7");
    files.is("unconfirmed");
    files.write("first", "5\n6\n7\n8\n");
    assert_eq!(files.loads(), [5, 6, 7, 8]);
    files.write("first", "");
    files.is("unconfirmed");
    files.write("first", "5\n6\n7\n8\n");
    files.is("same");
    // The next loss needs two looks again.
    files.write("first", "");
    files.is("unconfirmed");
}

#[test]
fn a_look_that_is_requested_too_soon_does_not_confirm() {
    let mut files = Files::with("1\n2\n", "");
    files.write("first", "1\n");
    files.is("unconfirmed");
    for _ in 0..3 {
        files.now += Duration::from_millis(100);
        let found = files.watched.check(files.now);
        assert_eq!(name(&found.verdict), "unconfirmed");
    }
    files.now += Duration::from_millis(700);
    let found = files.watched.check(files.now);
    assert_eq!(name(&found.verdict), "loaded");
}

#[test]
fn files_that_change_while_they_are_read_take_effect_only_when_they_rest() {
    let mut files = Files::with("1\n", "");
    files.write("first", "2\n");
    let path = files.dir.path().join("first");
    files.numbers.lock().unwrap().before = Box::new(move || std::fs::write(&path, "3").unwrap());
    files.is("unconfirmed");
    files.numbers.lock().unwrap().before = Box::new(|| ());
    assert_eq!(files.loads(), [3]);
}

#[test]
fn files_that_cannot_be_used_are_refused_once_and_what_was_loaded_stays() {
    let mut files = Files::with("1\n2\n", "3\n");
    for content in ["-1\n", "1\n2\n3\n4\nx", "1\u{0}\n2", "\u{feff}1\n2"] {
        files.write("first", content);
        files.is("refused");
        let found = files.watched.check(files.now);
        assert_eq!(name(&found.verdict), "still refused");
        let outcomes: Vec<_> = found.reports.iter().map(|report| &report.outcome).collect();
        assert!(matches!(
            outcomes[..],
            [Outcome::Refused(_), Outcome::Unchanged]
        ));
        files.is("still refused");
    }
    std::fs::remove_file(files.dir.path().join("first")).unwrap();
    files.is("refused");
    files.is("still refused");
    files.write("first", "1\n2\n");
    files.is("same");
    files.write("second", "4\n");
    assert_eq!(files.loads(), [1, 2, 4]);
}

#[test]
fn files_that_are_refused_for_a_reason_that_passes_take_effect_without_another_change() {
    let mut files = Files::with("1\n", "");
    files.write("first", "2\n");
    let (path, aside) = (
        files.dir.path().join("first"),
        files.dir.path().join("aside"),
    );
    let (from, to) = (path.clone(), aside.clone());
    files.numbers.lock().unwrap().before = Box::new(move || std::fs::rename(&from, &to).unwrap());
    files.is("refused");
    files.numbers.lock().unwrap().before = Box::new(|| ());
    std::fs::rename(aside, path).unwrap();
    assert_eq!(files.loads(), [2]);
}

fn counters() -> ReloadCounters {
    ReloadCounters::register(&Registry::new(), "reloads_total", "Counted").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_with_a_report_on_each_file_and_counts() {
    let (dir, numbers) = numbers("1\n", "2\n");
    let (files, _) = FilesInUse::load(Shared(numbers)).unwrap();
    let (access, counters) = (files.access(), counters());
    let watching = tokio::spawn(files.watch(counters.clone(), |_| (), |_| ()));
    let reread = async || {
        let reports = access.request().unwrap().await.unwrap();
        let outcomes = reports.into_iter().map(|report| report.outcome);
        outcomes.collect::<Vec<_>>()
    };
    assert_eq!(reread().await, [Outcome::Unchanged, Outcome::Unchanged]);
    dir.write("second", "3\n");
    let reports = reread().await;
    // The look that is due every second may have come first.
    let is_first = counters.loaded.get() == 1 && reports[1] == Outcome::Unchanged;
    assert!(
        is_first || reports == [Outcome::Unchanged, Outcome::Changed(None)],
        "{reports:?}"
    );
    dir.write("first", "one\n");
    for failed in 1..=3 {
        let reports = reread().await;
        assert!(
            matches!(reports[..], [Outcome::Refused(_), Outcome::Unchanged]),
            "{reports:?}"
        );
        assert!(counters.failed.get() >= failed);
        assert!(access.refused().unwrap().contains("not a number"));
        assert_eq!(counters.refused.get(), 1);
    }
    dir.write("first", "1\n");
    assert_eq!(reread().await, [Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(access.refused(), None);
    assert_eq!(counters.refused.get(), 0);
    assert_eq!(counters.loaded.get(), 1);
    watching.abort();
    let _ = watching.await;
    assert!(access.request().is_none(), "nothing watches the files");
}

#[tokio::test(start_paused = true)]
async fn after_a_load_that_hung_the_looks_are_a_second_apart_again() {
    let (dir, numbers) = numbers("1\n", "");
    let (files, _) = FilesInUse::load(Shared(Arc::clone(&numbers))).unwrap();
    let (started, mut has_started) = unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    numbers.lock().unwrap().before = Box::new(move || {
        let _ = started.send(());
        // Only the first load waits: after it, the sender is gone.
        let _ = released.recv();
    });
    dir.write("first", "2\n");
    let (published, mut at) = unbounded_channel();
    let publish = move |_| published.send(Instant::now()).unwrap();
    let watching = tokio::spawn(files.watch(counters(), publish, |_| ()));
    has_started.recv().await.unwrap();
    advance(Duration::from_secs(10)).await;
    drop(release);
    let mut published = Vec::new();
    for _ in 0..5 {
        let next = timeout(2 * PATIENCE, at.recv()).await;
        published.push(next.unwrap().unwrap());
    }
    watching.abort();
    // The look that is due comes at once.
    for pair in published[1..].windows(2) {
        assert!(pair[1] - pair[0] >= CHECK_INTERVAL, "{published:?}");
    }
}
