//! Wall clocks that are days off, stand still or run ten times too fast (F23), by libfaketime in the real programs: nothing
//! flaps, and whoever must dial with such a clock is told of it. Monotonic clocks are the kernel's own: no clock setting
//! moves them.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Folder, Hosts, holds_for, needs, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(30);
/// Many elections long, and some pings.
const A_WHILE: Duration = Duration::from_secs(8);
const CLOCK_READ_EVERY: Duration = Duration::from_secs(2);

#[tokio::test]
async fn f23_an_active_whose_wall_clock_is_wrong_stays_active() {
    nobody_flaps_while_the_clock_is_wrong_of("alpha").await;
}

#[tokio::test]
async fn f23_a_central_whose_wall_clock_is_wrong_keeps_its_gateway() {
    nobody_flaps_while_the_clock_is_wrong_of("central").await;
}

async fn nobody_flaps_while_the_clock_is_wrong_of(whose: &str) {
    let mirror = Mirror::start().await;
    let clock = WallClock::right();
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    hosts.start_through(whose, &clock.through());
    if whose == "central" {
        hosts.stop_central();
        hosts.start_central().await;
    } else {
        hosts.stop(whose);
        hosts.until_active("beta").await;
        hosts.start(whose);
    }
    wait_until("everybody is back", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    if hosts.gateway().await.active.as_deref() != Some("alpha") {
        hosts.posternctl(&["gateway", "switch", "--to", "alpha"]);
    }
    let before = hosts.until_active("alpha").await.fence();
    let (mut stream, _) = mirror.look_into(listen, SOON).await.expect("the gateway is up");

    // An offset, a standing clock, a pace; libfaketime keeps a pace until it is told another.
    for wrong in ["+3d", "-3d", "+1h", "-1h", "2026-06-01 12:00:00", "+0 x10", "+0 x1"] {
        clock.shows(wrong);
        holds_for(A_WHILE, async || {
            let now = hosts.gateway().await;
            assert_eq!((now.state.as_str(), now.fence()), ("up", before), "with a clock that shows {wrong}");
            assert!(mirror.look_into(listen, SOON).await.is_some(), "with a clock that shows {wrong}");
        })
        .await;
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        println!("figure F23 {whose} shows {wrong}: the same active, epoch and stream for {A_WHILE:?}");
    }

    // An hour off, and the active dies: who is left decides without a look at the wall.
    clock.shows("+1h");
    holds_for(CLOCK_READ_EVERY, async || assert_eq!(hosts.gateway().await.fence(), before)).await;
    hosts.kill("alpha");
    let after = hosts.until_active("beta").await.fence();
    assert!(after > before);
    clock.shows("+0");
    hosts.start("alpha");
    wait_until("everybody is back", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

/// A wall clock that a test sets while a program looks at it.
struct WallClock {
    file: PathBuf,
    _folder: Folder,
}

impl WallClock {
    fn right() -> Self {
        let folder = Folder::new("clock");
        let file = folder.write("faketime", "+0");
        Self { file, _folder: folder }
    }

    /// As libfaketime writes it: an offset, a moment at which it stands, or a pace.
    fn shows(&self, what: &str) {
        fs::write(&self.file, what).unwrap();
    }

    /// What a program has to be started through to look at it.
    fn through(&self) -> [String; 5] {
        needs::command("faketime", "faketime");
        let library = ["x86_64", "aarch64"]
            .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"))
            .into_iter()
            .find(|path| fs::exists(path).is_ok_and(|there| there))
            .expect("libfaketime, which tests/setup installs");
        [
            "env".into(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            // Read once a second.
            "FAKETIME_CACHE_DURATION=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        ]
    }
}
