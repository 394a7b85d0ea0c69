//! Every form of the pages, filled in with nonsense, field by field: it is refused with the field's name and the
//! reason, keeps what was typed, and never overwrites what somebody else wrote meanwhile.
//!
//! The forms come from the table of pages, and their fields from the pages themselves: a form or a field that
//! [`sheets`] does not know fails here.

mod page;
mod sheets;

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode, header},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use central::{
    admin::Role,
    gateway::view::{DrainingView, GatewayState, RaftView, SeatView},
    listener::ledger::OpenStream,
    people::{NewUser, Password},
    ui,
};
use proto::{NodeId, TraceId, hello::Seat};
use serde_json::json;
use time::OffsetDateTime;
use tower::ServiceExt;

use crate::stage::{Stage, THEN, environment, name, tried_out};
use sheets::{Ends, Field, Kind, SHEETS, Sheet};

const PASSWORD: &str = "a password of many letters";

#[test]
fn every_form_of_the_table_has_a_sheet() {
    for form in ui::table().into_iter().filter(|page| page.method == Method::POST) {
        assert!(SHEETS.iter().any(|sheet| sheet.form == form.path), "no sheet for {}", form.path);
    }
}

#[tokio::test]
async fn every_field_of_every_form_on_a_page_is_on_its_sheet() {
    let scene = Scene::set().await;
    let mut seen = std::collections::BTreeSet::new();
    for page in ui::table().into_iter().filter(|page| page.method == Method::GET) {
        // The last two lead to an identity provider and back; here there is none.
        let elsewhere = ["/sign-in/oidc", "/sign-in/oidc/callback"];
        if matches!(page.path, "/live" | "/assets/{name}" | "/enrol/{id}") || elsewhere.contains(&page.path) {
            continue;
        }
        let html = scene.get(&scene.fill(page.path)).await;
        for form in page::forms(&html).into_iter().filter(|form| form.method == "post") {
            let sheets: Vec<_> = SHEETS.iter().filter(|sheet| scene.is(sheet.form, &form.action)).collect();
            assert!(!sheets.is_empty(), "{}: nobody takes {}", page.path, form.action);
            for field in form.fields {
                let known =
                    sheets.iter().any(|sheet| sheet.fields.iter().any(|(name, ..)| *name == field.name));
                assert!(known, "{}: the field {} of {} has no sheet", page.path, field.name, form.action);
            }
            seen.insert(sheets[0].form);
        }
    }
    let unseen: Vec<_> = SHEETS
        .iter()
        .filter(|sheet| !sheet.page.is_empty() && !seen.contains(sheet.form))
        .map(|sheet| sheet.form)
        .collect();
    assert!(unseen.is_empty(), "no page shows {unseen:?}");
}

