//! The round-trip time of one connection, as the kernel measures it.

use std::os::fd::RawFd;
use std::time::Duration;

use super::tcp_info::{halves, tcp_info};

/// Returns the smoothed round-trip time of a TCP connection; `None` before the kernel has measured
/// any.
pub(super) fn round_trip(socket: RawFd) -> Option<Duration> {
    let values = tcp_info::<VALUES>(socket)?;
    let [.., micros] = halves(values[ROUND_TRIP]);
    (micros > 0).then(|| Duration::from_micros(micros.into()))
}

/// The position of `tcpi_rtt` in `struct tcp_info`, in units of 8 bytes, of which it is the second
/// half: 8 bytes with smaller fields and 15 fields of 4 bytes come before it. All kernels have
/// them.
const ROUND_TRIP: usize = 8;
/// The units that are read.
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
        assert_eq!(8 * ROUND_TRIP + 4, offset_of!(libc::tcp_info, tcpi_rtt));
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
