//! A snapshot for people: one fact a line, the important ones first.

use std::fmt::Write;

use proto::control::RoleName;

use super::Snapshot;

pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label:<12} {value}");
    };
    let Snapshot { tunnel, central, .. } = snapshot;
    line(
        "Agent",
        format!(
            "{} in environment {} (pid {}, version {})",
            snapshot.name, snapshot.environment, snapshot.pid, snapshot.version
        ),
    );
    line("Role", role(snapshot));
    let connected = if central.connected { "connected" } else { "NOT connected" };
    let proxy =
        central.proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    line("Central", format!("{connected} to {}{proxy} since {}", central.url, central.since));
    if let Some(error) = &central.last_error {
        line("Last error", error.clone());
    }
    line(
        "Tunnel",
        if tunnel.up {
            let round_trip =
                tunnel.round_trip_ms.map_or_else(String::new, |ms| format!(", round trip {ms:.1} ms"));
            let lanes = if tunnel.lanes > 1 { format!(" on {} lanes", tunnel.lanes) } else { String::new() };
            format!(
                "up, {} streams{lanes}, {} bytes in, {} bytes out{round_trip}",
                tunnel.streams, tunnel.bytes_in, tunnel.bytes_out
            )
        } else {
            "none".to_owned()
        },
    );
    line(
        "Group",
        match (snapshot.seat, snapshot.leader) {
            (None, _) => "no seat".to_owned(),
            (Some(seat), None) => format!("node {} of group {}, no leader known", seat.node, seat.group),
            (Some(seat), Some(leader)) => {
                format!("node {} of group {}, led by node {leader}", seat.node, seat.group)
            }
        },
    );
    if let Some(raft) = &snapshot.raft {
        let slowest =
            raft.worst_round_trip_ms.map_or_else(String::new, |ms| format!(", slowest path {ms:.1} ms"));
        line("Raft", format!("{}{slowest}", raft.timings));
    }
    line("Certificate", format!("expires {}", snapshot.certificate.expires));
    let list = &snapshot.allow_list;
    let place = list.path.as_ref().map_or("agent.toml".to_owned(), |path| path.display().to_string());
    line(
        "Allow-list",
        match list.entries {
            0 => format!("empty: every destination is refused ({place})"),
            entries => format!("{entries} entries ({place})"),
        },
    );
    line("Key", format!("fingerprint {}", snapshot.fingerprint));
    line("Started", format!("{} (boot {})", snapshot.started, snapshot.boot));
    text
}

fn role(snapshot: &Snapshot) -> String {
    let role = match snapshot.role {
        RoleName::Unseated => "not a Secure Gateway Candidate",
        RoleName::Standby => "standby",
        RoleName::Claiming => "claiming to become active",
        RoleName::Active => "active",
        RoleName::Draining => "draining: another agent took over",
    };
    match snapshot.epoch {
        Some(epoch) => format!("{role}, epoch {epoch}"),
        None => role.to_owned(),
    }
}
