//! Keeping the bounds on memory over all connections: what one connection holds is recorded after
//! each of its steps, and those that hold most or longest are closed.

use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection};
use super::driver::Driver;
use super::shedding::FULL_FROM;
use super::time::Moment;
use crate::sys::network::Network;

impl<N: Network> Driver<N> {
    /// Records the state of a connection after a step, and how much memory it holds. This is cheap
    /// for a connection that holds nothing, as nearly all do.
    pub(super) fn account(&mut self, connection: &mut Connection<N::Socket>) {
        self.count_state(connection);
        let bytes = connection.buffered() + self.network.buffered(&connection.socket);
        if bytes > 0 || connection.is_buffering {
            connection.is_buffering = bytes > 0;
            let is_authenticated = connection.served().is_some();
            self.buffered
                .set(connection.key.slot, bytes, is_authenticated);
        }
    }

    /// Forgets what a connection holds, whose socket is about to be closed. If its peer has left
    /// much unread, or anything while the kernel's memory is tight, the connection is reset:
    /// otherwise the kernel would keep the output for as long as TCP_USER_TIMEOUT after this
    /// process has forgotten the socket.
    pub(super) fn release_memory(&mut self, connection: &Connection<N::Socket>) {
        if connection.is_buffering {
            self.buffered.set(connection.key.slot, 0, false);
        }
        let memory = self.network.socket_memory(&connection.socket);
        let is_tight = self.env.commons.memory.is_kernel_tight();
        let reset_from = if is_tight { 1 } else { FULL_FROM };
        if u64::from(memory.unsent) >= reset_from {
            self.network.reset_on_drop(&connection.socket);
        }
    }

    /// Closes a connection because all connections together hold too much unfinished input, and its
    /// own is the oldest.
    pub(super) fn evict_buffer(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        let memory = &self.env.commons.memory;
        if connection.is_open()
            && let Some(closed) = memory.buffer_evictions.note(at.mono)
        {
            tracing::warn!(
                closed,
                limit_bytes = memory.buffered_max(),
                "clients have sent too much unfinished input: the oldest are closed with \
                 SERVER_FULL to stay below MAX_BUFFERED_BYTES"
            );
        }
        self.close(connection, CloseReason::BuffersFull, at)
    }

    /// Resets a connection because its socket holds much of the kernel's memory.
    pub(super) fn shed(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        let reason = CloseReason::SlowConsumer;
        if self.end(connection, reason, at).is_some()
            && let Some(closed) = self.env.commons.memory.kernel_evictions.note(at.mono)
        {
            tracing::warn!(
                closed,
                "the kernel's TCP memory exceeds its bound: clients with full sockets are closed \
                 as slow consumers"
            );
        }
        self.network.reset_on_drop(&connection.socket);
        AfterStep::Gone
    }
}
