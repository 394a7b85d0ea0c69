//! `posternctl raft …`

use serde::Deserialize;
use serde_json::json;

use crate::{
    args::{Lost, Raft as Command, Risk},
    client::{Client, read},
    failure::Failure,
    gateway::losses,
    screen::{Screen, or_dash, yes},
};

#[derive(Debug, Deserialize)]
struct Raft {
    generation: u64,
    last_applied: u64,
    last_claim: Option<Claim>,
    can_lose: Option<u64>,
    timings: Timings,
    worst_round_trip_ms: Option<f64>,
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Recovered {
    generation: u64,
}

#[derive(Debug, Deserialize)]
struct Timings {
    heartbeat_ms: u64,
    election_min_ms: u64,
    election_max_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Claim {
    epoch: Epoch,
    node: u64,
}

#[derive(Debug, Deserialize)]
struct Epoch {
    group: u64,
    claim: u64,
}

#[derive(Debug, Deserialize)]
struct Member {
    node: u64,
    name: Option<String>,
    state: String,
    voter: bool,
    connected: bool,
}

pub(crate) async fn run(command: Command, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Command::Status => status(client, screen).await,
        Command::Recover { name, yes_i_lost: Lost(lost), accept_risk } => {
            let risk = accept_risk.map(|Risk::LoseConnection| "lose-connection");
            let body = json!({ "on": name, "lost": lost, "accept_risk": risk });
            let answer = client.post("raft/recover", body).await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let Recovered { generation } = read(&answer)?;
            screen.talk(&format!(
                "{name} founds the gateway group anew, generation {generation}. Watch it: posternctl raft status"
            ));
            Ok(())
        }
    }
}

async fn status(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = client.get("raft").await?;
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    let Some(raft) = read::<Option<Raft>>(&answer)? else {
        screen.talk("No gateway group exists. Mark a candidate and restart it to found one.");
        return Ok(());
    };
    screen.rows(
        ["NODE ID", "NAME", "STATE", "VOTER", "CONNECTED"],
        raft.members.iter().map(|member| {
            [
                member.node.to_string(),
                or_dash(member.name.as_ref()),
                member.state.clone(),
                yes(member.voter),
                yes(member.connected),
            ]
        }),
        "The group has no members.",
    )?;
    let claim = raft
        .last_claim
        .map(|claim| format!("{}.{} by node {}", claim.epoch.group, claim.epoch.claim, claim.node));
    let Timings { heartbeat_ms, election_min_ms, election_max_ms } = raft.timings;
    let timings = format!("heartbeat {heartbeat_ms} ms, election {election_min_ms}-{election_max_ms} ms");
    screen.line("")?;
    Ok(screen.properties(&[
        ("Generation", raft.generation.to_string()),
        ("Last applied", raft.last_applied.to_string()),
        ("Last claim", or_dash(claim)),
        ("Can lose", raft.can_lose.map_or_else(|| "-".into(), losses)),
        ("Timings", timings),
        ("Slowest path", raft.worst_round_trip_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"))),
    ])?)
}
