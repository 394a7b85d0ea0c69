//! Fills a central's records before it starts: what years of use leave behind, in seconds.
//!
//! Records are JSON, as central's own rooms write them; how they lie in the database is said in
//! `central/src/store/sled.rs`. That central took them for its own is checked by asking it ([`crate::pages`]).

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use durable::{Durable, record, sled};
use serde_json::{Value, json};

/// How much there is of everything, in the Environment `default`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stock {
    pub(crate) process_servers: usize,
    pub(crate) destinations: usize,
    pub(crate) events: usize,
    pub(crate) users: usize,
    /// Made by asking for them: where one is there already, a new central makes none for its administrator.
    pub(crate) api_tokens: usize,
    pub(crate) failovers: usize,
}

/// To whom the records belong.
const ENVIRONMENT: &str = "default";
const THEN: &str = "2026-11-21T14:02:00Z";

impl Stock {
    /// Ratios of a large site; each is within what central allows.
    pub(crate) fn of(process_servers: usize) -> Self {
        Self {
            process_servers,
            destinations: process_servers * 2,
            events: process_servers * 100,
            users: (process_servers / 2).clamp(1, 500),
            api_tokens: (process_servers / 4).clamp(1, 500),
            failovers: (process_servers / 5).clamp(1, 200),
        }
    }

    /// Writes all of it into the data directory of a central that has never started.
    pub(crate) fn fill(self, data_dir: &Path) {
        let made = DirBuilder::new().mode(0o700).create(data_dir);
        made.unwrap_or_else(|error| panic!("{} could not be made: {error}", data_dir.display()));
        let disk = Durable::open(data_dir.join("db")).expect("a new folder takes a database");
        let mut records =
            Records { tree: disk.tree("central").expect("a new database takes a tree"), version: 0 };
        for n in 0..self.process_servers {
            records.put("process_servers", &format!("host-{n:04}"), process_server(n));
        }
        for n in 0..self.destinations {
            records.put("destinations", &destination_name(n), destination(n));
            let mut test = test(n);
            records.put("destination_tests", &destination_name(n), test.clone());
            test.as_object_mut()
                .expect("a test is an object")
                .retain(|name, _| name != "steps" && name != "candidates");
            records.put("destination_test_summaries", &destination_name(n), test);
        }
        for n in 0..self.users {
            records.put("users", &format!("user-{n:03}"), user(n));
        }
        for n in 1..=self.failovers {
            records.put("failovers", &format!("{n:020}"), failover(n));
        }
        for n in 1..=self.events {
            records.put("events", &format!("{n:020}"), event(n));
        }
        records.put("events_head", "head", json!({"oldest": 1, "next": self.events + 1}));
        records.end();
        disk.sync_blocking().expect("the disk takes what was written");
    }
}

/// Central's tree while it is filled.
struct Records {
    tree: sled::Tree,
    version: u64,
}

impl Records {
    fn put(&mut self, collection: &str, key: &str, value: Value) {
        self.version += 1;
        let key = format!("{ENVIRONMENT}\0{collection}\0{key}");
        self.write(key.as_bytes(), &json!({"version": self.version, "value": value}));
    }

    fn end(self) {
        self.write(b"revision", &json!(self.version));
    }

    fn write(&self, key: &[u8], value: &Value) {
        let bytes = record::encode(key, value).expect("JSON can be written");
        self.tree.insert(key, bytes).expect("the database takes a record");
    }
}

fn process_server(n: usize) -> Value {
    json!({
        "name": format!("host-{n:04}"), "agent": format!("{n:032x}"), "fingerprint": format!("{n:064x}"),
        "candidate": n < 3, "marked_at_boot": null, "last_boot": format!("{n:032x}"),
        "enrolled_at": THEN, "last_seen": THEN, "software": "0.1.0",
        "system": {"os": "linux", "arch": "x86_64", "hostname": format!("host-{n:04}.example.com"), "pid": 4711},
    })
}

fn destination_name(n: usize) -> String {
    format!("database-{n:04}")
}

/// Every tenth has a listener: ports of one address are few, and what is listed is the same.
fn destination(n: usize) -> Value {
    json!({
        "name": destination_name(n), "type": "postgresql", "direction": "to_site", "listen": null,
        "url": format!("postgresql://db-{n:04}.example.com:5432"), "enabled": n.is_multiple_of(10),
        "limits": {"streams": 4096}, "tls": {}, "acl": {"clients": ["10.0.0.0/8", "192.168.0.0/16"]},
    })
}

fn test(n: usize) -> Value {
    let steps: Vec<_> = ["enabled", "listener", "tunnel", "allow_list", "dns", "connect", "greeting"]
        .map(|hop| {
            json!({"hop": hop, "verdict": "pass", "ms": 3, "action": null,
                "detail": format!("db-{n:04}.example.com is 10.0.{}.{}, and it answered", n / 250, n % 250)})
        })
        .into();
    let candidate = |name: &str, active: bool| {
        json!({"name": name, "active": active, "connected": true, "verdict": "pass", "summary": "It answers.",
            "ms": 12, "steps": &steps[3..]})
    };
    json!({
        "destination": destination_name(n), "verdict": "pass", "summary": "It answers.", "reached": true, "ms": 12,
        "via": "host-0000", "reason": null, "at": THEN, "by": "user-001", "steps": steps,
        "candidates": [candidate("host-0000", true), candidate("host-0001", false), candidate("host-0002", false)],
    })
}

fn user(n: usize) -> Value {
    json!({
        "name": format!("user-{n:03}"), "role": "viewer", "disabled": false, "password": null,
        "created_at": THEN, "sessions_since": THEN,
    })
}

fn failover(n: usize) -> Value {
    let attempts = ["host-0000", "host-0001", "host-0002"].map(|name| {
        json!({"candidate": name, "began_at": THEN, "ms": 240_000, "limit_ms": 240_000, "outcome": "time_is_up"})
    });
    let timeline =
        vec![json!({"at": THEN, "code": "gateway_attempt", "text": "host-0001 is waited for"}); 12];
    json!({
        "id": n, "started_at": THEN, "ended_at": THEN, "planned": false, "from": "host-0000", "to": "host-0001",
        "reason": "the tunnel's connection was closed", "gap_ms": 231, "epoch": format!("1.{n}"), "streams_cut": 3,
        "attempts": attempts, "alerts": [{"kind": "down", "at": THEN}, {"kind": "up", "at": THEN}],
        "timeline": timeline,
    })
}

fn event(n: usize) -> Value {
    let text =
        format!("host-{:04} carries the Secure Gateway, epoch 1.{n}; 231 ms without a tunnel", n % 1000);
    json!({
        "seq": n, "at": THEN, "code": "gateway_up", "severity": "info", "text": text, "sender": "gateway",
    })
}
