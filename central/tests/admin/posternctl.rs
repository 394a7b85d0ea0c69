//! The command line itself: arguments in, exit code, stdout and stderr out.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio, time::Duration};

use central::admin::{Role, data_plane::OpenFailure};
use proto::trace::Hop;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    events::happen,
    server::Server,
    stage::{Stage, name, tried_out},
};

#[tokio::test]
async fn a_table_for_people_and_json_for_programs() {
    let world = World::start(Role::Viewer).await;
    world.stage.connect("gw-a").await;
    let table = world.run("process-servers list").await;
    assert_eq!(table.code, 0, "{table:?}");
    assert!(
        table.out.contains("NAME") && table.out.contains("gw-a") && !table.out.contains('\u{1b}'),
        "{table:?}"
    );
    let json = world.run("process-servers list -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap()[0]["name"], "gw-a");
    assert_eq!(json.err, "");
}

#[tokio::test]
async fn status_speaks_of_the_state_and_the_next_step() {
    let world = World::start(Role::Viewer).await;
    world.stage.connect("gw-a").await;
    world.stage.activate("gw-a").await;
    world.stage.enrol("gw-b").await;
    let status = world.run("status").await;
    assert_eq!(status.code, 0);
    assert!(status.out.contains("up, since") && status.out.contains("2.17"), "{status:?}");
    let json: Value = serde_json::from_str(&world.run("status -o json").await.out).unwrap();
    assert_eq!((&json["state"], &json["process_servers"][1]["name"]), (&"up".into(), &"gw-b".into()));
}

#[tokio::test]
async fn a_refusal_is_1_with_its_reason_on_stderr() {
    let world = World::start(Role::CloudAdministrator).await;
    world.stage.connect("gw-a").await;
    assert_eq!(world.run("process-servers candidate gw-a on").await.code, 0);
    let refused = world.run("gateway switch").await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(refused.err.contains("no other configured candidate"), "{refused:?}");
    let unknown = world.run("process-servers show moon").await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("no Process Server is named moon"), "{unknown:?}");
}

#[tokio::test]
async fn too_small_a_role_is_1_and_says_which_one_is_needed() {
    let world = World::start(Role::Viewer).await;
    let refused = world.run("process-servers candidate gw-a on").await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("Cloud Administrator"), "{refused:?}");
}

#[tokio::test]
async fn wrong_usage_or_configuration_is_2() {
    let world = World::start(Role::Viewer).await;
    for wrong in [
        "moon",
        "destinations add",
        "process-servers candidate gw-a maybe",
        "--server http://127.0.0.1:1 status",
        "--ca-cert /nonexistent status",
        "--token-file /nonexistent status",
        "--token secret status",
        "enrollment create --ttl 15",
    ] {
        let refused = world.run(wrong).await;
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{wrong}: {refused:?}");
        assert!(!refused.err.is_empty(), "{wrong}");
    }
}

#[tokio::test]
async fn no_answer_is_3() {
    let world = World::start(Role::Viewer).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = world.run(&format!("--server https://127.0.0.1:{port} status")).await;
    assert_eq!(nobody.code, 3, "{nobody:?}");
    assert!(nobody.err.contains(&format!("no answer from 127.0.0.1:{port}")), "{nobody:?}");
    let other_ca = Server::start(Stage::new().router()).await;
    let stranger = world.run(&format!("--server https://127.0.0.1:{} status", other_ca.address.port())).await;
    assert_eq!(stranger.code, 3, "{stranger:?}");
    assert!(stranger.err.contains("--ca-cert"), "{stranger:?}");
}

#[tokio::test]
async fn the_exit_code_of_a_test_is_whether_it_was_reached() {
    let world = World::start(Role::Administrator).await;
    assert_eq!(world.run("destinations add db postgresql://db.example").await.code, 0);
    let script = |result| *world.stage.data_plane.opening.lock().unwrap() = Some(result);
    script(Ok(tried_out("gw-a", 12)));
    let reached = world.run("destinations test db").await;
    assert_eq!(reached.code, 0, "{reached:?}");
    assert!(reached.out.contains("PASS") && reached.out.contains("allow-list"), "{reached:?}");
    assert!(reached.err.contains("db answers through gw-a in 12 ms: well met"), "{reached:?}");
    script(Err(OpenFailure::Refused {
        via: name("gw-a"),
        at: Hop::AllowList,
        reason: "not in the allow-list".into(),
    }));
    let refused = world.run("destinations test db").await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("not in the allow-list"), "{refused:?}");
}

#[tokio::test]
async fn a_secret_goes_to_stdout_alone_or_to_a_file_for_its_owner() {
    let world = World::start(Role::Administrator).await;
    let printed = world.run("tokens create --role viewer").await;
    assert!(printed.out.starts_with("postern_api_") && printed.out.lines().count() == 1, "{printed:?}");
    assert!(!printed.err.contains(printed.out.trim()));
    let file = world.folder.path().join("token");
    let to_file = format!("tokens create --role viewer --out {}", file.display());
    let written = world.run(&to_file).await;
    assert_eq!((written.code, written.out.as_str()), (0, ""), "{written:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let works = world.run(&format!("--token-file {} gateway show", file.display())).await;
    assert_eq!(works.code, 0, "{works:?}");
    let again = world.run(&to_file).await;
    assert_eq!(again.code, 2);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("postern_api_"));
}

