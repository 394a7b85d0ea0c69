//! `/enrol`: a one-time token, the commands to use it with, and then what becomes of it, step by step.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    answers::{EnrolmentToken, Gateway, ProcessServer, State as GatewayState},
    client,
    form::{Filled, Form},
    frame::{Frame, Section},
    reply::{self, Failure},
    visitor::{Shown, Visitor},
    words::Moment,
};
use crate::admin::{AppState, Role::CloudAdministrator};

/// How long a token may wait for its agent.
const TTLS: [(&str, &str); 3] = [("15m", "15 minutes"), ("5m", "5 minutes"), ("1m", "1 minute")];

#[derive(Template)]
#[template(path = "enrol.html")]
struct EnrolPage {
    frame: Frame,
    filled: Filled,
    trouble: Vec<String>,
    may: String,
    recent: Vec<Recent>,
}

/// A token that was made lately.
struct Recent {
    id: String,
    whom: String,
    what: String,
}

#[derive(Template)]
#[template(path = "enrol_token.html")]
struct TokenPage {
    frame: Frame,
    id: String,
    /// Only right after it was made; nothing can show it again.
    secret: Option<Secret>,
    expires: Moment,
    expired: bool,
    whom: String,
    stages: Vec<Stage>,
    finished: bool,
    /// The Process Server that came of it.
    server: Option<String>,
    may_mark: String,
}

struct Secret {
    commands: Vec<Command>,
}

struct Command {
    system: &'static str,
    text: String,
}

/// One step on the way, in the order in which they happen.
struct Stage {
    done: bool,
    /// The first that is not done: what is waited for.
    awaited: bool,
    title: &'static str,
    detail: String,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    form_page(&mut visitor, Filled::default()).await
}

async fn form_page(visitor: &mut Visitor, filled: Filled) -> Shown {
    let (frame, _) = Frame::new(visitor, Section::Enrol, "Enrol an agent").await?;
    let may = visitor.lacks(CloudAdministrator);
    let tokens: Vec<EnrolmentToken> =
        if may.is_empty() { visitor.api.get("/enrollment-tokens").await? } else { Vec::new() };
    let now = OffsetDateTime::now_utc();
    let recent = tokens.into_iter().rev().take(8).map(|token| Recent {
        what: match &token.used {
            Some(used) => format!("used by {} {}", used.by, Moment::new(used.at, now).ago),
            None if token.expires_at <= now => format!("expired {}", Moment::new(token.expires_at, now).ago),
            None => format!("waits, expires {}", Moment::new(token.expires_at, now).ago),
        },
        whom: whom(&token),
        id: token.id,
    });
    let status = filled.refusal().map_or(StatusCode::OK, |refused| refused.status);
    let page =
        EnrolPage { trouble: filled.trouble(&["name", "ttl"]), recent: recent.collect(), frame, filled, may };
    Ok(reply::page_with(status, &page))
}

fn whom(token: &EnrolmentToken) -> String {
    token.name.clone().unwrap_or_else(|| "any name that is free".to_owned())
}

/// The only answer of the API that holds the token.
#[derive(Deserialize)]
struct Created {
    token: String,
    id: String,
    ca_pem: String,
    central: Option<String>,
}

pub(super) async fn create(State(app): State<AppState>, mut visitor: Visitor, form: Form) -> Shown {
    let asked = json!({"name": form.filled("name"), "ttl": form.filled("ttl")});
    let made = match visitor.api.send(Method::POST, "/enrollment-tokens", asked).await {
        Ok(made) => made,
        Err(refused) => return form_page(&mut visitor, Filled::refused(form, refused)).await,
    };
    let made: Created = client::read(made.body)?;
    let central = made.central.or_else(|| app.tunnel_url.as_deref().map(str::to_owned));
    let central = central.unwrap_or_else(|| "https://CENTRAL:8443".to_owned());
    let secret = Secret { commands: commands(&central, made.ca_pem.trim_end(), &made.token) };
    token_page(&mut visitor, &made.id, Some(secret)).await
}

pub(super) async fn follow(mut visitor: Visitor, Path(id): Path<String>) -> Shown {
    token_page(&mut visitor, &id, None).await
}

async fn token_page(visitor: &mut Visitor, id: &str, secret: Option<Secret>) -> Shown {
    let (frame, gateway) = Frame::new(visitor, Section::Enrol, "Enrol an agent").await?;
    let tokens: Vec<EnrolmentToken> = visitor.api.get("/enrollment-tokens").await?;
    let gone = || Failure::NotFound("There is no such enrolment token any more: make a new one.".to_owned());
    let token = tokens.into_iter().find(|token| token.id == id).ok_or_else(gone)?;
    let server: Option<ProcessServer> = match &token.used {
        // It may have been removed again meanwhile.
        Some(used) => visitor.api.get(&format!("/process-servers/{}", used.by)).await.ok(),
        None => None,
    };
    let now = OffsetDateTime::now_utc();
    let stages = stages(&token, server.as_ref(), &gateway, now);
    Ok(reply::page(&TokenPage {
        finished: stages.iter().all(|stage| stage.done),
        expired: token.used.is_none() && token.expires_at <= now,
        expires: Moment::new(token.expires_at, now),
        whom: whom(&token),
        server: server.map(|server| server.name),
        may_mark: visitor.lacks(CloudAdministrator),
        id: token.id,
        secret,
        stages,
        frame,
    }))
}

