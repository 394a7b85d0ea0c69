//! Settings that cannot be used: nothing is started.

use std::net::TcpListener;
use std::process::Command;

use postern_tests::{Attempt, Central, Folder, Host, port, program};

#[tokio::test]
async fn an_unknown_key_in_centrals_settings_is_named_with_its_place() {
    let folder = Folder::new("settings");
    let config = folder.write("central.toml", "[tunnel]\ndead_after = \"15s\"\nping_intervall = \"5s\"\n");
    let place = format!("{}:3:1", config.display());

    let mut check = Command::new(program("postern-central"));
    check.args(["config", "check", "--config"]).arg(&config);
    Attempt::at(check).await.failed(2, &[&place, "ping_intervall", "ping_interval"]);

    let mut serve = Command::new(program("postern-central"));
    serve.args(["serve", "--config"]).arg(&config);
    Attempt::at(serve).await.failed(2, &[&place, "ping_intervall"]);
}

#[tokio::test]
async fn an_unknown_key_in_an_agents_settings_is_named_with_its_place() {
    let folder = Folder::new("settings");
    let config =
        folder.write("agent.toml", "[peers]\nlisten = \"127.0.0.1:0\"\n\n[dail]\ntimeout = \"1s\"\n");
    let place = format!("{}:4:2", config.display());

    for subcommand in [&["config", "check"][..], &["run"]] {
        let mut command = Command::new(program("postern-agent"));
        command.args(subcommand).arg("--config").arg(&config).arg("--data-dir").arg(folder.join("data"));
        Attempt::at(command).await.failed(2, &[&place, "dail", "dial"]);
    }
    assert!(!folder.join("data").exists(), "an agent that did not start left something behind");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_setting_that_wants_it() {
    let occupant = TcpListener::bind(port::free()).unwrap();
    let taken = occupant.local_addr().unwrap();
    let folder = Folder::new("settings");
    let data_dir = folder.join("data");

    for (setting, admin, tunnel) in
        [("admin.listen", taken, port::free()), ("tunnel.listen", port::free(), taken)]
    {
        let config = folder.write("central.toml", Central::config(&data_dir, admin, tunnel));
        let mut serve = Command::new(program("postern-central"));
        serve.args(["serve", "--config"]).arg(config);
        Attempt::at(serve).await.failed(1, &[&taken.to_string(), setting, "in use"]);
    }
}

#[tokio::test]
async fn an_agent_whose_peer_port_is_in_use_names_it_too() {
    let central = Central::start().await;
    let host = Host::enrolled("alpha", &[], &central, central.tunnel()).await;
    let _taken = TcpListener::bind(host.peers()).unwrap();

    let attempt = Attempt::at(host.run_command()).await;
    attempt.failed(1, &[&host.peers().to_string(), "peers.listen"]);
}
