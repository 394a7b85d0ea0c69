//! A second agent of the same identity: the first one is not disturbed.

use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Attempt, Site, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Many elections long, and several of the copy's attempts.
const A_WHILE: Duration = Duration::from_secs(6);
const LOOK_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_copy_of_the_active_s_data_directory_is_refused_and_the_active_goes_on() {
    let mirror = Mirror::start().await;
    let site = Site::start(&["alpha", "beta"], mirror.addr()).await;
    let before = site.api().gateway().await;
    let active = before.active.clone().expect("a gateway that is up has an active");
    let (mut stream, _) = mirror.look_into(site.listen(), LOOK_WITHIN).await.expect("the gateway is up");
    let connections = site.link(&active).connections();

    let copy = site.host(&active).cloned();
    let running = copy.start();
    wait_until("the copy is told that it is one", REFUSED_WITHIN, async || {
        running.log_tail().contains("this is a copy of its data directory").then_some(())
    })
    .await;

    holds_for(A_WHILE, async || {
        echo(&mut stream).await;
        assert_eq!(site.api().gateway().await, before);
        assert!(site.api().process_server(&active).await.connected);
        assert!(connections.iter().all(|one| one.is_open()), "{active} lost a connection to its copy");
    })
    .await;
}

#[tokio::test]
async fn a_second_agent_in_the_same_data_directory_does_not_start() {
    let mirror = Mirror::start().await;
    let site = Site::start(&["alpha"], mirror.addr()).await;

    let second = Attempt::at(site.host("alpha").run_command()).await;
    second.failed(1, &["is in use by process", "--data-dir"]);
    assert!(mirror.look_into(site.listen(), LOOK_WITHIN).await.is_some());
}

async fn echo(stream: &mut TcpStream) {
    let mut back = [0; 4];
    stream.write_all(b"ping").await.expect("the stream lives");
    stream.read_exact(&mut back).await.expect("the stream lives");
    assert_eq!(&back, b"ping");
}
