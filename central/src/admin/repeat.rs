//! `Idempotency-Key`: a caller who did not hear the answer asks again, and the thing is done once.
//!
//! Answers are kept in memory alone, because some hold a secret that is shown once: they last as long as this
//! process, for 24 hours, and for a bounded number of keys.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::{
    input::{BODY_BYTES_MAX, BODY_TIMEOUT},
    problem::Problem,
    rights::Caller,
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is the first one's.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How many answers are kept; the oldest make room.
const KEPT_MAX: usize = 1000;
/// Larger answers are not kept: repeating what made them is as good.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What was asked with a key before. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    answers: HashMap<Asked, Entry>,
    /// In the order in which they were first asked.
    order: VecDeque<(Instant, Asked)>,
}

/// Who asked what, by a digest: nobody's key is compared with another caller's.
type Asked = [u8; 32];

struct Entry {
    body: [u8; 32],
    answer: Option<Answer>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    problem: Option<Problem>,
}

/// The layer in front of each POST that needs a role, behind its authentication.
pub(super) async fn once(State(repeats): State<Repeats>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(&KEY) else { return next.run(request).await };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Problem::bad_request(
            "invalid_idempotency_key",
            format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} bytes"),
        )
        .into_response();
    }
    let Some(caller) = request.extensions().get::<Caller>() else { return next.run(request).await };
    let asked = asked(caller, key, request.uri().path());
    let (parts, body) = request.into_parts();
    let Ok(Ok(body)) = timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await else {
        return Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!(
                "the body must arrive whole within {BODY_TIMEOUT:?} and have at most {BODY_BYTES_MAX} bytes"
            ),
        )
        .into_response();
    };
    let turn = match repeats.begin(asked, Sha256::digest(&body).into()) {
        Begun::First(turn) => turn,
        Begun::Answered(answer) => return answer.replay(),
        Begun::UnderWay => {
            return Problem::conflict(
                "request_under_way",
                "the same request with this Idempotency-Key is still being carried out: ask again in a moment",
            )
            .into_response();
        }
        Begun::Other => {
            return Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request: choose a new one for each thing to do",
            )
            .into_response();
        }
    };
    turn.end(next.run(Request::from_parts(parts, Body::from(body))).await).await
}

fn asked(caller: &Caller, key: &HeaderValue, path: &str) -> Asked {
    let mut digest = Sha256::new();
    let who = caller.who.to_string();
    for part in [caller.environment.as_str().as_bytes(), who.as_bytes(), path.as_bytes(), key.as_bytes()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

enum Begun {
    First(Turn),
    Answered(Answer),
    UnderWay,
    /// With another body.
    Other,
}

impl Repeats {
    fn begin(&self, asked: Asked, body: [u8; 32]) -> Begun {
        let now = Instant::now();
        let mut kept = self.lock();
        while kept.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= KEPT_FOR)
            || kept.order.len() >= KEPT_MAX
        {
            if let Some((_, old)) = kept.order.pop_front() {
                kept.answers.remove(&old);
            }
        }
        match kept.answers.get(&asked) {
            Some(entry) if entry.body != body => Begun::Other,
            Some(Entry { answer: Some(answer), .. }) => Begun::Answered(answer.clone()),
            Some(Entry { answer: None, .. }) => Begun::UnderWay,
            None => {
                kept.answers.insert(asked, Entry { body, answer: None });
                kept.order.push_back((now, asked));
                Begun::First(Turn { repeats: self.clone(), asked, kept: false })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whole after any panic: each change is one insert or remove.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that carries it out. Dropped without an end, the key is free again.
struct Turn {
    repeats: Repeats,
    asked: Asked,
    kept: bool,
}

impl Turn {
    /// Keeps the answer, unless it says that nothing was decided.
    async fn end(mut self, response: Response) -> Response {
        let problem = response.extensions().get::<Problem>().cloned();
        let status = problem.as_ref().map_or(response.status(), Problem::status);
        if status.is_server_error() {
            return response;
        }
        let (parts, body) = response.into_parts();
        // Made by a handler in this process: it arrives, and whole.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        if body.len() <= ANSWER_BYTES_MAX {
            let headers = [header::CONTENT_TYPE, header::ETAG, header::LOCATION]
                .into_iter()
                .filter_map(|name| parts.headers.get(&name).cloned().map(|value| (name, value)))
                .collect();
            let answer = Answer { status, headers, body: body.clone(), problem };
            if let Some(entry) = self.repeats.lock().answers.get_mut(&self.asked) {
                entry.answer = Some(answer);
                self.kept = true;
            }
        }
        Response::from_parts(parts, Body::from(body))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.kept {
            let mut kept = self.repeats.lock();
            kept.answers.remove(&self.asked);
            kept.order.retain(|(_, asked)| *asked != self.asked);
        }
    }
}

impl Answer {
    fn replay(self) -> Response {
        let mut response = match self.problem {
            Some(problem) => problem.into_response(),
            None => {
                let mut response = Response::new(Body::from(self.body));
                *response.status_mut() = self.status;
                response
                    .headers_mut()
                    .extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
                response
            }
        };
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_used_for_one_request() {
        let repeats = Repeats::default();
        let Begun::First(turn) = repeats.begin([1; 32], [7; 32]) else { panic!("it was the first") };
        assert!(matches!(repeats.begin([1; 32], [7; 32]), Begun::UnderWay));
        assert!(matches!(repeats.begin([1; 32], [8; 32]), Begun::Other));
        turn.end((StatusCode::CREATED, "made").into_response()).await;
        let Begun::Answered(answer) = repeats.begin([1; 32], [7; 32]) else { panic!("it was answered") };
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"made"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_decided_may_be_asked_again() {
        let repeats = Repeats::default();
        for _ in 0..2 {
            let Begun::First(turn) = repeats.begin([1; 32], [7; 32]) else { panic!("it is free") };
            turn.end(Problem::unavailable("store_failed", "").into_response()).await;
        }
        let Begun::First(turn) = repeats.begin([1; 32], [7; 32]) else { panic!("it is free") };
        drop(turn);
        assert!(matches!(repeats.begin([1; 32], [7; 32]), Begun::First(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_forgotten_after_a_day_and_bounded_in_number() {
        let repeats = Repeats::default();
        for n in 0..KEPT_MAX + 10 {
            let mut asked = [0; 32];
            asked[..8].copy_from_slice(&n.to_be_bytes());
            let Begun::First(turn) = repeats.begin(asked, [0; 32]) else { panic!("it is the first") };
            turn.end(StatusCode::NO_CONTENT.into_response()).await;
        }
        assert!(repeats.lock().answers.len() <= KEPT_MAX);
        tokio::time::advance(KEPT_FOR).await;
        let _turn = repeats.begin([255; 32], [0; 32]);
        assert_eq!(repeats.lock().answers.len(), 1);
    }
}
