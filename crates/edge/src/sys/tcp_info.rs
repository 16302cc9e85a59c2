//! What the kernel knows about one TCP connection: the beginning of `struct tcp_info`. Fields are
//! only ever added at its end.

use std::os::fd::RawFd;

/// Returns the first `N` units of 8 bytes of a TCP socket's structure; `None` for another file.
/// What the kernel does not know is 0.
#[expect(unsafe_code, reason = "no crate wraps this socket option")]
pub(super) fn tcp_info<const N: usize>(socket: RawFd) -> Option<[u64; N]> {
    let mut values = [0_u64; N];
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
    (result == 0).then_some(values)
}

/// Returns the two fields of 4 bytes of which a value consists, in the order of their addresses.
pub(super) fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
}
