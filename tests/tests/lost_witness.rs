//! Central's own member of the group loses its records: it is never trusted again under its old node, and the
//! gateway gets its third voter back by itself.

use std::path::Path;
use std::time::Duration;

use durable::Guard;
use postern_tests::{Hosts, wait_until};
use serde_json::{Value, json};

/// Agents look for central again every few seconds.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_witness_older_than_its_guard_comes_back_on_a_new_node_and_the_active_can_change_again() {
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let (before, lost) = (hosts.gateway().await.fence(), witness(&hosts).await);

    hosts.stop_central();
    forget_the_newest_entry(&hosts.data_dir("central").join("guards/default.guard"));
    hosts.start_central().await;

    let anew = wait_until("a new witness votes", SOON, async || {
        let node = witness(&hosts).await;
        (node != lost && hosts.voting().await == ["alpha", "beta", "witness"]).then_some(node)
    })
    .await;
    assert!(anew > lost, "node ids only grow: {anew} after {lost}");
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert!(hosts.members().await.iter().all(|member| member.node != lost), "the lost node is gone");
    let up = hosts.until_active("alpha").await;
    assert!(up.fence() >= before, "{:?} after {before:?}", up.fence());
    assert_eq!(up.can_lose, Some(1));
    let events = hosts.api().get("/events").await.to_string();
    assert!(events.contains("witness_renewed") && events.contains("witness_joined"), "{events}");

    hosts.kill("alpha");
    let after = hosts.until_active("beta").await;
    assert!(after.fence() > up.fence());
}

/// Makes the guard remember one entry more than the log has, as when a disk was put back to an older state.
fn forget_the_newest_entry(guard: &Path) {
    let opened = Guard::<Value>::open(guard);
    let (guard, held) = opened.unwrap_or_else(|error| panic!("the guard cannot be opened: {error}"));
    let mut held = held.unwrap_or_else(|| panic!("the witness has no seat"));
    let index = held["last_log_id"]["index"].as_u64().unwrap_or_else(|| panic!("no index in {held}"));
    held["last_log_id"]["index"] = json!(index + 1);
    guard.write(&held).unwrap_or_else(|error| panic!("the guard cannot be written: {error}"));
}

/// The node of central's own member; 0 while nobody knows of one.
async fn witness(hosts: &Hosts) -> u64 {
    hosts.members().await.iter().find(|member| member.witness).map_or(0, |member| member.node)
}
