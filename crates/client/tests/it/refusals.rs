//! Tests that an edge which refuses a client is not the end while another one may accept it.

use std::time::Duration;

use tickstorm_client::error::{ErrorCode, Return};
use tickstorm_client::{Event, Options, Ticks};
use tokio::time::Instant;

use crate::edge::{Edge, Net, epoch};

fn two() -> Options {
    Options::new("a").or_at("b")
}

async fn refuse(edge: Edge) {
    edge.refuse(ErrorCode::AuthFailed, "another password", 0)
        .await;
}

/// Returns the wait that the client announces.
async fn wait(ticks: &mut Ticks) -> Duration {
    loop {
        if let Event::Reconnecting { after, .. } = ticks.next().await.unwrap().unwrap() {
            return after;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_first_a_refusal_at_one_address_is_followed_by_the_next() {
    let began = Instant::now();
    let (client, mut net) = Net::dial(two(), &[]);
    refuse(net.edge().await).await;
    net.edge().await.subscribe().await;
    assert_eq!(client.await.unwrap().unwrap().address(), "b");
    assert!(began.elapsed() <= Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn if_no_address_accepts_the_refusal_is_reported() {
    for (deserted, refusals) in [(&[][..], 2), (&["a"], 1), (&["b"], 1)] {
        let (client, mut net) = Net::dial(two(), deserted);
        let mut refused = 0;
        while let Some((_, edge)) = net.next().await {
            if let Some(edge) = edge {
                refuse(edge).await;
                refused += 1;
            }
        }
        let error = client.await.unwrap().unwrap_err();
        assert_eq!(error.come_back(), Return::No, "{deserted:?}: {error:?}");
        assert_eq!(refused, refusals, "{deserted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_refused_rests_for_a_minute_while_others_work() {
    let (mut ticks, edge, mut net) = Net::subscribed(two().or_at("c"), 0).await;
    drop(edge);
    assert!(wait(&mut ticks).await <= Duration::from_secs(1));
    let (address, edge) = net.next().await.unwrap();
    assert_eq!(address, "b");
    let refused_at = Instant::now();
    refuse(edge.unwrap()).await;
    assert!(wait(&mut ticks).await <= Duration::from_secs(2));
    let mut tried_again = false;
    while !tried_again {
        let (address, edge) = net.next().await.unwrap();
        if address == "b" {
            tried_again = true;
        } else {
            let mut edge = edge.unwrap();
            edge.subscribe().await;
            edge.serve_for(Duration::from_secs(9)).await;
            drop(edge);
            wait(&mut ticks).await;
        }
    }
    let rested = refused_at.elapsed();
    assert!(rested >= Duration::from_secs(60), "{rested:?}");
}

#[tokio::test(start_paused = true)]
async fn if_all_addresses_refuse_each_is_tried_once_a_minute() {
    let (mut ticks, edge, mut net) = Net::subscribed(two(), 0).await;
    drop(edge);
    wait(&mut ticks).await;
    let (began, mut attempts) = (Instant::now(), Vec::new());
    while attempts.len() < 8 {
        let (address, edge) = net.next().await.unwrap();
        attempts.push((address, began.elapsed().as_secs()));
        refuse(edge.unwrap()).await;
        wait(&mut ticks).await;
    }
    for address in ["a", "b"] {
        let at: Vec<u64> = attempts
            .iter()
            .filter(|(tried, _)| tried == address)
            .map(|&(_, at)| at)
            .collect();
        assert_eq!(at.len(), 4, "{attempts:?}");
        for pair in at.windows(2) {
            assert!((60..130).contains(&(pair[1] - pair[0])), "{attempts:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_first_no_time_is_asked_again_after_the_hint_until_an_edge_knows_it() {
    let began = Instant::now();
    let (client, mut net) = Net::dial(Options::new("a"), &[]);
    for round in 0..3 {
        let mut edge = net.edge().await;
        assert_eq!(began.elapsed().as_secs(), round * 4);
        edge.accept().await;
        edge.refuse(ErrorCode::NoTime, "no time yet", 4_000).await;
    }
    let mut edge = net.edge().await;
    edge.accept().await;
    edge.acknowledge(epoch(0)).await;
    assert!(client.await.unwrap().is_ok());

    // With another address, that is tried at once.
    let began = Instant::now();
    let (client, mut net) = Net::dial(two(), &[]);
    net.edge()
        .await
        .refuse(ErrorCode::NoTime, "no time yet", 9_000)
        .await;
    net.edge().await.subscribe().await;
    assert_eq!(client.await.unwrap().unwrap().address(), "b");
    assert!(began.elapsed() <= Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn at_first_an_address_that_cannot_be_reached_does_not_end_the_wait_for_the_time() {
    let began = Instant::now();
    let (client, mut net) = Net::dial(two(), &["b"]);
    let (mut dialled_at, mut refused) = (Vec::new(), 0);
    let mut edge = loop {
        let (address, edge) = net.next().await.expect("the client gave up");
        dialled_at.push((address, began.elapsed().as_millis()));
        match edge {
            Some(edge) if refused < 3 => {
                edge.refuse(ErrorCode::NoTime, "no time yet", 5_000).await;
                refused += 1;
            }
            Some(edge) => break edge,
            None => {}
        }
    };
    edge.subscribe().await;
    assert_eq!(client.await.unwrap().unwrap().address(), "a");
    // Each pass tries both addresses, and the next one waits for the hint.
    let passes: Vec<u128> = dialled_at.iter().map(|(_, ms)| ms / 1_000).collect();
    assert_eq!(
        passes,
        [0, 0, 5, 5, 10, 10, 15, 15][..passes.len()],
        "{dialled_at:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn at_first_short_hints_of_no_time_cause_at_most_a_pass_a_second() {
    let began = Instant::now();
    let (_client, mut net) = Net::dial(two(), &["b"]);
    let mut dialled = 0;
    while began.elapsed().as_secs() < 20 {
        let (_, edge) = net.next().await.expect("the client gave up");
        dialled += 1;
        if let Some(edge) = edge {
            edge.refuse(ErrorCode::NoTime, "no time yet", 1).await;
        }
    }
    assert!((20..=42).contains(&dialled), "{dialled}");
}

#[tokio::test(start_paused = true)]
async fn at_first_a_refusal_after_no_time_is_reported() {
    let (client, mut net) = Net::dial(two(), &["b"]);
    let mut refused = 0;
    while let Some((_, edge)) = net.next().await {
        match edge {
            Some(edge) if refused == 0 => {
                edge.refuse(ErrorCode::NoTime, "no time yet", 5_000).await;
                refused += 1;
            }
            Some(edge) => refuse(edge).await,
            None => {}
        }
    }
    assert_eq!(client.await.unwrap().unwrap_err().come_back(), Return::No);
}
