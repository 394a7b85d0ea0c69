//! The bench runs and says what it promises. How fast it found anything is not judged here.
#![expect(clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::process::{Command, Output};

use serde_json::Value;

#[test]
fn one_round_of_failover_is_reported_as_one_json_document() {
    let folder = postern_tests::Folder::new("bench");
    let file = folder.join("figures.json");

    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["failover", "--rounds", "1", "--json"])
        .arg(&file)
        .output()
        .unwrap();

    let table = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}:\n{table}", output.status);
    assert!(table.contains("failover/kill to first byte"), "{table}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report, serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap());
    assert_eq!(report["format"], 1);
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0, "{report}");
    assert!(report["machine"]["memory_mib"].as_u64().unwrap() > 0, "{report}");
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 4, "{report}");
    for figure in figures {
        assert_eq!((&figure["measurement"], &figure["unit"]), (&"failover".into(), &"ms".into()));
        assert_eq!(figure["n"], 1);
        assert!(figure["median"].as_f64().unwrap() > 0.0, "{figure}");
        for statistic in ["p99", "min", "max"] {
            assert_eq!(figure[statistic], figure["median"], "{figure}");
        }
        assert_eq!(figure["spread"], 0.0);
        assert_eq!(figure["samples"], Value::from(vec![figure["median"].clone()]));
    }
    let targets = figures.iter().filter_map(|figure| figure["targets"].as_array()).map(Vec::len);
    assert_eq!(targets.collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn the_tunnel_alone_carries_bulk_and_holds_idle_streams_beside_the_relays() {
    let figures = measured(&["throughput", "--bare", "--rounds", "1", "--mebibytes", "4"]);
    for streams in ["1 stream", "10 streams", "100 streams"] {
        for what in ["down, CPU, gateway to TLS relay", "up, speed, gateway to TLS relay", "up, tunnel alone"]
        {
            let name = format!("{streams} {what}");
            assert!(figures.iter().any(|figure| figure["name"] == *name), "{name} is missing");
        }
    }
    let figures = measured(&["crowd", "--bare", "--rounds", "1", "--streams", "200"]);
    assert_eq!(figures.len(), 3);
    assert!(figures.iter().all(|figure| figure["unit"] == "kB"), "{figures:?}");
}

#[test]
fn an_alerts_way_to_its_receiver_is_measured_for_downs_and_for_ups() {
    let figures = measured(&["alerts", "--rounds", "1"]);
    assert_eq!(figures.len(), 2);
    for figure in figures {
        assert!(figure["median"].as_f64().unwrap() > 0.0, "{figure}");
        assert_eq!((&figure["unit"], figure["targets"].as_array().unwrap().len()), (&"ms".into(), 2));
    }
}

#[test]
fn small_requests_alone_are_timed_beside_the_relays_and_peers_that_are_missing_are_named() {
    let output = bench(&["latency", "--bare", "--peers", "--rounds", "1", "--only", "128 B, 1 connection"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let absent = report["absent"].as_array().map_or(0, Vec::len);
    let peers = ["stunnel", "haproxy", "ssh -R", "rathole"];
    let measured = peers.iter().filter(|peer| {
        figures.iter().any(|figure| figure["name"].as_str().unwrap().contains(&format!("p50, {peer}")))
    });
    assert_eq!(measured.count() + absent, peers.len(), "{report}");
    for what in ["p50, tunnel alone", "p99, TLS relay", "rate, plain relay", "p50, gateway to TLS relay"] {
        let name = format!("128 B, 1 connection, {what}");
        let found = figures.iter().find(|figure| figure["name"] == *name);
        assert!(found.unwrap()["median"].as_f64().unwrap() > 0.0, "{name}");
    }
}

#[test]
fn busy_and_unread_streams_are_looked_at() {
    let figures = measured(&["fair", "--bare", "--rounds", "1", "--streams", "20", "--seconds", "1"]);
    let slowest = &figures[0];
    assert_eq!(slowest["name"], "20 busy streams, slowest to mean, tunnel alone");
    let slowest = slowest["median"].as_f64().unwrap();
    assert!(slowest > 0.0 && slowest <= 1.0, "{figures:?}");
}

fn measured(args: &[&str]) -> Vec<Value> {
    let output = bench(args);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["figures"].as_array().unwrap().clone()
}

fn bench(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().unwrap();
    assert!(output.status.success(), "{}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}