#[tokio::test]
async fn a_refused_secret_leaves_no_file_behind() {
    let world = World::start(Role::Viewer).await;
    let file = world.folder.path().join("token");
    let refused = world.run(&format!("tokens create --role viewer --out {}", file.display())).await;
    assert_eq!(refused.code, 1);
    assert!(!file.exists());
}

#[tokio::test]
async fn raft_status_without_a_group_says_how_one_comes_to_be() {
    let world = World::start(Role::Viewer).await;
    let status = world.run("raft status").await;
    assert_eq!((status.code, status.out.as_str()), (0, ""));
    assert!(status.err.contains("No gateway group"), "{status:?}");
}

#[tokio::test]
async fn a_follower_prints_what_was_and_what_comes() {
    let world = World::start(Role::Viewer).await;
    happen(&world.stage, 2).await;
    let mut follower = world.command("events --follow").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = async || timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(next().await.contains("event 0"));
    assert!(next().await.contains("event 1"));
    happen(&world.stage, 1).await;
    let third = next().await;
    assert!(third.trim_start().starts_with('3') && third.contains("gateway_up"), "{third}");
    follower.kill().await.unwrap();
}

#[tokio::test]
async fn people_are_made_changed_and_signed_out() {
    let world = World::start(Role::CloudAdministrator).await;
    let file = world.folder.path().join("password");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    let file = file.display();
    let made = world.run(&format!("users create anna --role viewer --password-file {file}")).await;
    assert_eq!(made.code, 0, "{made:?}");
    assert!(!made.out.contains("battery") && !made.err.contains("battery"));
    assert_eq!(world.run("users change anna --role operator").await.code, 0);
    let list = world.run("users list").await;
    let anna = list.out.lines().find(|line| line.contains("anna")).unwrap_or_default();
    assert!(anna.split_whitespace().eq(["anna", "operator", "password", "no", "0", "-"]), "{list:?}");
    assert_eq!(world.run("users change anna").await.code, 2);
    assert_eq!(world.run("users change anna --disable --enable").await.code, 2);
    assert_eq!(world.run("users sign-out anna").await.code, 0);
    assert_eq!(world.run("users remove anna").await.code, 0);
    let gone = world.run("users show anna").await;
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("no user is named anna"), "{gone:?}");
}

#[tokio::test]
async fn the_audit_is_read_exported_and_checked() {
    let world = World::start(Role::Administrator).await;
    for name in ["db-1", "db-2", "db-3"] {
        assert_eq!(world.run(&format!("destinations add {name} tcp://10.0.0.1:1")).await.code, 0);
    }
    let shown = world.run("audit").await;
    assert_eq!((shown.code, shown.out.lines().count()), (0, 3), "{shown:?}");
    assert!(shown.out.contains("destinations.create db-2  done"), "{shown:?}");

    let file = world.folder.path().join("audit.jsonl");
    let path = file.display().to_string();
    let exported = world.run(&format!("audit --export {path}")).await;
    assert_eq!(exported.code, 0, "{exported:?}");
    let head = exported.out.trim().to_owned();
    assert!(head.starts_with("3:"), "{exported:?}");
    let online = world.run(&format!("audit --verify --head {head}")).await;
    assert_eq!((online.code, online.out.trim()), (0, head.as_str()), "{online:?}");

    // From here on without the server.
    let offline = async |words: &str| world.run(&format!("--server https://127.0.0.1:1 {words}")).await;
    assert_eq!(offline(&format!("audit --verify {path} --head {head}")).await.code, 0);
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replace("db-2", "db-X")).unwrap();
    let tampered = offline(&format!("audit --verify {path}")).await;
    assert_eq!((tampered.code, tampered.out.as_str()), (1, ""));
    assert!(tampered.err.contains("record 2 was changed"), "{tampered:?}");
    let without_end: String = whole.lines().take(3).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, without_end).unwrap();
    assert_eq!(offline(&format!("audit --verify {path}")).await.code, 1);
    let cut = offline(&format!("audit --verify {path} --head {head}")).await;
    assert!(cut.err.contains("record 3 is missing"), "{cut:?}");

    world.stage.damage("audit", |record| record["target"] = "nothing".into()).await;
    let rewritten = world.run("audit --verify").await;
    assert_eq!(rewritten.code, 1);
    assert!(rewritten.err.contains("record 1 was changed"), "{rewritten:?}");
    assert_eq!(world.run("audit --verify /nonexistent").await.code, 2);
    assert_eq!(world.run("audit --head nonsense").await.code, 2);
}

/// A limit on waiting for what must happen; not a measure.
const SOON: Duration = Duration::from_secs(60);

/// An admin address, and a token in the environment.
struct World {
    stage: Stage,
    server: Server,
    token: String,
    ca: PathBuf,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl World {
    async fn start(role: Role) -> Self {
        let stage = Stage::new();
        let server = Server::start(stage.router()).await;
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &server.ca_pem).unwrap();
        Self { token: stage.token(role).await, stage, server, ca, folder }
    }

    /// Runs `posternctl` with these words.
    async fn run(&self, words: &str) -> Ran {
        let output = timeout(SOON, self.command(words).output()).await.unwrap().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posternctl"));
        command
            .env_clear()
            .env("POSTERN_SERVER", format!("https://localhost:{}", self.server.address.port()))
            .env("POSTERN_TOKEN", &self.token)
            .env("POSTERN_CA_CERT", &self.ca)
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}
