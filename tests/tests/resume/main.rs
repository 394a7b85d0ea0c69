//! The tunnel's websocket is cut in every way a network knows, under real programs: the same active
//! comes back, and every stream in it goes on where it was; or it ends, and then as what it is.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `RESUME_CUTS` | 100 | cuts at random offsets |
//! | `RESUME_PEOPLE` | 20 | how many streams there are meanwhile |
//! | `RESUME_GB` | 0 | how many gigabytes those carry at least; from 1 on most of them do not pause |
//! | `RESUME_SEED` | by the clock | their seed, which is printed |
//! | `RESUME_STRIDE` | 37 | of one short exchange, each so-manieth offset is cut; 1 is every one |
//! | `RESUME_DRIVERS` | unset | 1: all tests of two database drivers, and not only the named ones |
//! | `RESUME_SOAK_SECONDS` | 15 | how long JDBC's connections are kept under cuts |
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

mod clients;
mod crowd;
mod drivers;
mod ends;
mod lanes;
mod offsets;
mod ways;

use std::time::Duration;

use postern_tests::{Central, Connection, Site, wait_until};

/// Beyond every silence that has to be noticed first, on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// Silence is noticed soon, and streams may wait long for their tunnel. Continues the `[tunnel]` section.
const QUICK: &str = "ping_interval = \"1s\"\ndead_after = \"3s\"\nresume_window = \"60s\"\n";

/// A gateway of these agents, the first one active, with a central of these settings.
async fn site(names: &[&str], settings: &str, destination: std::net::SocketAddr) -> Site {
    let central = Central::start_with(&["default"], settings).await;
    let site = Site::start_in(central, names, destination, &[]).await;
    assert_eq!(site.api().gateway().await.active.as_deref(), Some(names[0]));
    site
}

/// The tunnel among an agent's two connections: it was dialled last.
fn tunnel(site: &Site, agent: &str) -> Connection {
    site.link(agent).connections().pop().expect("the agent is connected")
}

/// Waits until the agent has a tunnel that is another than `before`.
async fn until_another_tunnel(site: &Site, agent: &str, before: &Connection) -> Connection {
    wait_until("the tunnel is dialled again", SOON, async || {
        site.link(agent).connections().pop().filter(|one| !one.is(before) && one.down_bytes() > 0)
    })
    .await
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}
