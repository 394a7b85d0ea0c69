//! How much a tunnel may hold.

use super::flow::TUNNEL_CREDIT_BYTES;
use crate::frame::PAYLOAD_MAX_BYTES;

/// Bounds of one end of a tunnel. Both ends may have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a stream may receive ahead of its reader, at first.
    pub stream_window_bytes: u64,
    /// What that may grow to on long lines, while the tunnel has room.
    pub stream_window_max_bytes: u64,
    /// What all streams together may receive ahead of their readers; at least 1 MiB.
    pub tunnel_window_bytes: u64,
    /// What a stream's writer may have unsent.
    pub send_buffer_bytes: usize,
    /// What all writers together may have unsent.
    pub unsent_bytes: usize,
    /// What may be kept for an acknowledgement. A peer that grants credit and never acknowledges gets no more.
    pub unacknowledged_bytes: usize,
    /// The same in frames, because a frame of one byte costs more than a byte.
    pub unacknowledged_frames: usize,
    /// Streams at a time, ours and the peer's. The peer's excess is reset.
    pub streams: usize,
    /// Streams the peer may open in a second. The excess is reset; an excess of resets ends the tunnel.
    pub opens_per_second: u32,
    /// The largest DATA payload; smaller keeps small streams quick on slow lines.
    pub frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            stream_window_bytes: 256 * 1024,
            // A quarter of the tunnel's: 800 MB a second at 20 ms.
            stream_window_max_bytes: 16 * 1024 * 1024,
            tunnel_window_bytes: 64 * 1024 * 1024,
            send_buffer_bytes: 128 * 1024,
            unsent_bytes: 64 * 1024 * 1024,
            unacknowledged_bytes: 64 * 1024 * 1024,
            unacknowledged_frames: 32 * 1024,
            streams: 64 * 1024,
            opens_per_second: 20_000,
            frame_bytes: PAYLOAD_MAX_BYTES,
        }
    }
}

impl Limits {
    /// Brought into the range in which a mux works at all.
    pub(super) fn checked(mut self) -> Limits {
        self.tunnel_window_bytes = self.tunnel_window_bytes.max(TUNNEL_CREDIT_BYTES);
        self.stream_window_bytes = self.stream_window_bytes.clamp(1, self.tunnel_window_bytes);
        self.stream_window_max_bytes = self.stream_window_max_bytes.max(self.stream_window_bytes);
        self.send_buffer_bytes = self.send_buffer_bytes.max(1);
        self.unsent_bytes = self.unsent_bytes.max(self.send_buffer_bytes);
        self.unacknowledged_bytes = self.unacknowledged_bytes.max(PAYLOAD_MAX_BYTES);
        self.unacknowledged_frames = self.unacknowledged_frames.max(16);
        self.opens_per_second = self.opens_per_second.max(1);
        self.frame_bytes = self.frame_bytes.clamp(1, PAYLOAD_MAX_BYTES);
        self
    }
}
