use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};

use tickstorm_testkit::ReservedAddr;

#[test]
fn a_reserved_addr_is_unique_and_can_be_listened_on_repeatedly() {
    let reserved = ReservedAddr::reserve();
    for _ in 0..3 {
        assert!(TcpStream::connect(reserved.addr()).is_err());
        // The standard library sets SO_REUSEADDR.
        let listener = TcpListener::bind(reserved.addr()).unwrap();
        TcpStream::connect(reserved.addr()).unwrap();
        drop(listener);
    }
    let others: Vec<_> = (0..1_000).map(|_| ReservedAddr::reserve()).collect();
    let distinct: BTreeSet<SocketAddr> = others.iter().map(ReservedAddr::addr).collect();
    assert_eq!(distinct.len(), others.len());
    assert!(!distinct.contains(&reserved.addr()));
}
