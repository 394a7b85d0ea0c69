//! What another agent sends to take part in the group: frames between peers, and Raft's calls.

use std::{sync::Arc, time::Duration};

use agent::peer::wire;
use async_trait::async_trait;
use group::{CallError, Group, GroupConfig, GroupStorage, Member, Peer, ServeError, Timings, Transport};
use proto::{AgentId, Fingerprint, NodeId, hello::Seat};
use serde_json::value::RawValue;

use super::block_on;

/// Bytes on a peer's connection: what can be read is said the same again.
pub(crate) fn raft_frame(data: &[u8]) {
    block_on(async {
        let mut from = data;
        while let Ok(Some(message)) = wire::read(&mut from).await {
            let said = wire::encode(&message).expect("what was read can be said");
            let heard = wire::read(&mut said.as_slice()).await.expect("and read").expect("and is there");
            assert_eq!(wire::encode(&heard).expect("and said"), said);
        }
    });
}

/// Calls of other members, one a line: whatever they say, this node's Raft lives, and answers. The first byte says
/// whether it founded the group, and who the others are.
pub(crate) fn raft_call(data: &[u8]) {
    let [how, lines @ ..] = data else { return };
    block_on(async {
        let seat = Seat { group: 3, node: NodeId(1) };
        let config = GroupConfig { seat, member: Member::Agent, timings: Timings::default() };
        let group = Group::start(config, GroupStorage::memory(), Arc::new(Nobody)).await.expect("it starts");
        if how & 1 == 1 {
            group.found(peer(1)).await.expect("it founds the group");
            let mut leadership = group.leadership();
            leadership.wait_for(|now| now.leads).await.expect("it leads");
        }
        for line in lines.split(|byte| *byte == b'\n').take(16) {
            let Ok(body) = serde_json::from_slice::<Box<RawValue>>(line) else { continue };
            // In the name that it gives: another one is refused before Raft hears of it.
            for from in [2, 3] {
                match tokio::time::timeout(Duration::from_secs(60), group.serve(NodeId(from), &body)).await {
                    Ok(Ok(answer)) => assert!(!answer.get().is_empty()),
                    Ok(Err(
                        ServeError::Malformed { .. }
                        | ServeError::Impostor { .. }
                        | ServeError::Unsound { .. },
                    )) => {}
                    Ok(Err(error)) => panic!("{error}, after {}", body.get()),
                    Err(_) => panic!("no answer to {}", body.get()),
                }
            }
        }
        // It is there for those who mean well.
        let ping = RawValue::from_string("\"ping\"".to_owned()).expect("JSON");
        group.serve(NodeId(2), &ping).await.expect("an answer");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(group.leadership().borrow().running, "its Raft has ended");
        group.shutdown().await;
    });
}

/// A network in which nobody else lives.
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn call(
        &self,
        _to: NodeId,
        _peer: Option<&Peer>,
        _body: Box<RawValue>,
        _ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        Err(CallError::Unreachable("nobody lives there".to_owned()))
    }
}

fn peer(node: u64) -> Peer {
    Peer {
        node: NodeId(node),
        agent: AgentId::from_bytes([node as u8; 16]),
        name: "gw-a".parse().expect("a name"),
        fingerprint: Fingerprint::from_bytes([node as u8; 32]),
        addrs: Vec::new(),
    }
}
