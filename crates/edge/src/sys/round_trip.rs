//! The round-trip time of one connection, as the kernel measures it.

use std::os::fd::RawFd;
use std::time::Duration;

/// Returns the smoothed round-trip time of a TCP connection; `None` before the kernel has measured
/// any.
#[expect(unsafe_code, reason = "no crate wraps this socket option")]
pub(super) fn round_trip(socket: RawFd) -> Option<Duration> {
    let mut values = [0_u32; VALUES];
    let mut len = libc::socklen_t::try_from(size_of_val(&values)).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes to `values`, which is that long and may hold
    // any bits, and the length that it has written to `len`. Both outlive the call. A number that
    // is no TCP socket's makes the call fail.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let micros = values[ROUND_TRIP];
    (result == 0 && micros > 0).then(|| Duration::from_micros(micros.into()))
}

/// The position of `tcpi_rtt` in `struct tcp_info`, in units of 4 bytes: 8 bytes with smaller
/// fields and 15 other fields come before it. All kernels have them.
const ROUND_TRIP: usize = 17;
/// The kernel writes no more than this beginning of the structure.
const VALUES: usize = ROUND_TRIP + 1;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::mem::offset_of;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_position_is_that_of_the_kernels_structure() {
        assert_eq!(4 * ROUND_TRIP, offset_of!(libc::tcp_info, tcpi_rtt));
    }

    #[test]
    fn a_connection_over_loopback_has_a_round_trip_time_and_another_file_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(round_trip(listener.as_raw_fd()), None);
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"x").unwrap();
        receiver.read_exact(&mut [0]).unwrap();
        let time = round_trip(sender.as_raw_fd()).expect("measured at the handshake");
        assert!(time < Duration::from_secs(60), "{time:?}");
        assert_eq!(round_trip(-1), None);
    }
}
