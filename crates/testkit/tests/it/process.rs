use std::time::Duration;

use tickstorm_testkit::{TempDir, poll_until, poll_until_async, resident_bytes};

#[test]
fn resident_memory_is_plausible() {
    let bytes = resident_bytes();
    assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
}

#[test]
fn each_temporary_directory_is_new_and_removed_when_dropped() {
    let (one, other) = (TempDir::new("kit"), TempDir::new("kit"));
    assert_ne!(one.path(), other.path());
    let file = one.write("name", "content");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    drop(one);
    assert!(!file.exists());
}

#[test]
fn polling_stops_when_the_condition_holds() {
    let mut polls = 0;
    poll_until("three polls", Duration::from_secs(10), || {
        polls += 1;
        polls == 3
    });
    assert_eq!(polls, 3);
}

#[test]
#[should_panic(expected = "the impossible")]
fn polling_panics_at_its_bound() {
    poll_until("the impossible", Duration::from_millis(10), || false);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the impossible")]
async fn polling_panics_at_its_bound_in_virtual_time() {
    poll_until_async("the impossible", Duration::from_secs(60), || false).await;
}
