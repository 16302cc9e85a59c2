//! The `expect_*` methods of [`Peer`]. Each reads frames, and panics if anything other than the
//! expected frames arrives.

use prost::Message;
use tickstorm_protocol::message::{Ack, DataBatch, ErrorMsg, Pong, Tick};
use tickstorm_timebase::Mode;

use super::{PATIENCE, Peer, Received};
use crate::frame::{self, RawFrame};

impl Peer {
    /// Expects an ACK of a frame of type `acked`.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_ack(&mut self, acked: u8) -> Ack {
        let ack: Ack = self.expect(frame::ACK).await;
        assert_eq!(
            ack.acked_type,
            u32::from(acked),
            "frame type acknowledged by {ack:?}"
        );
        ack
    }

    /// Authenticates and subscribes, expects both ACKs, and returns the second.
    ///
    /// # Panics
    /// Panics if the edge answers anything else.
    pub async fn enter(&mut self, username: &str, password: &str, mode: Mode) -> Ack {
        self.auth(username, password).await;
        self.expect_ack(frame::AUTH).await;
        self.subscribe(mode).await;
        self.expect_ack(frame::SUBSCRIBE).await
    }

    /// Expects PONG.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_pong(&mut self) -> Pong {
        self.expect(frame::PONG).await
    }

    /// Expects DATA_BATCH: schema version 1, one to 1,000 ticks, strictly increasing.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_batch(&mut self) -> DataBatch {
        check_batch(self.expect(frame::DATA_BATCH).await)
    }

    /// Receives batches until `count` ticks have arrived, and returns all ticks received.
    ///
    /// # Panics
    /// Panics if anything else arrives, or too few ticks.
    pub async fn expect_ticks(&mut self, count: usize) -> Vec<Tick> {
        let mut ticks = Vec::new();
        while ticks.len() < count {
            ticks.extend(self.expect_batch().await.ticks);
        }
        ticks
    }

    /// Receives batches until another frame arrives, and returns both. Any number of ticks may
    /// precede the answer to a request.
    ///
    /// # Panics
    /// Panics if the stream ends first.
    pub async fn skip_batches(&mut self) -> (Vec<DataBatch>, RawFrame) {
        let mut batches = Vec::new();
        loop {
            let frame = self.expect_frame().await;
            if frame.kind != frame::DATA_BATCH {
                return (batches, frame);
            }
            batches.push(check_batch(frame.decode()));
        }
    }

    /// Expects ERROR with this code.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_error(&mut self, code: &str) -> ErrorMsg {
        let error: ErrorMsg = self.expect(frame::ERROR).await;
        assert_eq!(error.code, code, "code of {error:?}");
        error
    }

    /// Expects an orderly end of the stream, at a frame's boundary.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_eof(&mut self) {
        let received = self.next_frame(PATIENCE).await;
        assert_eq!(
            received,
            Received::Eof { torn: 0 },
            "instead of end of file"
        );
    }

    /// Expects ERROR with this code, then an orderly end of the stream.
    ///
    /// # Panics
    /// Panics if anything else arrives, or nothing.
    pub async fn expect_refusal(&mut self, code: &str) -> ErrorMsg {
        let error = self.expect_error(code).await;
        self.expect_eof().await;
        error
    }

    /// Expects a frame of any type.
    ///
    /// # Panics
    /// Panics if none arrives.
    pub async fn expect_frame(&mut self) -> RawFrame {
        match self.next_frame(PATIENCE).await {
            Received::Frame(frame) => frame,
            other @ (Received::Eof { .. } | Received::Reset { .. } | Received::Timeout) => {
                panic!("{other:?} instead of a frame");
            }
        }
    }

    async fn expect<M: Message + Default>(&mut self, kind: u8) -> M {
        let frame = self.expect_frame().await;
        if frame.kind == frame::ERROR && kind != frame::ERROR {
            panic!(
                "{:?} instead of frame type {kind}",
                frame.decode::<ErrorMsg>()
            );
        }
        assert_eq!(frame.kind, kind, "type of {frame:?}");
        frame.decode()
    }
}

fn check_batch(batch: DataBatch) -> DataBatch {
    assert_eq!(batch.schema_version, 1, "schema of {batch:?}");
    assert!(
        (1..=1_000).contains(&batch.ticks.len()),
        "{} ticks in a batch",
        batch.ticks.len()
    );
    let increasing = batch
        .ticks
        .windows(2)
        .all(|pair| pair[0].epoch_ms < pair[1].epoch_ms);
    assert!(
        increasing,
        "ticks that don't strictly increase in {batch:?}"
    );
    batch
}
