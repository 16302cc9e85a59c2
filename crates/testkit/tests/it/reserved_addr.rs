use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};

use tickstorm_testkit::ReservedAddr;

#[test]
fn a_place_is_nobody_elses_and_takes_one_listener_after_the_other() {
    let place = ReservedAddr::reserve();
    for _ in 0..3 {
        assert!(TcpStream::connect(place.addr()).is_err());
        // The standard library sets SO_REUSEADDR.
        let listener = TcpListener::bind(place.addr()).unwrap();
        TcpStream::connect(place.addr()).unwrap();
        drop(listener);
    }
    let others: Vec<_> = (0..1_000).map(|_| ReservedAddr::reserve()).collect();
    let distinct: BTreeSet<SocketAddr> = others.iter().map(ReservedAddr::addr).collect();
    assert_eq!(distinct.len(), others.len());
    assert!(!distinct.contains(&place.addr()));
}
