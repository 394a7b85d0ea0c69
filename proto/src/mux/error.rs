//! How a peer can break the protocol. Each of these ends the tunnel.

use crate::frame::{FrameError, StreamId};

/// What the peer did that no correct peer does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    #[error("the peer sent something that is no frame")]
    Frame(#[from] FrameError),
    #[error("the peer sent frame {got} where frame {expected} was due")]
    OutOfOrder { expected: u64, got: u64 },
    #[error("the peer opened stream {stream}, whose number is ours to give")]
    WrongParity { stream: StreamId },
    #[error("the peer opened stream {stream} after stream {last}")]
    StreamWentBack { stream: StreamId, last: StreamId },
    #[error("the peer sent {what} on stream {stream}, which nobody opened")]
    NeverOpened { stream: StreamId, what: &'static str },
    #[error("the peer sent OPENED for stream {stream}, which does not wait for it")]
    NotWaiting { stream: StreamId },
    #[error("the peer sent on stream {stream} before it had answered the OPEN")]
    BeforeOpened { stream: StreamId },
    #[error("the peer sent {reached} bytes on stream {stream}, {limit} were granted")]
    BeyondStreamCredit { stream: StreamId, limit: u64, reached: u64 },
    #[error("the peer sent {reached} bytes in all, {limit} were granted to the tunnel")]
    BeyondTunnelCredit { limit: u64, reached: u64 },
    #[error("the peer lowered the limit of stream {stream} from {from} to {to}")]
    LimitShrank { stream: StreamId, from: u64, to: u64 },
    #[error("the peer sent bytes on stream {stream} after it had finished it")]
    AfterFin { stream: StreamId },
    #[error("the peer acknowledged frame {through}, the last one sent was {sent}")]
    AckNeverSent { through: u64, sent: u64 },
    #[error("the peer acknowledged frame {through} after frame {acked}")]
    AckWentBack { through: u64, acked: u64 },
    #[error("the peer answered ping {nonce}, which was never sent")]
    UnknownPong { nonce: u64 },
    #[error("the peer sent more {what} frames than {per_second} a second")]
    Flood { what: &'static str, per_second: u32 },
    #[error("a frame came while the tunnel had no websocket")]
    Detached,
}
