//! What agent and central say to each other, and nothing else.
//!
//! ```text
//!   control websocket:  hello ─► AgentMessage / CentralMessage (JSON, one per text message)
//!   tunnel websockets:  hello ─► frames (binary) ─► mux ─► streams, one mux a lane
//! ```
//!
//! Everything here is sans-IO: it owns no socket, task, clock or dice. The exception is
//! feature `driver`: [`driver`] carries a [`mux::Mux`] and [`link`] the control messages over a
//! websocket with tokio.

pub mod backoff;
pub mod control;
#[cfg(feature = "driver")]
pub mod driver;
pub mod epoch;
pub mod frame;
pub mod hello;
pub mod ids;
#[cfg(feature = "driver")]
pub mod link;
pub mod liveness;
pub mod mux;
pub mod trace;
pub mod websocket;

pub use backoff::Backoff;
pub use epoch::Epoch;
pub use ids::{AgentId, BootId, EnvironmentName, Fingerprint, LaneId, Name, NodeId, SessionId, TraceId};
pub use liveness::Liveness;
