//! See [`proto::explain`].

pub use proto::explain::explain;