fn stages(
    token: &EnrolmentToken,
    server: Option<&ProcessServer>,
    gateway: &Gateway,
    now: OffsetDateTime,
) -> Vec<Stage> {
    let heard = server.is_some_and(|server| server.connected);
    let ready = server.is_some_and(|server| server.configured);
    let carries = server.is_some_and(|server| server.active);
    let detail = |done: bool, yes: String, no: &str| if done { yes } else { no.to_owned() };
    let used = token.used.as_ref();
    let late = used.is_none() && now - token.created_at > time::Duration::minutes(2);
    let late = if late {
        "Still listening. Nothing has come yet: can that host reach central's tunnel address, also through its proxy?"
    } else {
        "Run the commands on the agent's host."
    };
    let group = gateway.state != GatewayState::Idle;
    let mut stages = vec![
        (
            used.is_some(),
            "Token used, certificate made",
            detail(used.is_some(), used.map(|used| format!("by {}", used.by)).unwrap_or_default(), late),
        ),
        (
            heard,
            "Agent connected to central",
            detail(heard, "it is heard".to_owned(), "Start the agent: postern-agent run, or its service."),
        ),
        (
            server.is_some_and(|server| server.candidate),
            "Marked as Secure Gateway Candidate",
            "An administrator decides that; marking disturbs nothing.".to_owned(),
        ),
    ];
    if !group || stages.iter().any(|(done, ..)| !done) || ready {
        let restarted = server.is_some_and(|server| server.candidate && !server.restart_required);
        stages.push((
            restarted,
            "Restarted since, where no group exists yet",
            detail(
                restarted,
                "done, or not needed".to_owned(),
                "The first candidate restarted becomes active.",
            ),
        ));
    }
    stages.push((
        ready || carries,
        "Ready in the gateway group",
        if carries {
            "it is active"
        } else if ready {
            "it stands by"
        } else {
            "It joins by itself."
        }
        .to_owned(),
    ));
    let first_open = stages.iter().position(|(done, ..)| !done);
    stages
        .into_iter()
        .enumerate()
        .map(|(number, (done, title, detail))| Stage {
            done,
            awaited: first_open == Some(number),
            title,
            detail,
        })
        .collect()
}

/// The secret is handed over on standard input, so that it stands in no list of processes.
fn commands(central: &str, ca_pem: &str, token: &str) -> Vec<Command> {
    vec![
        Command {
            system: "Linux",
            text: format!(
                "cat > /tmp/postern-ca.pem <<'PEM'\n{ca_pem}\nPEM\n\
                 sudo -u postern-agent postern-agent enroll --central {central} --ca-cert /tmp/postern-ca.pem \\\n    \
                 --data-dir /var/lib/postern-agent --token-file - <<'TOKEN'\n{token}\nTOKEN\n\
                 sudo systemctl enable --now postern-agent"
            ),
        },
        Command {
            system: "Windows (PowerShell)",
            text: format!(
                "@'\n{ca_pem}\n'@ | Set-Content -Encoding ascii \"$env:TEMP\\postern-ca.pem\"\n\
                 '{token}' | postern-agent.exe enroll --central {central} --ca-cert \"$env:TEMP\\postern-ca.pem\" `\n    \
                 --data-dir \"$env:ProgramData\\Postern\" --token-file -\n\
                 postern-agent.exe run --data-dir \"$env:ProgramData\\Postern\""
            ),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_has_the_secret_among_its_arguments() {
        for command in commands("https://c:8443", "PEM", "postern_enroll_x") {
            let lines = command.text.lines().filter(|line| line.contains("postern_enroll_x"));
            for line in lines {
                let before = line.split("postern_enroll_x").next().unwrap();
                assert!(!before.contains("postern-agent"), "{}: {line}", command.system);
            }
        }
    }

    #[test]
    fn one_stage_is_awaited_at_a_time() {
        let now = OffsetDateTime::now_utc();
        let token = EnrolmentToken {
            id: "1".to_owned(),
            name: None,
            created_at: now,
            expires_at: now + time::Duration::minutes(15),
            used: None,
        };
        let stages = stages(&token, None, &Gateway::sample(), now);
        assert_eq!(stages.iter().filter(|stage| stage.awaited).count(), 1);
        assert!(stages[0].awaited && stages.iter().all(|stage| !stage.done));
    }
}
