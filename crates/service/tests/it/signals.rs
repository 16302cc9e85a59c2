use nix::sys::signal::{Signal, raise};
use tickstorm_service::signals::{EndSignal, Signals};

#[tokio::test]
async fn a_shutdown_signal_is_identified_and_not_lost_before_it_is_awaited() {
    let mut signals = Signals::catch().unwrap();
    raise(Signal::SIGTERM).unwrap();
    assert_eq!(signals.next().await, EndSignal::Terminate);
    raise(Signal::SIGINT).unwrap();
    assert_eq!(signals.next().await, EndSignal::Interrupt);
    let mut signals = Signals::catch_at_terminal().unwrap();
    for (raised, expected) in [
        (Signal::SIGHUP, EndSignal::Hangup),
        (Signal::SIGTERM, EndSignal::Terminate),
        (Signal::SIGINT, EndSignal::Interrupt),
    ] {
        raise(raised).unwrap();
        assert_eq!(signals.next().await, expected);
        assert_eq!(i32::from(expected.exit_code()), 128 + raised as i32);
    }
}
