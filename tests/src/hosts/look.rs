//! What an administrator, and the host's own, see of the gateway; and waiting until they see it.

use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::{Hosts, SOON};
use crate::{program, wait_until};

/// What scenarios look at in `GET /gateway`, also while there is no group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shown {
    pub state: String,
    pub active: Option<String>,
    pub epoch: u64,
    pub group_epoch: u64,
    /// How many more voting members may be lost.
    pub can_lose: Option<usize>,
    pub last_switch: Option<Switch>,
}

/// The last change of the active.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Switch {
    pub from: Option<String>,
    pub to: String,
    pub gap_ms: u64,
}

impl Shown {
    /// The group's generation, and the claim in it: what may only grow.
    pub fn fence(&self) -> (u64, u64) {
        (self.group_epoch, self.epoch)
    }
}

/// A member of the group, as `GET /raft` names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    pub node: u64,
    /// `None` for the witness, and for a node whose seat is gone.
    pub name: Option<String>,
    pub voter: bool,
    pub witness: bool,
}

impl Hosts {
    /// The Secure Gateway's state.
    pub async fn gateway(&self) -> Shown {
        let answer = self.api.get("/gateway").await;
        Shown::deserialize(&answer)
            .unwrap_or_else(|error| panic!("/gateway did not answer as promised ({error}): {answer}"))
    }

    /// The group's members; none while there is no group.
    pub async fn members(&self) -> Vec<Member> {
        let answer = self.api.get("/raft").await;
        let members = answer.get("members").cloned().unwrap_or(Value::Array(Vec::new()));
        Vec::deserialize(&members)
            .unwrap_or_else(|error| panic!("/raft did not answer as promised ({error}): {answer}"))
    }

    /// The node that leads the group, as far as central has heard.
    pub async fn leader(&self) -> Option<u64> {
        self.api.get("/raft").await["leader"].as_u64()
    }

    /// The node under which an agent is a member.
    pub async fn node_of(&self, name: &str) -> Option<u64> {
        let members = self.members().await;
        members.iter().find(|member| member.name.as_deref() == Some(name)).map(|member| member.node)
    }

    /// Who votes in the group, by name; central's own member as `witness`.
    pub async fn voting(&self) -> Vec<String> {
        let members = self.members().await;
        let mut names: Vec<_> = members.into_iter().filter(|member| member.voter).map(called).collect();
        names.sort();
        names
    }

    /// The Process Servers whose field `what` is true, by name.
    pub async fn servers_that_are(&self, what: &str) -> Vec<String> {
        let all = self.api.get("/process-servers").await;
        let all = all.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter(|server| {
                server[what].as_bool().unwrap_or_else(|| panic!("{what} is no yes or no: {server}"))
            })
            .filter_map(|server| Some(server["name"].as_str()?.to_owned()))
            .collect()
    }

    /// What an agent says of itself on its own host; `None` while it does not answer, as in the
    /// middle of a restart.
    pub fn status(&self, name: &str) -> Option<Value> {
        let mut command = Command::new(program("postern-agent"));
        command.args(["status", "-o", "json", "--data-dir"]).arg(self.data_dir(name));
        let output = command.output().expect("the agent's program can be started");
        let said = output.status.success().then_some(output.stdout)?;
        Some(serde_json::from_slice(&said).expect("the status is JSON when asked to be"))
    }

    /// The role an agent says it has.
    pub fn role(&self, name: &str) -> Option<String> {
        Some(self.status(name)?["role"].as_str()?.to_owned())
    }

    /// Names the boot an agent is in: another one after each start, also within one process.
    pub fn boot(&self, name: &str) -> Option<String> {
        Some(self.status(name)?["boot"].as_str()?.to_owned())
    }

    /// Waits until the agent carries the traffic.
    pub async fn until_active(&self, name: &str) -> Shown {
        self.until(&format!("{name} is active"), |gateway| {
            gateway.state == "up" && gateway.active.as_deref() == Some(name)
        })
        .await
    }

    /// Waits until the gateway is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Shown) -> bool) -> Shown {
        wait_until(what, SOON, async || Some(self.gateway().await).filter(&wanted)).await
    }

    /// Waits until exactly these vote, and no others are members; names in order.
    pub async fn until_group_is(&self, names: &[&str]) {
        wait_until(
            &format!("{names:?} vote, and nobody else is a member but the witness"),
            SOON,
            async || {
                let strangers = self
                    .members()
                    .await
                    .into_iter()
                    .filter(|member| !member.voter && !member.witness)
                    .count();
                (strangers == 0 && self.voting().await == names).then_some(())
            },
        )
        .await;
    }

    /// Waits until an agent says it has this role.
    pub async fn until_role(&self, name: &str, role: &str) {
        wait_until(&format!("{name} is {role}"), SOON, async || {
            (self.role(name).as_deref() == Some(role)).then_some(())
        })
        .await;
    }
}

fn called(member: Member) -> String {
    match member.witness {
        true => "witness".to_owned(),
        false => member.name.unwrap_or_else(|| format!("node {}", member.node)),
    }
}
