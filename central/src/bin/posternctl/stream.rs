//! A stream of server-sent events, read as far as central writes it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::failure::Failure;

/// Central says something every 15 s; silence of this length is an end.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// An event is a few kilobytes at most.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// The data of each event, in order.
pub(crate) struct Stream {
    response: reqwest::Response,
    lines: Lines,
}

impl Stream {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, lines: Lines::default() }
    }

    /// `None` at the end, whether it is a proper one or a broken connection: either way one comes back.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(data) = self.lines.next_data() {
                let broken = |error| Failure::Failed(format!("central sent broken JSON: {error}"));
                return serde_json::from_str(&data).map(Some).map_err(broken);
            }
            match timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) if self.lines.0.len() + chunk.len() <= LINE_BYTES_MAX => {
                    self.lines.0.extend_from_slice(&chunk);
                }
                Ok(Ok(Some(_))) => return Err(Failure::Failed("central sent a line without end".into())),
                Ok(Ok(None) | Err(_)) | Err(_) => return Ok(None),
            }
        }
    }
}

#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// The next whole line of data; comments, names and numbers are passed over.
    fn next_data(&mut self) -> Option<String> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                return Some(data.trim_start().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_between_the_other_lines_and_only_when_it_is_whole() {
        let mut lines = Lines(b":\n\nid: 4\nevent: x\ndata: {\"a\":1}\n\nid: 5\ndata: {\"a\"".to_vec());
        assert_eq!(lines.next_data().as_deref(), Some("{\"a\":1}"));
        assert_eq!(lines.next_data(), None);
        lines.0.extend_from_slice(b":2}\n");
        assert_eq!(lines.next_data().as_deref(), Some("{\"a\":2}"));
    }
}