#[tokio::test]
async fn nonsense_is_refused_with_the_fields_name_and_what_was_typed_is_kept() {
    let mut wrong = Vec::new();
    for sheet in SHEETS {
        let scene = Scene::set().await;
        for (field, _, kind) in sheet.fields {
            let (Kind::Takes(nonsense) | Kind::Button(nonsense) | Kind::Secret(nonsense)) = kind else {
                continue;
            };
            for nonsense in *nonsense {
                let typed = scene.typed(sheet, &[(field, nonsense)]).await;
                let answer = scene.send(sheet, &typed).await;
                let said = refusal(&answer, sheet, field, &typed);
                wrong.extend(said.map(|why| format!("{} with {field}={nonsense:?}: {why}", sheet.form)));
            }
        }
        if sheet.ends == Ends::Well {
            let typed = scene.typed(sheet, &[]).await;
            let answer = scene.send(sheet, &typed).await;
            if !answer.is_well() {
                wrong.push(format!("{}, all sound, is refused: {answer:?}", sheet.form));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} in all", wrong.join("\n"), wrong.len());
}

#[tokio::test]
async fn an_edit_of_what_somebody_else_changed_meanwhile_is_a_conflict() {
    let mut wrong = Vec::new();
    for sheet in SHEETS.iter().filter(|sheet| has_version(sheet)) {
        for version in ["\"0123456789abcdef\"", "", "banana", "\u{e4}"] {
            let scene = Scene::set().await;
            let before = scene.state().await;
            let typed = scene.typed(sheet, &[("version", version)]).await;
            let answer = scene.send(sheet, &typed).await;
            let kept = lost_typing(&answer, sheet, &typed);
            if answer.is_well() || !answer.text.to_lowercase().contains("somebody else changed") {
                wrong.push(format!("{} with version {version:?}: {answer:?}", sheet.form));
            }
            wrong.extend(kept.map(|why| format!("{} with version {version:?}: {why}", sheet.form)));
            assert_eq!(
                scene.state().await,
                before,
                "{} with version {version:?} changed something",
                sheet.form
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_refused_sign_in_keeps_the_name_and_says_no_more() {
    let scene = Scene::set().await;
    let sheet = SHEETS.iter().find(|sheet| sheet.form == "/sign-in").unwrap();
    for (who, password) in [("anna", "not this one"), ("nobody", PASSWORD), ("no name", ""), ("", "")] {
        let typed = scene.typed(sheet, &[("name", who), ("password", password)]).await;
        let answer = scene.send(sheet, &typed).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
        assert_eq!(lost_typing(&answer, sheet, &typed), None);
    }
}

#[tokio::test]
async fn what_stands_behind_a_pages_address_is_judged_too() {
    let scene = Scene::set().await;
    for (path, field) in [
        ("/process-servers?page=banana", "page"),
        ("/destinations?page=-1", "page"),
        ("/process-servers?show=banana", "show"),
        ("/destinations?show=banana", "show"),
        ("/events?before=banana", "before"),
        ("/audit?before=1.5", "before"),
    ] {
        let answer = scene.ask(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.text.contains(&format!("{field}: ")), "{answer:?}");
    }
}

/// What is wrong with how nonsense was refused; nothing where all is well.
fn refusal(answer: &Answer, sheet: &Sheet, field: &str, typed: &[(&str, String)]) -> Option<String> {
    if answer.is_well() {
        return Some(format!("was taken: {answer:?}"));
    }
    // A place within it, as in `acl.clients[1]`, is as good.
    let named = [": ", "[", "."].iter().any(|end| answer.text.contains(&format!("{field}{end}")));
    if !named {
        return Some(format!("is refused without the field's name: {answer:?}"));
    }
    lost_typing(answer, sheet, typed)
}

/// What was typed and does not stand in the form that comes back.
fn lost_typing(answer: &Answer, sheet: &Sheet, typed: &[(&str, String)]) -> Option<String> {
    if answer.status == StatusCode::SEE_OTHER {
        // A button: nothing was typed.
        return sheet
            .fields
            .iter()
            .any(|(.., kind)| matches!(kind, Kind::Secret(_)))
            .then(|| "is sent on".into());
    }
    if !answer.status.is_client_error() {
        return Some(format!("is answered {}", answer.status));
    }
    let secret = |value: &str| value.len() > 3 && answer.text.contains(value);
    let forms: Vec<_> =
        page::forms(&answer.html).into_iter().filter(|form| form.action == answer.sent_to).collect();
    for (field, value) in typed {
        let kind = sheet.fields.iter().find(|(name, ..)| name == field).map(|(.., kind)| kind);
        let shown: Vec<_> =
            forms.iter().flat_map(|form| &form.fields).filter(|shown| shown.name == *field).collect();
        match kind {
            Some(Kind::Secret(_)) if secret(value) => return Some(format!("shows {field} again")),
            Some(Kind::Takes(_) | Kind::Tick) if !shown.is_empty() => {
                let sent = value.replace("\r\n", "\n");
                let kept = shown.iter().any(|shown| {
                    shown.value.as_deref() == Some(&*sent)
                        // What a list does not offer cannot be chosen in it, nor what is no line be in one.
                        || (!shown.choices.is_empty() && !shown.choices.contains(&sent))
                });
                if !kept {
                    return Some(format!("forgets {field}={value:?}, and shows {shown:?}"));
                }
            }
            _ => (),
        }
    }
    None
}

fn has_version(sheet: &Sheet) -> bool {
    sheet.fields.iter().any(|(.., kind)| matches!(kind, Kind::Version))
}

/// The stage with something of everything on it, and somebody who may do it all.
struct Scene {
    stage: Stage,
    cookie: String,
    /// What the parameters of paths are here.
    token: String,
    session: String,
    setup: String,
    /// For the link that makes the first user: a place where there is none yet.
    empty: Stage,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    sent_to: String,
    html: String,
    /// What a person reads: the page, or the sentence that the next one begins with.
    text: String,
    good: bool,
}

impl Answer {
    fn is_well(&self) -> bool {
        self.status.is_success() || (self.status == StatusCode::SEE_OTHER && self.good)
    }
}

impl Scene {
    async fn set() -> Self {
        let stage = Stage::new();
        *stage.data_plane.opening.lock().unwrap() = Some(Ok(tried_out("gw-a", 1)));
        for agent in ["gw-a", "gw-b"] {
            stage.connect(agent).await;
        }
        stage.activate("gw-a").await;
        stage.activate("gw-b").await;
        stage.activate("gw-a").await;
        // gw-d is enrolled, and neither marked nor active: it can be marked and removed.
        stage.connect("gw-d").await;
        let now = OffsetDateTime::now_utc();
        stage.look(|view| {
            view.draining = vec![DrainingView { process_server: name("gw-b"), until: THEN, streams: 1 }];
            view.state = GatewayState::Up;
            let seat =
                |text: &str, node| SeatView { name: name(text), seat: Seat { group: 2, node: NodeId(node) } };
            view.raft = Some(RaftView {
                generation: 2,
                witness: NodeId(1),
                leader: None,
                voters: vec![NodeId(1), NodeId(2), NodeId(3)],
                learners: Vec::new(),
                term: 3,
                last_applied: 7,
                last_claim: None,
                timings: group::Timings::for_round_trip(std::time::Duration::ZERO),
                worst_round_trip: None,
                seats: vec![seat("gw-x", 2), seat("gw-y", 3)],
            });
        });
        let stream = OpenStream {
            id: "2.17.1".parse().unwrap(),
            trace_id: TraceId::from_bytes([7; 16]),
            destination: name("orders"),
            client: ([192, 0, 2, 7], 5000).into(),
            via: name("gw-a"),
            since: THEN,
            age_ms: 1,
            bytes_to_site: 2,
            bytes_to_client: 3,
            idle_ms: 4,
            draining: false,
        };
        stage.data_plane.streams.lock().unwrap().push(stream);
        let all = Role::CloudAdministrator;
        let destination = json!({"name": "orders", "url": "postgresql://db.example", "enabled": true});
        let made = stage.ask(all, Method::POST, "/api/v1/destinations", destination).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        // Nobody listens there, and the stage's rules let alerts go there.
        let alerts =
            json!({"endpoints": [{"name": "ops", "url": "http://127.0.0.1:9/"}], "hold_down": "10s"});
        let set = stage.ask(all, Method::PUT, "/api/v1/alerts", alerts).await;
        assert_eq!(set.status, StatusCode::OK, "{set:?}");
        let token = stage
            .ask(all, Method::POST, "/api/v1/api-tokens", json!({"name": "old", "role": "viewer"}))
            .await;
        let people = &stage.state.people;
        for (user, role) in [("vera", Role::Viewer), ("anna", all)] {
            let new = NewUser { name: name(user), role, password: Some(Password::new(PASSWORD)) };
            people.create_user(&environment(), new, all, now).await.unwrap();
        }
        let other = stage.session(&name("anna"), all).await;
        let cookie = stage.session(&name("anna"), all).await;
        let sessions = people.sessions(&environment(), now).await.unwrap();
        let session = sessions.iter().map(|view| view.session.id.clone()).next().unwrap();
        assert_ne!(other, cookie);
        let empty = Stage::new();
        let links = empty.state.people.first_run([&environment()], now).await.unwrap();
        let setup = links[0].1.reveal().to_owned();
        let token = token.body["id"].as_str().unwrap().to_owned();
        Self { stage, cookie, token, session, setup, empty }
    }

    /// The path with what its parameters are here.
    fn fill(&self, path: &str) -> String {
        let name = match path {
            _ if path.starts_with("/destinations") => "orders",
            _ if path.starts_with("/people") => "vera",
            _ => "gw-d",
        };
        let id = match path {
            _ if path.starts_with("/streams") => "2.17.1",
            _ if path.starts_with("/settings") => &self.session,
            _ => &self.token,
        };
        path.replace("{name}", name).replace("{id}", id).replace("{secret}", &self.setup)
    }

    /// Whether a form with this action is the one of the table.
    fn is(&self, form: &str, action: &str) -> bool {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (form, action) = (parts(form), parts(action));
        form.len() == action.len()
            && form.iter().zip(&action).all(|(one, other)| one.starts_with('{') || one == other)
    }

    /// What somebody sends who fills it in: all sound, but for `nonsense`.
    async fn typed<'a>(&self, sheet: &'a Sheet, nonsense: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
        let mut typed = Vec::new();
        for &(field, sound, ref kind) in sheet.fields as &'a [Field] {
            let given =
                nonsense.iter().find(|(name, _)| *name == field).map(|(_, value)| (*value).to_owned());
            let value = match (given, kind) {
                (Some(given), _) => given,
                (None, Kind::Version) => self.version(sheet).await,
                (None, _) => sound.to_owned(),
            };
            typed.push((field, value));
        }
        typed
    }

    /// The version that the page of a form shows.
    async fn version(&self, sheet: &Sheet) -> String {
        let html = self.get(&self.fill(sheet.page)).await;
        let action = self.fill(sheet.form);
        let forms = page::forms(&html);
        let fields = forms.iter().filter(|form| form.action == action).flat_map(|form| &form.fields);
        fields.filter(|field| field.name == "version").find_map(|field| field.value.clone()).unwrap()
    }

    /// What can be edited here, whole.
    async fn state(&self) -> String {
        let mut all = String::new();
        for path in ["alerts", "destinations", "users", "process-servers"] {
            let path = format!("/api/v1/{path}");
            let answer = self.stage.ask(Role::CloudAdministrator, Method::GET, &path, json!(null)).await;
            all.push_str(&answer.body.to_string());
        }
        all
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.ask(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        answer.html
    }

    async fn send(&self, sheet: &Sheet, typed: &[(&str, String)]) -> Answer {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(typed.iter().map(|(field, value)| (field, value)));
        self.ask(Method::POST, &self.fill(sheet.form), &body.finish()).await
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Answer {
        let stage = if path.starts_with("/setup/") { &self.empty } else { &self.stage };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::COOKIE, &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = stage.router().oneshot(request).await.unwrap();
        let said = said(&response);
        let status = response.status();
        let html = to_bytes(response.into_body(), 1 << 22).await.unwrap();
        let html = String::from_utf8(html.to_vec()).unwrap();
        let text = said.as_ref().map_or_else(|| page::unescaped(&html), |(_, text)| text.clone());
        // Signing in and out goes on without a word.
        let good = said.is_none_or(|(good, _)| good);
        Answer { status, sent_to: path.to_owned(), html, text, good }
    }
}

/// The sentence that is carried to the next page, and whether it is a good one.
fn said(response: &Response<Body>) -> Option<(bool, String)> {
    let cookies = response.headers().get_all(header::SET_COOKIE).iter();
    let cookie =
        cookies.filter_map(|cookie| cookie.to_str().ok()?.strip_prefix("__Host-postern_said=")).next()?;
    let text = URL_SAFE_NO_PAD.decode(cookie.split(';').next()?).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (mark, text) = text.split_at_checked(1)?;
    Some((mark == "+", text.to_owned()))
}
