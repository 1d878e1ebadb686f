//! Frames on the stream between operator and agent: JSON behind a four-byte big-endian length.

use std::io;
use std::marker::PhantomData;

use futures_util::{SinkExt, StreamExt};
use interlock_core::protocol::MAX_FRAME;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side closed it.
    #[error("the other side closed the connection")]
    Closed,
    /// It broke, or a frame was too long.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// A frame was not what the protocol has.
    #[error("the other side sent something that is not in the protocol")]
    Malformed(#[from] serde_json::Error),
}

/// The receiving half.
pub struct Receiver<R, T> {
    frames: FramedRead<R, LengthDelimitedCodec>,
    message: PhantomData<fn() -> T>,
}

/// The sending half.
pub struct Sender<W, T> {
    frames: FramedWrite<W, LengthDelimitedCodec>,
    message: PhantomData<fn(T)>,
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec()
}

impl<R: AsyncRead + Unpin, T: DeserializeOwned> Receiver<R, T> {
    /// Reads frames of `T` from `reader`.
    pub fn new(reader: R) -> Self {
        Self { frames: FramedRead::new(reader, codec()), message: PhantomData }
    }

    /// The next message. Cancel-safe: a partly read frame stays buffered.
    pub async fn receive(&mut self) -> Result<T, WireError> {
        let frame = self.frames.next().await.ok_or(WireError::Closed)??;
        Ok(serde_json::from_slice(&frame)?)
    }
}

impl<W: AsyncWrite + Unpin, T: Serialize> Sender<W, T> {
    /// Writes frames of `T` to `writer`.
    pub fn new(writer: W) -> Self {
        Self { frames: FramedWrite::new(writer, codec()), message: PhantomData }
    }

    /// Sends one message and flushes it.
    pub async fn send(&mut self, message: &T) -> Result<(), WireError> {
        self.frames.send(bytes::Bytes::from(serde_json::to_vec(message)?)).await?;
        Ok(())
    }
}
