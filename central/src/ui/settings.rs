//! `/settings`: how central itself is, and one's own password and sessions.

use askama::Template;
use axum::{
    extract::Path,
    http::{Method, StatusCode},
};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    answers::Raft,
    effective::{self, Effective},
    form::{Filled, Form},
    frame::{Frame, Section},
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};
use crate::admin::Role::Administrator;

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    frame: Frame,
    store: Badge,
    store_why: String,
    wire: String,
    raft: Option<Raft>,
    round_trip: String,
    leader: String,
    sessions: Vec<SessionRow>,
    password: Filled,
    trouble: Vec<String>,
    /// What is in force, for those who may see it.
    effective: Option<Effective>,
    may_see: String,
    /// Whether a person signed in, or a token.
    is_user: bool,
    has_password: bool,
}

struct SessionRow {
    id: String,
    created: Moment,
    seen: Moment,
    from: String,
    browser: String,
    current: bool,
}

#[derive(Deserialize)]
struct Meta {
    wire_version_min: u16,
    wire_version: u16,
}

/// One of `GET /sessions`
#[derive(Deserialize)]
struct Session {
    id: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_seen: OffsetDateTime,
    from: Option<String>,
    user_agent: Option<String>,
    current: bool,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    page(&mut visitor, Filled::default()).await
}

async fn page(visitor: &mut Visitor, password: Filled) -> Shown {
    let (frame, _) = Frame::new(visitor, Section::Settings, "Settings and health").await?;
    let meta: Meta = visitor.api.get("/meta").await?;
    let raft: Option<Raft> = visitor.api.get("/raft").await?;
    let (store, store_why) = match visitor.api.ready().await {
        Ok(()) => (Badge::new(Tone::Good, "answers"), String::new()),
        Err(refused) => (Badge::new(Tone::Bad, "does not answer"), refused.detail),
    };
    let sessions: Vec<Session> =
        if visitor.is_user { visitor.api.all("/sessions").await? } else { Vec::new() };
    let now = OffsetDateTime::now_utc();
    let leader =
        raft.as_ref().and_then(|raft| raft.members.iter().find(|member| Some(member.node) == raft.leader));
    let leader =
        leader.and_then(|leader| leader.name.clone()).unwrap_or_else(|| "nobody at the moment".to_owned());
    let status = password.refusal().map_or(StatusCode::OK, |refused| refused.status);
    let page = SettingsPage {
        effective: effective::look(visitor, now).await?,
        may_see: visitor.lacks(Administrator),
        trouble: password.trouble(&["current", "new"]),
        round_trip: raft
            .as_ref()
            .and_then(|raft| raft.worst_round_trip_ms)
            .map_or_else(|| "not measured yet".to_owned(), |ms| format!("{ms:.1} ms")),
        wire: if meta.wire_version_min == meta.wire_version {
            meta.wire_version.to_string()
        } else {
            format!("{} to {}", meta.wire_version_min, meta.wire_version)
        },
        sessions: sessions.into_iter().map(|session| row(session, now)).collect(),
        is_user: visitor.is_user,
        has_password: visitor.has_password,
        password,
        store,
        store_why,
        raft,
        leader,
        frame,
    };
    Ok(reply::page_with(status, &page))
}

fn row(session: Session, now: OffsetDateTime) -> SessionRow {
    SessionRow {
        id: session.id,
        created: Moment::new(session.created_at, now),
        seen: Moment::new(session.last_seen, now),
        from: session.from.unwrap_or_else(|| "an address that was not recorded".to_owned()),
        browser: session
            .user_agent
            .as_deref()
            .map_or_else(|| "a browser that did not say its name".to_owned(), browser),
        current: session.current,
    }
}

/// What a browser says of itself, in words its owner knows. They all claim to be each other, so the first that
/// matches counts.
fn browser(user_agent: &str) -> String {
    let first = |known: &[(&str, &'static str)]| {
        known.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, words)| *words)
    };
    let name = first(&[
        ("Edg", "Edge"),
        ("Firefox", "Firefox"),
        ("OPR", "Opera"),
        ("Chrome", "Chrome"),
        ("Safari", "Safari"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "an iPhone"),
        ("iPad", "an iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (name, system) {
        (Some(name), Some(system)) => format!("{name} on {system}"),
        (Some(name), None) => name.to_owned(),
        (None, _) => user_agent.chars().take(60).collect(),
    }
}

pub(super) async fn password(mut visitor: Visitor, form: Form) -> Shown {
    let asked = json!({"current": form.text("current"), "new": form.text("new")});
    match visitor.api.send(Method::PUT, "/session/password", asked).await {
        Ok(answered) => {
            let said = "Your password is changed; your other sessions have ended.";
            Ok(reply::with_cookies(reply::done("/settings", said), answered.cookies))
        }
        // Passwords are typed again, so that they stand in no page.
        Err(refused) => page(&mut visitor, Filled::refused(Form::default(), refused)).await,
    }
}

pub(super) async fn end_session(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    Ok(match visitor.api.send(Method::DELETE, &format!("/sessions/{id}"), json!({})).await {
        Ok(_) => reply::done("/settings", "That session has ended."),
        Err(refused) => reply::not_done("/settings", &refused),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_called_what_its_owner_calls_it() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome on Linux");
        assert_eq!(browser(&format!("{chrome} Edg/1")), "Edge on Linux");
        assert_eq!(browser("curl/8"), "curl/8");
    }
}
