//! Rereads all files of a daemon at once when SIGHUP asks for it, and logs one line about each of
//! them and a summary.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{FileReport, FileWatch, Outcome};
use crate::signals::Hangups;

/// The longest time that is waited for a file system.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Rereads the files each time that SIGHUP arrives, until `stop` is cancelled.
pub async fn reread_at_hangups(
    mut hangups: Hangups,
    watches: Vec<FileWatch>,
    stop: CancellationToken,
) {
    let reread = async {
        loop {
            hangups.next().await;
            reread(&watches).await;
        }
    };
    stop.run_until_cancelled(reread).await;
}

async fn reread(watches: &[FileWatch]) {
    let deadline = Instant::now() + TIME_MAX;
    let mut answers = Vec::new();
    // All are asked before the first answer, so that they are read side by side.
    for watch in watches {
        answers.extend(watch.request().map(|answer| (watch.name(), answer)));
    }
    let mut reports = Vec::new();
    let mut unanswered = 0_usize;
    for (name, answer) in answers {
        match timeout_at(deadline, answer).await {
            Ok(Ok(read)) => {
                read.iter().for_each(log);
                reports.extend(read);
            }
            Ok(Err(_)) | Err(_) => {
                unanswered += 1;
                tracing::error!("SIGHUP: {name} are not read; their file system may hang");
            }
        }
    }
    let count = |is: fn(&Outcome) -> bool| {
        let outcomes = reports.iter().map(|report| &report.outcome);
        outcomes.filter(|outcome| is(outcome)).count()
    };
    tracing::info!(
        files = reports.len(),
        changed = count(|outcome| matches!(outcome, Outcome::Changed(_))),
        refused = count(|outcome| matches!(outcome, Outcome::Refused(_))),
        unconfirmed = count(|outcome| matches!(outcome, Outcome::Unconfirmed(_))),
        unanswered,
        "SIGHUP: all files were reread"
    );
}

fn log(report: &FileReport) {
    let (setting, path) = (report.file.setting, report.file.path.display());
    match &report.outcome {
        Outcome::Unchanged => tracing::info!(setting, %path, "SIGHUP: the file is unchanged"),
        Outcome::Changed(None) => {
            let effect = report.effect;
            tracing::info!(setting, %path, "SIGHUP: the file has changed: {effect}");
        }
        Outcome::Changed(Some(missing)) => report.warn(missing),
        Outcome::Unconfirmed(None) => tracing::info!(
            setting, %path,
            "SIGHUP: the file is being changed, or changed together with one that is; it is read \
             again in a second"
        ),
        Outcome::Unconfirmed(Some(missing)) => tracing::warn!(
            setting, %path, gone = missing.gone, of = missing.of,
            "SIGHUP: {missing}; this takes effect if the file is the same in a second"
        ),
        Outcome::Refused(error) => tracing::error!(
            setting, %path, error,
            "SIGHUP: the file can't be used; what was read before stays in use"
        ),
    }
}
