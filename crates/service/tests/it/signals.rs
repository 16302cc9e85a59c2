use nix::sys::signal::{Signal, raise};
use tickstorm_service::signals::{EndSignal, Signals};

#[tokio::test]
async fn a_signal_that_asks_to_end_is_told_by_name_and_not_lost_before_it_is_waited_for() {
    let mut signals = Signals::catch().unwrap();
    raise(Signal::SIGTERM).unwrap();
    assert_eq!(signals.next().await, EndSignal::Terminate);
    raise(Signal::SIGINT).unwrap();
    assert_eq!(signals.next().await, EndSignal::Interrupt);
}
