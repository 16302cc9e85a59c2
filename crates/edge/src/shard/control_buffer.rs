//! [`ControlBuffer`]: the control frames that answer one read, so that they go out by one send. One
//! serves all connections of a shard, each in its turn.

/// Bytes of control frames from which on they are sent before more are made: the answers to a
/// handshake, and to some heartbeats.
const FULL: usize = 512;

#[derive(Debug, Default)]
pub(super) struct ControlBuffer {
    frames: Vec<u8>,
}

impl ControlBuffer {
    /// Where frames are appended.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }

    /// Whether it is time to send them.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= FULL
    }

    /// Gives the frames away, with the buffer's memory; [`ControlBuffer::give_back`] returns that.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frames)
    }

    /// Takes the memory back for the next frames.
    pub(super) fn give_back(&mut self, mut frames: Vec<u8>) {
        frames.clear();
        self.frames = frames;
    }
}
