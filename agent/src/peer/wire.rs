//! The bytes between two peers: a length (four bytes, big endian), then that much JSON.

use std::io;

use proto::control::{MESSAGE_BYTES_MAX, RaftCall, RaftReply};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What one end says. Calls go from the connecting peer to the other, replies come back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Call(RaftCall),
    Reply(RaftReply),
}

/// Reads one message; `None` when the other end closed between two messages.
///
/// Not cancel-safe: a dropped read may have taken half a message.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Message>> {
    let length = match from.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length? as usize,
    };
    if length > MESSAGE_BYTES_MAX {
        let problem = format!("a message of {length} bytes was announced, {MESSAGE_BYTES_MAX} are the most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// The bytes of one message, or an error when it is larger than the other end would take.
pub fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        let problem = format!("the message has {length} bytes, {MESSAGE_BYTES_MAX} are the most");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let prefix = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// Not cancel-safe: a dropped write may have sent half a message.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_arrives_as_it_was_sent_and_the_end_is_no_error() {
        let reply = Message::Reply(RaftReply { id: 7, result: Err("not here".to_owned()) });
        let bytes = encode(&reply).unwrap();
        let mut from = bytes.as_slice();
        let Some(Message::Reply(read_back)) = read(&mut from).await.unwrap() else { panic!("no reply") };
        assert_eq!((read_back.id, read_back.result.unwrap_err()), (7, "not here".to_owned()));
        assert!(read(&mut from).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_too_large_is_refused_before_memory_is_spent() {
        let mut announced: &[u8] = &[0xff; 4];
        assert_eq!(read(&mut announced).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let large = Message::Reply(RaftReply { id: 0, result: Err("x".repeat(MESSAGE_BYTES_MAX)) });
        assert_eq!(encode(&large).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn half_a_message_and_noise_are_errors() {
        let mut half: &[u8] = &[0, 0, 0, 9, b'{'];
        assert!(read(&mut half).await.is_err());
        let mut noise: &[u8] = &[0, 0, 0, 2, b'x', b'y'];
        assert!(read(&mut noise).await.is_err());
    }
}
