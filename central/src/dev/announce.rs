//! What dev tells once everything is up: a text for people, or one line for programs.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use proto::Name;
use serde_json::{Value, json};

use super::agents::Agent;
use crate::destination::DestinationUrl;

/// All there is to tell.
pub(super) struct Announcement<'a> {
    pub(super) json: bool,
    pub(super) admin_url: &'a str,
    pub(super) token: &'a str,
    pub(super) token_file: &'a Path,
    /// Opens the UI as a Cloud Administrator, once, within minutes.
    pub(super) sign_in_url: &'a str,
    pub(super) ca_cert: &'a Path,
    pub(super) data_dir: &'a Path,
    pub(super) is_temporary: bool,
    pub(super) tunnel_listen: SocketAddr,
    pub(super) program: &'a Path,
    pub(super) agents: &'a [Agent],
    pub(super) active: &'a Name,
    pub(super) destinations: Vec<Listening<'a>>,
    pub(super) proof: Option<Proof>,
}

/// A destination and where its clients connect.
pub(super) struct Listening<'a> {
    pub(super) name: &'a Name,
    pub(super) url: &'a DestinationUrl,
    pub(super) listen: SocketAddr,
}

/// The built-in page, fetched through the gateway.
pub(super) struct Proof {
    pub(super) status: u16,
    pub(super) took: Duration,
}

