use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn at(seconds: u64) -> Mono {
    Mono::from_nanos((1_000 + seconds) * 1_000_000_000)
}

fn address(number: u32) -> Address {
    IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)).into()
}

fn user(name: &str) -> Auth {
    Auth {
        username: name.to_owned(),
        password: "secret".to_owned(),
        ..Auth::default()
    }
}

/// Notes this many accepted and refused logins.
fn note(logins: &Logins, accepted: u64, refused: u64, now: Mono) {
    (0..accepted).for_each(|_| logins.note_accepted(now));
    (0..refused).for_each(|_| logins.note_refused(&user("ada"), address(1), now));
}

fn is_raised(logins: &Logins, now: Mono) -> bool {
    logins.check(now);
    assert_eq!(logins.alarm().is_some(), logins.record().is_alarm_raised);
    logins.record().is_alarm_raised
}

#[test]
fn the_alarm_needs_twenty_judged_logins_of_which_more_than_half_were_refused() {
    for (accepted, refused, expected) in [
        (0, 0, false),
        (0, 19, false),
        (0, 20, true),
        (10, 10, false),
        (9, 11, true),
        (100, 100, false),
        (100, 101, true),
    ] {
        let logins = Logins::default();
        note(&logins, accepted, refused, at(0));
        assert_eq!(
            is_raised(&logins, at(0)),
            expected,
            "{accepted} accepted, {refused} refused"
        );
    }
}

#[test]
fn the_alarm_ends_when_the_share_falls_or_when_the_minute_is_over() {
    let logins = Logins::default();
    for second in 0..10 {
        note(&logins, 0, 3, at(second));
    }
    assert!(is_raised(&logins, at(10)));
    note(&logins, 29, 0, at(20));
    assert!(is_raised(&logins, at(20)));
    note(&logins, 1, 0, at(21));
    assert!(!is_raised(&logins, at(21)));
    let logins = Logins::default();
    for second in 0..10 {
        note(&logins, 0, 3, at(second));
    }
    assert!(is_raised(&logins, at(62)), "21 of 30 are left");
    assert!(!is_raised(&logins, at(63)));
    let status = logins.status(at(64));
    assert_eq!(status["judged_in_last_minute"], 15);
    let status = logins.status(at(10_000));
    assert_eq!(status["refused_in_last_minute"], 0);
}

#[test]
fn what_is_not_judged_does_not_raise_the_alarm() {
    let logins = Logins::default();
    note(&logins, 10, 10, at(0));
    (0..1_000).for_each(|_| logins.note_unjudged(address(1), at(0)));
    assert!(!is_raised(&logins, at(0)));
}

#[test]
fn refused_logins_are_summarised_once_a_minute_without_a_secret() {
    let logins = Logins::default();
    let token = Auth {
        username: "ignored".to_owned(),
        token: "tok-secret".to_owned(),
        ..Auth::default()
    };
    for number in 0..3 {
        logins.note_refused(&user("ada"), address(number), at(number.into()));
    }
    logins.note_refused(&user("bob"), address(0), at(3));
    logins.note_refused(&token, address(0), at(3));
    logins.note_unjudged(address(9), at(4));
    logins.note_accepted(at(4));
    assert_eq!(logins.check(at(59)).summary, None);
    let summary = logins.check(at(60)).summary;
    let expected = Summary {
        logins: 5,
        with_token: 1,
        unjudged: 1,
        addresses: 4,
        are_addresses_cut: false,
        names: "'ada': 3, 'bob': 1".to_owned(),
    };
    assert_eq!(summary, Some(expected));
    assert_eq!(logins.check(at(600)).summary, None, "nothing has happened");
    logins.note_refused(&user("ada"), address(0), at(601));
    assert_eq!(logins.check(at(660)).summary, None);
    assert_eq!(logins.check(at(661)).summary.map(|it| it.logins), Some(1));
}

#[test]
fn a_flood_of_addresses_and_names_takes_bounded_memory() {
    let logins = Logins::default();
    for number in 0..100_000 {
        let auth = user(&format!("{number}{}", "x".repeat(1_000)));
        logins.note_refused(&auth, address(number), at(0));
    }
    let addresses = {
        let record = logins.record();
        record.refused.as_ref().unwrap().addresses.len()
    };
    assert_eq!(addresses, ADDRESSES_MAX);
    let summary = logins.check(at(60)).summary.unwrap();
    assert_eq!(
        (summary.logins, summary.addresses),
        (100_000, ADDRESSES_MAX)
    );
    assert!(summary.are_addresses_cut);
    assert!(summary.names.len() < 5 * 100, "{}", summary.names);
}

#[test]
fn an_alarm_that_flaps_is_logged_ten_times_a_minute_at_most() {
    let logins = Logins::default();
    let mut logged = 0;
    let mut changes = 0;
    let mut refused = 20;
    note(&logins, 0, refused, at(0));
    let mut judged = refused;
    for _ in 0..30 {
        let was_raised = logins.record().is_alarm_raised;
        logged += u32::from(logins.check(at(1)).alarm.is_some());
        changes += u32::from(logins.record().is_alarm_raised != was_raised);
        if logins.record().is_alarm_raised {
            let needed = 2 * refused - judged;
            note(&logins, needed, 0, at(1));
            judged += needed;
        } else {
            note(&logins, 0, 1, at(1));
            (judged, refused) = (judged + 1, refused + 1);
        }
    }
    assert_eq!((changes, logged), (30, 10));
}
