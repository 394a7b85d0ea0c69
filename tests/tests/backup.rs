//! Central's whole state is taken with one command and comes back in a new directory, above its past.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_tests::servers::{Mirror, Receiver};
use postern_tests::{Attempt, Folder, Hosts, program, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const SETTINGS: &str = "[alerts]\nallow_destinations = [\"127.0.0.0/8\"]\n";
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PASSPHRASE: &str = "four words in a row";

#[tokio::test]
async fn a_central_restored_from_a_backup_serves_the_same_agents_in_a_higher_epoch_than_any_before() {
    let (mirror, receiver) = (Mirror::start().await, Receiver::start().await);
    let mut hosts = Hosts::up(&["alpha", "beta"], SETTINGS).await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let endpoints = json!([{"name": "hook", "url": receiver.url(), "secret": KEY}]);
    hosts.api().put("/alerts", json!({"endpoints": endpoints})).await;
    let sealed = Sealed::taken_of(&hosts).await;

    // What the backup does not know: the other one became active, under a higher epoch.
    hosts.api().post("/gateway/switch", json!({"to": "beta"})).await;
    hosts.until_active("beta").await;
    let highest = hosts.gateway().await.fence();

    hosts.stop_central();
    let data_dir = hosts.data_dir("central");
    fs::rename(&data_dir, data_dir.with_file_name("central-before")).expect("the old state can be put aside");
    sealed.restored_into(&data_dir).await;
    hosts.start_central().await;

    let up = hosts.until("the gateway is up again", |gateway| gateway.state == "up").await;
    assert!(up.fence().0 > highest.0, "{:?} after {highest:?}: no epoch of before is as high", up.fence());
    for name in ["alpha", "beta"] {
        hosts.until_connected(name).await;
    }
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    wait_until("the destination answers", SOON, async || mirror.look_into(listen, SOON).await).await;
    let active = up.active.clone().expect("a gateway that is up has an active");
    let other = if active == "alpha" { "beta" } else { "alpha" };
    hosts.kill(&active);
    assert!(hosts.until_active(other).await.fence() > up.fence(), "and it fails over");

    hosts.api().post("/alerts/test", json!({})).await;
    assert!(receiver.heard()[0].is_signed_with(KEY).await, "sealed secrets came with their key");
    let verified = Attempt::at(hosts.posternctl_command(&["audit", "--verify"])).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[tokio::test]
async fn what_is_no_whole_backup_or_no_new_place_restores_nothing() {
    let hosts = Hosts::central(SETTINGS).await;
    let sealed = Sealed::taken_of(&hosts).await;
    let (place, other) =
        (sealed.folder.join("new"), sealed.folder.write_private("other", "another passphrase"));
    let backup = sealed.path();

    let restore = |file: &Path, passphrase: &Path, place: &Path, confirm: &Path| {
        let mut command = posternctl(&["backup", "restore"]);
        command.arg(file).arg("--passphrase-file").arg(passphrase).arg("--data-dir").arg(place);
        command.arg("--confirm").arg(confirm);
        Attempt::at(command)
    };
    restore(&backup, &other, &place, &place).await.failed(1, &["the passphrase is another one"]);
    restore(&backup, &sealed.passphrase, &place, &other).await.failed(2, &["nothing was restored"]);
    let taken = hosts.data_dir("central");
    restore(&backup, &sealed.passphrase, &taken, &taken)
        .await
        .failed(1, &["not empty", "new data directory"]);
    let whole = fs::read(&backup).expect("it was written");
    let (cut, changed) = (sealed.folder.join("cut"), sealed.folder.join("changed"));
    fs::write(&cut, &whole[..whole.len() - 1]).expect("a copy can be written");
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&changed, bytes).expect("a copy can be written");
    for damaged in [&cut, &changed] {
        let attempt = restore(damaged, &sealed.passphrase, &place, &place).await;
        assert_eq!(attempt.code, Some(1), "{attempt:?}");
    }
    assert!(!place.exists(), "nothing was left behind");
    let left = fs::read_dir(sealed.folder.join(".")).expect("it can be listed");
    let left: Vec<_> = left.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".restoring")), "{left:?}");

    for secret in ["BEGIN", "postern-secrets-key"] {
        assert!(!whole.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret}");
    }
    // No administrator's token will do, whatever the role.
    let mut command = hosts.posternctl_command(&["backup", "create"]);
    command.arg("--out").arg(sealed.folder.join("stolen")).arg("--passphrase-file").arg(&sealed.passphrase);
    Attempt::at(command).await.failed(1, &["operator.token"]);
}

/// A backup and what opens it.
struct Sealed {
    folder: Folder,
    passphrase: std::path::PathBuf,
}

impl Sealed {
    async fn taken_of(hosts: &Hosts) -> Self {
        let folder = Folder::new("backup");
        let passphrase = folder.write_private("passphrase", PASSPHRASE);
        let sealed = Self { folder, passphrase };
        let mut command = hosts.operators_posternctl(&["backup", "create"]);
        command.arg("--out").arg(sealed.path()).arg("--passphrase-file").arg(&sealed.passphrase);
        done(command).await;
        let mut command = posternctl(&["-o", "json", "backup", "verify"]);
        command.arg(sealed.path()).arg("--passphrase-file").arg(&sealed.passphrase);
        let said: serde_json::Value = serde_json::from_str(&done(command).await.stdout).expect("it is JSON");
        assert_eq!(said["files"], 5, "{said}");
        assert!(said["records"].as_u64() > Some(0), "{said}");
        sealed
    }

    async fn restored_into(&self, data_dir: &Path) {
        let mut command = posternctl(&["backup", "restore"]);
        command.arg(self.path()).arg("--passphrase-file").arg(&self.passphrase);
        command.arg("--data-dir").arg(data_dir).arg("--confirm").arg(data_dir);
        done(command).await;
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.join("postern.backup")
    }
}

async fn done(command: Command) -> Attempt {
    let attempt = Attempt::at(command).await;
    assert_eq!(attempt.code, Some(0), "{attempt:?}");
    attempt
}

fn posternctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("posternctl"));
    command.args(arguments);
    command
}
