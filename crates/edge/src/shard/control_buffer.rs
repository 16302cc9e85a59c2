//! [`ControlBuffer`]: collects the control frames that answer one read, so that one send writes
//! them all. A shard has one, which its connections use in turn.

/// The size, in bytes, at which the frames are sent before more are produced. The answers to a
/// handshake and to a few heartbeats fit.
const FULL: usize = 512;

#[derive(Debug, Default)]
pub(super) struct ControlBuffer {
    frames: Vec<u8>,
}

impl ControlBuffer {
    /// Returns the buffer to which frames are appended.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }

    /// Returns whether the frames must be sent before more are appended.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= FULL
    }

    /// Takes the frames out, together with the buffer's allocation. Return it with
    /// [`ControlBuffer::give_back`].
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frames)
    }

    /// Puts the allocation back for the next frames.
    pub(super) fn give_back(&mut self, mut frames: Vec<u8>) {
        frames.clear();
        self.frames = frames;
    }
}
