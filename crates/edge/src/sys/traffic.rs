//! What has passed over one connection, as the kernel counts it. No counter of the edge's own is
//! needed for it, and none that the hot loop would have to move.

use std::os::fd::RawFd;

use super::tcp_info::{halves, tcp_info};

/// The traffic of a connection since it was accepted. With TLS, its bytes include those of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// The bytes that the edge has received.
    pub(crate) received_bytes: u64,
    /// The bytes that the peer has acknowledged.
    pub(crate) acknowledged_bytes: u64,
    /// The segments that were sent again because they may have been lost.
    pub(crate) retransmissions: u32,
}

impl Traffic {
    /// Returns the traffic of a socket; nothing if the kernel does not tell it, as before Linux
    /// 4.1.
    pub(super) fn of(socket: RawFd) -> Self {
        let Some(values) = tcp_info::<VALUES>(socket) else {
            return Self::default();
        };
        let [.., high] = halves(values[RETRANSMISSIONS]);
        Self {
            received_bytes: values[RECEIVED],
            acknowledged_bytes: values[ACKNOWLEDGED],
            retransmissions: high,
        }
    }
}

/// The positions in `struct tcp_info`, in units of 8 bytes: after 8 bytes of smaller fields come 24
/// fields of 4 bytes, of which `tcpi_total_retrans` is the last, `tcpi_pacing_rate`,
/// `tcpi_max_pacing_rate`, `tcpi_bytes_acked` and `tcpi_bytes_received`.
const RETRANSMISSIONS: usize = 12;
const ACKNOWLEDGED: usize = 15;
const RECEIVED: usize = 16;
/// The units that are read.
const VALUES: usize = RECEIVED + 1;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::mem::offset_of;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_position_of_the_last_field_that_libc_knows_is_that_of_the_kernels_structure() {
        let at = offset_of!(libc::tcp_info, tcpi_total_retrans);
        assert_eq!(8 * RETRANSMISSIONS + 4, at);
        assert_eq!(
            halves(u64::from_ne_bytes([1, 0, 0, 0, 1, 0, 0, 0])),
            [u32::from_ne_bytes([1, 0, 0, 0]); 2]
        );
    }

    #[test]
    fn the_bytes_of_both_directions_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(&[0; 700]).unwrap();
        receiver.read_exact(&mut [0; 700]).unwrap();
        receiver.write_all(&[0; 30]).unwrap();
        sender.read_exact(&mut [0; 30]).unwrap();
        assert_eq!(Traffic::of(receiver.as_raw_fd()).received_bytes, 700);
        assert_eq!(Traffic::of(sender.as_raw_fd()).received_bytes, 30);
        // The answer has acknowledged the request. Old kernels count the SYN as a byte.
        let acknowledged = Traffic::of(sender.as_raw_fd()).acknowledged_bytes;
        assert!((700..=701).contains(&acknowledged), "{acknowledged}");
        assert_eq!(Traffic::of(-1), Traffic::default());
    }
}
