//! The first words with a destination, over any pipe of bytes: a site's socket, or a stream through the
//! tunnel. They show that what answers is what it should be. Nobody logs in, and nothing is changed.
//!
//! ```text
//!   pipe ──► TLS first, or after a word, or never ──► greeting of the type ──► two steps
//! ```

mod speech;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use proto::trace::{Hop, Step};
use speech::{Speech, Start};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};

/// What is at the other end of the pipe, as somebody configured it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// A destination's type: `postgresql`, `https` …
    pub kind: &'a str,
    pub host: &'a str,
    pub port: u16,
    /// What `http` asks for; empty means `/`.
    pub path: &'a str,
}

/// A pipe that was connected to the destination.
pub trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// Says the first words and hears the answers, `limit` for each of the two steps, TLS and greeting.
/// Dropping it closes the pipe.
pub async fn first_words(pipe: impl Pipe, target: Target<'_>, limit: Duration) -> [Step; 2] {
    let Some(speech) = Speech::of(target.kind) else {
        return not_known(target.kind);
    };
    match speech.start {
        Start::Plain => {
            let tls = Step::skip(Hop::Tls, format!("type {} is spoken without TLS", target.kind));
            [tls, greeting(pipe, speech, target, limit).await]
        }
        Start::Tls => match handshake(pipe, target, limit).await {
            (step, Some(pipe)) => [step, greeting(pipe, speech, target, limit).await],
            (step, None) => [step, after_tls()],
        },
        Start::OnRequest => on_request(pipe, speech, target, limit).await,
    }
}

/// What became of it when nothing could be said at all.
pub fn not_tried(why: &str) -> [Step; 2] {
    [Step::skip(Hop::Tls, why), Step::skip(Hop::Greeting, why)]
}

/// The destination speaks first, and may offer TLS on request; without the offer that is no failure.
async fn on_request(mut pipe: impl Pipe, speech: Speech, target: Target<'_>, limit: Duration) -> [Step; 2] {
    let began = Instant::now();
    let offered = match timeout(limit, speech.ask_for_tls(&mut pipe)).await {
        Err(_) => {
            return [Step::skip(Hop::Tls, "it did not come to that"), silent(target, limit)];
        }
        Ok(Err(why)) => {
            return [Step::skip(Hop::Tls, "it did not come to that"), stranger(target, began, &why)];
        }
        Ok(Ok(offered)) => offered,
    };
    let greeting = Step::pass(Hop::Greeting, Some(ms(began)), offered.greeting);
    if !offered.tls {
        return [Step::skip(Hop::Tls, "it offers no TLS on this port"), greeting];
    }
    let (tls, pipe) = handshake(pipe, target, limit).await;
    drop(pipe);
    [tls, greeting]
}

async fn handshake<P: Pipe>(
    pipe: P,
    target: Target<'_>,
    limit: Duration,
) -> (Step, Option<tokio_rustls::client::TlsStream<P>>) {
    let began = Instant::now();
    match timeout(limit, tls::connect(pipe, target.host)).await {
        Err(_) => {
            let reason = format!("it did not answer the TLS handshake within {}", seconds(limit));
            let action = "check that the service speaks TLS on this port, and is not overloaded";
            (Step::fail(Hop::Tls, Some(ms(began)), reason, action), None)
        }
        Ok(Err(why)) => {
            let action = format!(
                "check that the service on port {} speaks TLS 1.2 or 1.3; if it speaks no TLS, choose another type",
                target.port
            );
            (Step::fail(Hop::Tls, Some(ms(began)), why, action), None)
        }
        Ok(Ok((pipe, seen))) if seen.valid => (Step::pass(Hop::Tls, Some(ms(began)), seen.words), Some(pipe)),
        Ok(Ok((pipe, seen))) => {
            let action = "renew the service's certificate: clients will refuse this one";
            (Step::fail(Hop::Tls, Some(ms(began)), seen.words, action), Some(pipe))
        }
    }
}

async fn greeting(mut pipe: impl Pipe, speech: Speech, target: Target<'_>, limit: Duration) -> Step {
    let began = Instant::now();
    match timeout(limit, speech.greet(&mut pipe, target)).await {
        Err(_) => silent(target, limit),
        Ok(Err(why)) => stranger(target, began, &why),
        Ok(Ok(Some(heard))) => Step::pass(Hop::Greeting, Some(ms(began)), heard),
        Ok(Ok(None)) => not_known(target.kind)[1].clone(),
    }
}

fn silent(target: Target<'_>, limit: Duration) -> Step {
    let reason = format!(
        "it accepted the connection and said nothing within {}, though type {} would",
        seconds(limit),
        target.kind
    );
    let action = "check the service itself: it hangs, is overloaded, or waits for another protocol";
    Step::fail(Hop::Greeting, Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)), reason, action)
}

fn stranger(target: Target<'_>, began: Instant, why: &str) -> Step {
    let action =
        format!("check what listens on port {}: type {} expects another answer", target.port, target.kind);
    Step::fail(Hop::Greeting, Some(ms(began)), why, action)
}

fn not_known(kind: &str) -> [Step; 2] {
    not_tried(&format!("type {kind} has no first words that could be tried without logging in"))
}

fn after_tls() -> Step {
    Step::skip(Hop::Greeting, "nothing can be said without TLS")
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f32())
}

fn ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