/// Writes it to standard output. Whoever closed that does not want to know, and all goes on.
pub(super) fn announce(announcement: &Announcement<'_>) {
    let text = if announcement.json { format!("{}\n", line(announcement)) } else { text(announcement) };
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The line that programs read; its fields are a promise.
fn line(announcement: &Announcement<'_>) -> Value {
    let agent = |agent: &Agent| json!({ "name": agent.name, "pid": agent.pid, "data_dir": agent.data_dir });
    let destination = |one: &Listening<'_>| json!({ "name": one.name, "listen": one.listen });
    json!({
        "admin_url": announcement.admin_url,
        "token": announcement.token,
        "sign_in_url": announcement.sign_in_url,
        "ca_cert": announcement.ca_cert,
        "data_dir": announcement.data_dir,
        "central_pid": std::process::id(),
        "tunnel_listen": announcement.tunnel_listen,
        "process_servers": announcement.agents.iter().map(agent).collect::<Vec<_>>(),
        "active": announcement.active,
        "destinations": announcement.destinations.iter().map(destination).collect::<Vec<_>>(),
    })
}

fn text(announcement: &Announcement<'_>) -> String {
    let mut text = format!("The Secure Gateway is up: {} carries it.\n\n", announcement.active);
    // Writing to a string does not fail.
    let _ = tell(&mut text, announcement);
    text
}

fn tell(text: &mut String, all: &Announcement<'_>) -> std::fmt::Result {
    writeln!(text, "  central   admin API {}   agents dial {}", all.admin_url, all.tunnel_listen)?;
    for agent in all.agents {
        let role = if agent.name == *all.active { "active" } else { "standby" };
        let log = agent.data_dir.join("agent.log");
        writeln!(
            text,
            "  {:<9} process {:<8} {role:<8} log {}",
            agent.name.as_str(),
            agent.pid,
            log.display()
        )?;
    }
    writeln!(text, "\nDestinations, and how to try them")?;
    for one in &all.destinations {
        writeln!(text, "  {:<9} {} leads to {}", one.name.as_str(), one.listen, one.url)?;
        if let Some(hint) = hint(one) {
            writeln!(text, "  {:<9} {hint}", "")?;
        }
    }
    if let Some(Proof { status, took }) = all.proof {
        let ms = took.as_secs_f64() * 1000.0;
        writeln!(text, "\nFetched the built-in page through the gateway: status {status} in {ms:.1} ms.")?;
    }
    writeln!(
        text,
        "\nLook at it in a browser: you are signed in by this link, which works once within ten minutes"
    )?;
    writeln!(text, "  {}", all.sign_in_url)?;
    writeln!(text, "or in a terminal")?;
    // All three programs lie side by side, and the folder need not be on the PATH.
    let posternctl = all.program.with_file_name(format!("posternctl{}", std::env::consts::EXE_SUFFIX));
    writeln!(
        text,
        "  {} --server {} --token-file {} --ca-cert {} status",
        posternctl.display(),
        all.admin_url,
        all.token_file.display(),
        all.ca_cert.display()
    )?;
    if let Some(active) = all.agents.iter().find(|agent| agent.name == *all.active)
        && all.agents.len() > 1
    {
        writeln!(text, "Kill the active; another agent takes over, usually within a second")?;
        writeln!(text, "  kill -9 {}", active.pid)?;
        let data_dir = active.data_dir.display();
        writeln!(text, "Bring it back as a standby\n  {} run --data-dir {data_dir}", all.program.display())?;
    }
    let fate =
        if all.is_temporary { "is removed at the end" } else { "is kept; starting again in it resumes" };
    writeln!(text, "\nCtrl-C ends everything. {} {fate}.", all.data_dir.display())
}

/// What a user would type.
fn hint(one: &Listening<'_>) -> Option<String> {
    let (listen, path) = (one.listen, one.url.path());
    match one.url.scheme().as_str() {
        "http" => Some(format!("curl http://{listen}{path}")),
        // The certificate names the destination, not this listener.
        "https" => Some(format!(
            "curl --connect-to {}:{}:{listen} https://{}{path}",
            one.url.host(),
            one.url.port(),
            one.url.authority()
        )),
        "postgresql" => Some(format!(
            "jdbc:postgresql://{listen}/DATABASE   or   psql -h {} -p {}",
            listen.ip(),
            listen.port()
        )),
        "mysql" => Some(format!("jdbc:mysql://{listen}/DATABASE")),
        "sqlserver" => Some(format!("jdbc:sqlserver://{listen};databaseName=DATABASE")),
        "oracle" => Some(format!("jdbc:oracle:thin:@//{listen}/SERVICE")),
        "db2" => Some(format!("jdbc:db2://{listen}/DATABASE")),
        "smtp" | "submission" => Some(format!("swaks --server {listen} --to SOMEBODY@EXAMPLE")),
        "ssh" | "sftp" => Some(format!("ssh -p {} USER@{}", listen.port(), listen.ip())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_programs_has_what_was_promised() {
        let (agents, active, url) = (agents(), "agent-1".parse().unwrap(), url("http://127.0.0.1:80"));
        let name = "page".parse().unwrap();
        let announcement = announcement(&agents, &active, &name, &url);
        let line = line(&announcement);
        for field in ["admin_url", "token", "sign_in_url", "ca_cert", "data_dir", "tunnel_listen", "active"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
        assert_eq!(line["central_pid"], std::process::id());
        assert_eq!(
            line["process_servers"][1],
            json!({"name": "agent-2", "pid": 12, "data_dir": "/dev/agent-2"})
        );
        assert_eq!(line["destinations"], json!([{"name": "page", "listen": "127.0.0.1:5000"}]));
    }

    #[test]
    fn people_are_told_how_to_try_it_and_never_the_token() {
        let (agents, active, url) = (agents(), "agent-1".parse().unwrap(), url("postgresql://127.0.0.1"));
        let name = "orders".parse().unwrap();
        let text = text(&announcement(&agents, &active, &name, &url));
        for part in [
            "jdbc:postgresql://127.0.0.1:5000/DATABASE",
            "kill -9 11",
            "agent-2",
            "200 in 1.5 ms",
            "/sign-in/once/secret",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("postern_api_"), "{text}");
    }

    fn announcement<'a>(
        agents: &'a [Agent],
        active: &'a Name,
        name: &'a Name,
        url: &'a DestinationUrl,
    ) -> Announcement<'a> {
        Announcement {
            json: false,
            admin_url: "https://127.0.0.1:7443",
            token: "postern_api_secret",
            token_file: Path::new("/dev/central/admin.token"),
            sign_in_url: "https://127.0.0.1:7443/sign-in/once/secret",
            ca_cert: Path::new("/dev/central/ca.pem"),
            data_dir: Path::new("/dev"),
            is_temporary: true,
            tunnel_listen: ([127, 0, 0, 1], 8443).into(),
            program: Path::new("postern-agent"),
            agents,
            active,
            destinations: vec![Listening { name, url, listen: ([127, 0, 0, 1], 5000).into() }],
            proof: Some(Proof { status: 200, took: Duration::from_micros(1500) }),
        }
    }

    fn agents() -> Vec<Agent> {
        let agent = |number: u32| Agent {
            name: format!("agent-{number}").parse().unwrap(),
            pid: 10 + number,
            data_dir: format!("/dev/agent-{number}").into(),
        };
        vec![agent(1), agent(2)]
    }

    fn url(text: &str) -> DestinationUrl {
        text.parse().unwrap()
    }
}
