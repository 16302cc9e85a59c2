use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{Signal, raise},
};
use tickstorm_service::lifecycle::{Asked, OpenFiles, Signals, raise_open_files};

#[tokio::test]
async fn a_signal_that_asks_to_end_is_told_by_name_and_not_lost_before_it_is_waited_for() {
    let mut signals = Signals::catch().unwrap();
    raise(Signal::SIGTERM).unwrap();
    assert_eq!(signals.next().await, Asked::Terminate);
    raise(Signal::SIGINT).unwrap();
    assert_eq!(signals.next().await, Asked::Interrupt);
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard / 2, hard).unwrap();
    assert_eq!(
        raise_open_files().unwrap(),
        OpenFiles {
            before: hard / 2,
            after: hard
        }
    );
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    assert_eq!(
        raise_open_files().unwrap(),
        OpenFiles {
            before: hard,
            after: hard
        }
    );
}
