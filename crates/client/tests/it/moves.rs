//! Tests of moving to another edge before the connection to the old one is closed.

use std::time::Duration;

use tickstorm_client::error::ErrorCode;
use tickstorm_client::{Event, Mode, Options, Quality, Ticks};
use tokio::time::{Instant, sleep, timeout};

use crate::edge::{DEAD, Edge, Net, epoch};

fn two() -> Options {
    Options::new("a").or_at("b")
}

/// What a reader saw.
#[derive(Debug, Default)]
struct Seen {
    moved: Vec<(String, String)>,
    reconnecting: usize,
    /// How late each tick came, in milliseconds.
    late_ms: Vec<i64>,
}

impl Seen {
    fn latest_ms(&self) -> i64 {
        self.late_ms.iter().copied().max().unwrap_or(0)
    }
}

/// Reads events until the tick `until_ms` after the base, and asserts that each tick comes once.
async fn follow(ticks: &mut Ticks, base: Instant, from_ms: i64, until_ms: i64) -> Seen {
    let (mut expected, mut seen) = (from_ms + 1_000, Seen::default());
    while expected <= until_ms {
        match ticks.next().await {
            Some(Ok(Event::Tick(tick))) => {
                assert_eq!(tick.epoch, epoch(expected), "{seen:?}");
                let now_ms = i64::try_from(base.elapsed().as_millis()).unwrap();
                seen.late_ms.push(now_ms - expected);
                expected += 1_000;
            }
            Some(Ok(Event::Moved {
                address, edge_id, ..
            })) => seen.moved.push((address, edge_id)),
            Some(Ok(Event::Reconnecting { .. })) => seen.reconnecting += 1,
            Some(Ok(Event::Reconnected { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    seen
}

/// Serves `edge` until it is closed, and then waits indefinitely.
async fn serve(edge: &mut Edge) {
    edge.serve().await;
    std::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
async fn no_tick_is_lost_doubled_or_delayed_by_a_move() {
    for options in [two(), Options::new("a"), two().ahead(true)] {
        for _ in 0..20 {
            let base = Instant::now();
            let (mut ticks, mut old, mut net) = Net::subscribed(options.clone(), 0).await;
            old.serve_for(Duration::from_millis(2_500)).await;
            old.go_away(10_000).await;
            let moves = async {
                let mut new = net.edge().await;
                new.limits.edge_id = "another".into();
                new.accept().await;
                let request = new.subscription().await;
                let now_ms = new.authority_ms();
                // The resume point is the last tick at the moment of SUBSCRIBE.
                let point = request.resume_after.unwrap().as_ms() - epoch(0).as_ms();
                assert!(
                    (now_ms - 1_001..=now_ms).contains(&point),
                    "{point} at {now_ms}"
                );
                assert!(now_ms <= 10_050, "within the deadline: {now_ms}");
                // The answer takes long. Ticks come over the old connection meanwhile, and again
                // over the new one.
                sleep(Duration::from_millis(2_300)).await;
                new.subscribed(epoch(point)).await;
                new.serve().await;
            };
            let seen = tokio::select! {
                seen = follow(&mut ticks, base, 0, 20_000) => seen,
                () = moves => panic!("the new connection was closed"),
                () = serve(&mut old) => unreachable!(),
            };
            let address = if options_have_one_address(&options) {
                "a"
            } else {
                "b"
            };
            assert_eq!(seen.moved, [(address.to_owned(), "another".to_owned())]);
            assert_eq!((ticks.address(), ticks.edge_id()), (address, "another"));
            assert_eq!(seen.reconnecting, 0);
            // The ticks before the request waited for the reader.
            assert!(seen.late_ms[3..].iter().all(|&late| late <= 5), "{seen:?}");
            assert!(old.is_closed().await);
        }
    }
}

fn options_have_one_address(options: &Options) -> bool {
    !format!("{options:?}").contains("\"b\"")
}

#[tokio::test(start_paused = true)]
async fn moves_of_many_clients_are_spread_over_the_time_until_the_deadline() {
    let mut moved_at = Vec::new();
    for _ in 0..40 {
        let (_ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
        old.go_away(20_000).await;
        let asked = Instant::now();
        tokio::select! {
            _ = net.edge() => moved_at.push(asked.elapsed().as_secs()),
            () = serve(&mut old) => unreachable!(),
        }
    }
    // The first quarter and the last before the margin of 5 s both have some.
    assert!(moved_at.iter().any(|&at| at < 5), "{moved_at:?}");
    assert!(moved_at.iter().any(|&at| at >= 10), "{moved_at:?}");
    assert!(moved_at.iter().all(|&at| at <= 15), "{moved_at:?}");
}

#[tokio::test(start_paused = true)]
async fn the_same_edge_is_tried_again_until_the_deadline_and_then_closes() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(Options::new("a"), 0).await;
    old.go_away(12_000).await;
    let mut attempts = Vec::new();
    let balancer = async {
        loop {
            // A balancer leads to the same edge, which has the same name.
            let mut same = net.edge().await;
            attempts.push(base.elapsed());
            same.subscribe().await;
            assert!(same.is_closed().await, "the client keeps two connections");
        }
    };
    tokio::select! {
        _ = old.serve_for(Duration::from_secs(12)) => {}
        () = balancer => unreachable!(),
    }
    assert!(attempts.len() >= 2, "{attempts:?}");
    for pair in attempts.windows(2) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(250),
            "{attempts:?}"
        );
    }
    old.refuse(ErrorCode::ServerDraining, "bye", 300).await;
    let mut new = net.edge().await;
    assert!(base.elapsed() < Duration::from_millis(12_500));
    new.limits.edge_id = "another".into();
    new.subscribe().await;
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 20_000) => seen,
        () = serve(&mut new) => unreachable!(),
    };
    assert_eq!((seen.moved.len(), seen.reconnecting), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_is_followed_by_one_at_the_next_address() {
    let options = Options::new("a").or_at("b").or_at("c").or_at("d");
    let base = Instant::now();
    let (client, mut net) = Net::dial(options, &["b"]);
    let mut old = net.edge().await;
    old.subscribe().await;
    let mut ticks = client.await.unwrap().unwrap();
    old.go_away(30_000).await;
    let moves = async {
        let (address, edge) = net.next().await.unwrap();
        assert!(address == "b" && edge.is_none());
        let (address, edge) = net.next().await.unwrap();
        assert_eq!(address, "c");
        let edge = edge.unwrap();
        edge.refuse(ErrorCode::AuthFailed, "an old password", 0)
            .await;
        let (address, edge) = net.next().await.unwrap();
        assert_eq!(address, "d");
        let mut edge = edge.unwrap();
        edge.subscribe().await;
        edge.serve().await;
    };
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 40_000) => seen,
        () = moves => panic!("the new connection was closed"),
        () = serve(&mut old) => unreachable!(),
    };
    assert_eq!(seen.moved, [("d".to_owned(), "edge at d".to_owned())]);
    assert!(seen.latest_ms() <= 5 && seen.reconnecting == 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_to_move_is_not_cut_off_for_the_sake_of_other_addresses() {
    let options = Options::new("a").or_at(DEAD).or_at("c");
    let (mut ticks, mut old, mut net) = Net::subscribed(options, 0).await;
    old.go_away(100).await;
    old.serve_for(Duration::from_secs(9)).await;
    assert!(timeout(Duration::ZERO, net.next()).await.is_err());
    let ended = Instant::now();
    drop(old);
    assert_eq!(net.next().await.unwrap().0, "c");
    // The attempt has 2 s more, and then the first wait follows.
    let waited = ended.elapsed();
    assert!((2..=3).contains(&waited.as_secs()), "{waited:?}");
    drop(net);
    while !matches!(ticks.next().await, Some(Ok(Event::Reconnecting { .. }))) {}
}

#[tokio::test(start_paused = true)]
async fn if_the_old_connection_ends_during_the_move_the_move_goes_on() {
    for drained in [false, true] {
        let base = Instant::now();
        let (mut ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
        old.serve_for(Duration::from_millis(1_500)).await;
        old.go_away(100).await;
        let mut new = tokio::select! {
            edge = net.edge() => edge,
            () = serve(&mut old) => unreachable!(),
        };
        new.accept().await;
        let point = new.subscription().await.resume_after.unwrap();
        assert_eq!(point, epoch(1_000));
        old.serve_for(Duration::from_secs(1)).await;
        if drained {
            old.refuse(ErrorCode::ServerDraining, "bye", 500).await;
        } else {
            drop(old);
        }
        sleep(Duration::from_millis(300)).await;
        new.subscribed(point).await;
        let seen = tokio::select! {
            seen = follow(&mut ticks, base, 0, 8_000) => seen,
            () = serve(&mut new) => unreachable!(),
        };
        assert_eq!((seen.moved.len(), seen.reconnecting), (1, 0), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn if_both_connections_end_the_client_comes_back_as_usual() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
    old.serve_for(Duration::from_millis(1_500)).await;
    old.go_away(100).await;
    let mut new = tokio::select! {
        edge = net.edge() => edge,
        () = serve(&mut old) => unreachable!(),
    };
    new.accept().await;
    drop(old);
    sleep(Duration::from_millis(100)).await;
    drop(new);
    let mut next = net.edge().await;
    assert_eq!(next.subscribe().await.resume_after, Some(epoch(1_000)));
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 8_000) => seen,
        () = serve(&mut next) => unreachable!(),
    };
    assert_eq!((seen.moved.len(), seen.reconnecting), (0, 1), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_of_time_during_the_move_ends_it() {
    let (mut ticks, mut old, mut net) = Net::subscribed(two(), 99_000).await;
    old.go_away(100).await;
    let mut new = net.edge().await;
    new.accept().await;
    old.refuse(ErrorCode::TimeStepped, "back", 1).await;
    match ticks.next().await {
        Some(Ok(Event::Reconnecting { resumes, .. })) => assert!(!resumes),
        other => panic!("{other:?}"),
    }
    let mut next = net.edge().await;
    next.accept().await;
    assert_eq!(next.subscription().await.resume_after, None);
    assert!(new.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_would_skip_ticks_is_not_moved_to() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
    old.serve_for(Duration::from_millis(1_500)).await;
    old.go_away(20_000).await;
    let moves = async {
        for start_ms in [500_000, 1_000] {
            let mut new = net.edge().await;
            new.limits.edge_id = "another".into();
            new.accept().await;
            let point = new.subscription().await.resume_after.unwrap();
            new.subscribed(point.max(epoch(start_ms))).await;
            if start_ms > 1_000 {
                assert!(new.is_closed().await);
            } else {
                new.serve().await;
            }
        }
    };
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 30_000) => seen,
        () = moves => panic!("the new connection was closed"),
        () = serve(&mut old) => unreachable!(),
    };
    assert_eq!((seen.moved.len(), seen.reconnecting), (1, 0), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_asked_twice_moves_before_the_earlier_deadline() {
    for deadlines in [[60_000, 2_000], [2_000, 60_000]] {
        let (_ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
        let base = Instant::now();
        for deadline_ms in deadlines {
            old.go_away(deadline_ms).await;
        }
        tokio::select! {
            _ = net.edge() => {}
            () = serve(&mut old) => unreachable!(),
        }
        assert!(base.elapsed() <= Duration::from_secs(2), "{deadlines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_before_the_subscription_is_acknowledged_counts() {
    let (client, mut net) = Net::dial(two(), &[]);
    let mut old = net.edge().await;
    old.accept().await;
    old.go_away(3_000).await;
    old.acknowledge(epoch(0)).await;
    let _ticks = client.await.unwrap().unwrap();
    tokio::select! {
        _ = net.edge() => {}
        () = serve(&mut old) => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_reconnect_does_not_move() {
    let (mut ticks, mut old, mut net) = Net::subscribed(two().reconnect(false), 0).await;
    old.go_away(1_000).await;
    old.serve_for(Duration::from_millis(2_500)).await;
    for second in 1..=2 {
        match ticks.next().await {
            Some(Ok(Event::Tick(tick))) => assert_eq!(tick.epoch, epoch(second * 1_000)),
            other => panic!("{other:?}"),
        }
    }
    assert!(timeout(Duration::from_secs(1), net.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn ticks_held_for_their_time_are_kept_and_the_new_edges_time_is_learned() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(two().ahead(true), 0).await;
    old.answer_for(Duration::from_millis(300)).await;
    old.ticks([1_000, 2_000]).await;
    old.go_away(100).await;
    let mut new = net.edge().await;
    // The new edge follows a clock that is 30 ms ahead.
    new.skew_us = 30_000;
    new.accept().await;
    let point = new.subscription().await.resume_after.unwrap();
    assert_eq!(point, epoch(2_000));
    new.subscribed(point).await;
    new.answer_for(Duration::from_millis(300)).await;
    assert!(old.is_closed().await);
    let now_us = ticks.authority_time().unwrap().unix.as_micros();
    let by_old_us = epoch(0).as_ms() * 1_000 + i64::try_from(base.elapsed().as_micros()).unwrap();
    assert!((now_us - by_old_us).abs_diff(30_000) < 2_000, "{now_us}");
    let serving = serve(&mut new);
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 5_000) => seen,
        () = serving => unreachable!(),
    };
    assert_eq!((seen.moved.len(), seen.reconnecting), (1, 0));
    assert!(
        seen.late_ms.iter().all(|late| (-31..=5).contains(late)),
        "{seen:?}"
    );
}

/// Returns the next event that is not a tick.
async fn other_event(ticks: &mut Ticks) -> Event {
    loop {
        let event = ticks.next().await.unwrap().unwrap();
        if !matches!(event, Event::Tick(_)) {
            return event;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrived_on_the_old_connection_by_the_time_of_the_switch_counts() {
    // Which of the two connections the client looks at first is random.
    for _ in 0..20 {
        let (mut ticks, mut old, mut net) = Net::subscribed(two(), 99_000).await;
        old.go_away(100).await;
        let mut new = net.edge().await;
        new.accept().await;
        let point = new.subscription().await.resume_after.unwrap();
        // A step of time ends the move.
        old.refuse(ErrorCode::TimeStepped, "back", 1).await;
        new.subscribed(point).await;
        match ticks.next().await {
            Some(Ok(Event::Reconnecting { resumes, .. })) => assert!(!resumes),
            other => panic!("{other:?}"),
        }
        let mut next = net.edge().await;
        next.accept().await;
        assert_eq!(next.subscription().await.resume_after, None);
    }
    for _ in 0..20 {
        let (mut ticks, mut old, mut net) = Net::subscribed(Options::new("a"), 0).await;
        old.go_away(100).await;
        let mut same = net.edge().await;
        same.accept().await;
        let point = same.subscription().await.resume_after.unwrap();
        // If the client does not move, it reports why the connection ended.
        old.refuse(ErrorCode::ServerFull, "bye", 3_000).await;
        same.subscribed(point).await;
        match ticks.next().await {
            Some(Ok(Event::Reconnecting { why, after, .. })) => {
                assert!(why.to_string().contains("SERVER_FULL"), "{why}");
                assert_eq!(after.as_millis(), 3_000);
            }
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..20 {
        let (_ticks, mut old, mut net) = Net::subscribed(Options::new("a"), 0).await;
        old.go_away(100).await;
        let mut same = net.edge().await;
        same.accept().await;
        let point = same.subscription().await.resume_after.unwrap();
        // The connection has more time than the edge said at first, so there are more attempts.
        old.go_away(30_000).await;
        same.subscribed(point).await;
        tokio::select! {
            _ = net.edge() => {}
            () = serve(&mut old) => unreachable!(),
            () = sleep(Duration::from_secs(30)) => panic!("the request is lost"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_continues_the_time_for_which_the_client_was_subscribed() {
    for _ in 0..3 {
        let (mut ticks, edge, mut net) = Net::subscribed(Options::new("a"), 0).await;
        drop(edge);
        for _ in 0..8 {
            drop(net.edge().await);
        }
        let mut old = net.edge().await;
        old.subscribe().await;
        let moves = async {
            old.serve_for(Duration::from_secs(40)).await;
            old.go_away(100).await;
            let mut new = net.edge().await;
            new.limits.edge_id = "another".into();
            new.subscribe().await;
            new.serve_for(Duration::from_secs(5)).await;
        };
        let reads = async {
            while !matches!(other_event(&mut ticks).await, Event::Moved { .. }) {}
            let end = other_event(&mut ticks).await;
            let Event::Reconnecting { after, .. } = end else {
                panic!("{end:?}");
            };
            after
        };
        let (after, ()) = tokio::join!(reads, moves);
        assert!(after <= Duration::from_secs(1), "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_does_not_keep_the_client_from_another_edge() {
    let options = two().or_at("c");
    for accepts in [false, true] {
        let base = Instant::now();
        let (mut ticks, mut old, mut net) = Net::subscribed(options.clone(), 0).await;
        old.serve_for(Duration::from_millis(1_500)).await;
        old.go_away(100).await;
        let (address, hanging) = net.next().await.unwrap();
        assert_eq!(address, "b");
        let mut hanging = hanging.unwrap();
        if accepts {
            hanging.accept().await;
        }
        drop(old);
        let ended = base.elapsed();
        let (address, next) = net.next().await.unwrap();
        let elapsed = base.elapsed() - ended;
        assert_eq!(address, "c");
        assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
        assert!(elapsed <= Duration::from_millis(3_010), "{elapsed:?}");
        assert!(hanging.is_closed().await);
        let mut next = next.unwrap();
        assert_eq!(next.subscribe().await.resume_after, Some(epoch(1_000)));
        let seen = tokio::select! {
            seen = follow(&mut ticks, base, 0, 8_000) => seen,
            () = serve(&mut next) => unreachable!(),
        };
        assert_eq!((seen.moved.len(), seen.reconnecting), (0, 1), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_an_attempt_hangs_the_old_connection_brings_the_ticks() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(two().or_at("c"), 0).await;
    old.go_away(100).await;
    let hanging = net.edge().await;
    old.go_away(60_000).await;
    let moves = async {
        let (address, edge) = net.next().await.unwrap();
        assert_eq!(address, "c");
        drop(hanging);
        let mut edge = edge.unwrap();
        edge.subscribe().await;
        serve(&mut edge).await;
    };
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 40_000) => seen,
        () = moves => unreachable!(),
        () = serve(&mut old) => unreachable!(),
    };
    assert_eq!(seen.moved, [("c".to_owned(), "edge at c".to_owned())]);
    assert!(seen.latest_ms() <= 5 && seen.reconnecting == 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_move_does_not_wait_for_the_reader_and_costs_it_no_tick() {
    let (mut ticks, mut old, mut net) = Net::subscribed(two(), 0).await;
    old.go_away(4_000).await;
    sleep(Duration::from_millis(5)).await;
    for batch in 0..6 {
        let seconds = batch * 400 + 1..=batch * 400 + 400;
        old.ticks(seconds.map(|second| second * 1_000)).await;
    }
    let mut new = timeout(Duration::from_secs(4), net.edge()).await.unwrap();
    new.accept().await;
    let point = new.subscription().await.resume_after.unwrap();
    new.subscribed(point).await;
    // The reader does not read for a minute, and the new connection is kept alive.
    let heartbeats = new.answer_for(Duration::from_secs(60)).await;
    assert!(heartbeats.len() >= 4, "{heartbeats:?}");
    assert!(old.is_closed().await && !new.is_closed().await);
    let from = (point.as_ms() - epoch(0).as_ms()) / 1_000 + 1;
    for first in (from..=2_600).step_by(400) {
        let last = (first + 399).min(2_600);
        new.ticks((first..=last).map(|second| second * 1_000)).await;
    }
    let (mut expected, mut moved_at) = (1, None);
    while expected <= 2_600 {
        match ticks.next().await {
            Some(Ok(Event::Tick(tick))) => {
                assert_eq!(tick.epoch, epoch(expected * 1_000));
                expected += 1;
            }
            Some(Ok(Event::Moved { .. })) if moved_at.is_none() => moved_at = Some(expected),
            other => panic!("{other:?} in place of {expected}"),
        }
    }
    assert_eq!(moved_at, Some(2_401), "after all that had arrived");
}

#[tokio::test(start_paused = true)]
async fn a_minute_client_moves_without_losing_its_minute() {
    let options = two().mode(Mode::Minute);
    let (mut ticks, mut old, mut net) = Net::subscribed(options, 0).await;
    old.answer_for(Duration::from_secs(50)).await;
    old.go_away(4_000).await;
    let mut new = tokio::select! {
        edge = net.edge() => edge,
        () = async { old.answer_for(Duration::from_secs(4)).await; } => panic!("no move"),
    };
    new.accept().await;
    assert_eq!(new.subscription().await.resume_after, Some(epoch(0)));
    new.subscribed(epoch(0)).await;
    new.answer_for(Duration::from_secs(6)).await;
    assert!(old.is_closed().await);
    let minute = new.batch(Mode::Minute, Quality::Normal, [60_000]);
    new.send(&minute).await;
    match ticks.next().await {
        Some(Ok(Event::Moved { address, .. })) => assert_eq!(address, "b"),
        other => panic!("{other:?}"),
    }
    match ticks.next().await {
        Some(Ok(Event::Tick(tick))) => assert_eq!(tick.epoch, epoch(60_000)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_rests_for_the_hint_of_a_failed_move_unless_its_edge_is_draining() {
    let (_ticks, mut old, mut net) = Net::subscribed(two().or_at("c"), 0).await;
    old.go_away(60_000).await;
    let base = Instant::now();
    let mut dialled = Vec::new();
    let moves = async {
        while base.elapsed() < Duration::from_secs(60) {
            let (address, edge) = net.next().await.unwrap();
            dialled.push((address.clone(), base.elapsed()));
            let (code, hint_ms) = match &*address {
                "b" => (ErrorCode::TooManyConnections, 15_000),
                _ => (ErrorCode::ServerDraining, 40_000),
            };
            edge.unwrap().refuse(code, "no", hint_ms).await;
        }
    };
    tokio::select! {
        () = moves => {}
        _ = old.serve_for(Duration::from_secs(60)) => {}
    }
    let shortest = |tried: &str| {
        let at: Vec<Duration> = dialled
            .iter()
            .filter(|(address, _)| address == tried)
            .map(|&(_, at)| at)
            .collect();
        at.windows(2).map(|pair| pair[1] - pair[0]).min()
    };
    let b_rests = shortest("b").is_none_or(|apart| apart >= Duration::from_secs(15));
    assert!(b_rests, "{dialled:?}");
    if dialled[0].1 < Duration::from_secs(40) {
        assert!(
            shortest("c").unwrap() < Duration::from_secs(15),
            "{dialled:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_hint_of_a_failed_move_at_the_only_name_delays_no_other_attempt() {
    for (code, lasts_ms, ends) in [
        (ErrorCode::TooManyConnections, 8_900, false),
        (ErrorCode::TooManyConnections, 2_000, true),
        (ErrorCode::NoTime, 8_900, false),
        (ErrorCode::NoTime, 2_000, true),
    ] {
        let (_ticks, mut old, mut net) = Net::subscribed(Options::new("a"), 0).await;
        old.go_away(100).await;
        let edge = net.edge().await;
        old.go_away(60_000).await;
        edge.refuse(code, "no", 9_000).await;
        tokio::select! {
            _ = net.edge() => panic!("the hint is not over"),
            _ = old.serve_for(Duration::from_millis(lasts_ms)) => {}
        }
        if ends {
            // Now that the connection has ended, there is space for another one.
            drop(old);
            timeout(Duration::from_secs(1), net.edge()).await.unwrap();
        } else {
            tokio::select! {
                _ = net.edge() => {}
                _ = old.serve_for(Duration::from_secs(60)) => panic!("no further attempt"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_must_not_move_stays_until_its_connection_is_closed() {
    let base = Instant::now();
    let (mut ticks, mut old, mut net) = Net::subscribed(two().moves(false), 0).await;
    old.serve_for(Duration::from_millis(2_500)).await;
    old.go_away(5_000).await;
    let edges = async {
        old.serve_for(Duration::from_secs(5)).await;
        old.refuse(ErrorCode::ServerDraining, "bye", 300).await;
        let mut new = net.edge().await;
        new.accept().await;
        let request = new.subscription().await;
        new.subscribed(request.resume_after.unwrap()).await;
        new.serve().await;
    };
    let seen = tokio::select! {
        seen = follow(&mut ticks, base, 0, 12_000) => seen,
        () = edges => panic!("the new connection was closed"),
    };
    assert_eq!(seen.moved, []);
    assert_eq!((ticks.address(), seen.reconnecting), ("b", 1));
}
