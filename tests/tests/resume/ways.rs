//! Each way to lose a websocket, one after the other under the same streams.

use std::time::Duration;

use postern_tests::{Connection, Partner, Site, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::crowd::{Crowd, Manner};
use super::{QUICK, SOON, site, tunnel, until_another_tunnel};

/// Shorter than `dead_after`, long enough that everything stands still.
const A_PAUSE: Duration = Duration::from_millis(1500);
/// Longer than `dead_after`, shorter than the resume window.
const AN_OUTAGE: Duration = Duration::from_secs(4);

/// What a network does to a connection, and how.
type Way = (&'static str, fn(&Connection));

#[tokio::test]
async fn streams_go_on_whatever_ends_the_websocket() {
    let partner = Partner::start().await;
    let site = site(&["alpha"], QUICK, partner.addr()).await;
    let before = site.api().gateway().await;
    let mut crowd = Crowd::gather(12, Manner::Calm, 1, site.listen());
    crowd.goes_on().await;

    let ways: [Way; 5] = [
        ("an RST", Connection::cut),
        ("a FIN, as from a proxy whose time is up", Connection::close),
        ("silence, as from a router that forgot", Connection::freeze),
        ("silence from the agent alone", Connection::freeze_up),
        ("silence from central alone", Connection::freeze_down),
    ];
    for (way, end) in ways {
        let lost = tunnel(&site, "alpha");
        end(&lost);
        until_another_tunnel(&site, "alpha", &lost).await;
        crowd.goes_on().await;
        assert_eq!(site.api().gateway().await, before, "after {way}");
    }

    // A pause too short to be noticed costs nothing but time.
    let paused = tunnel(&site, "alpha");
    paused.freeze();
    holds_for(A_PAUSE, async || crowd.no_faults()).await;
    paused.thaw();
    crowd.goes_on().await;
    assert!(tunnel(&site, "alpha").is(&paused), "the websocket was given up within dead_after");

    // The agent's network is gone for a while, its control websocket too.
    network_gone(&site, &mut crowd).await;
    crowd.goes_on().await;
    assert_eq!(site.api().gateway().await, before);

    let held = crowd.disperse(&partner).await;
    println!("{held} conversations of {} bytes in all", partner.bytes());
}

async fn network_gone(site: &Site, crowd: &mut Crowd) {
    let link = site.link("alpha");
    link.refuse_new(true);
    let lost = link.connections();
    lost.iter().for_each(Connection::freeze);
    holds_for(AN_OUTAGE, async || crowd.no_faults()).await;
    lost.iter().for_each(Connection::cut);
    link.refuse_new(false);
    site.central().until_connected("alpha", SOON).await;
    wait_until("the gateway is up", SOON, async || (site.api().gateway().await.state == "up").then_some(()))
        .await;
}

#[tokio::test]
async fn a_half_closed_stream_stays_half_closed_over_a_cut() {
    let destination = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = site(&["alpha"], QUICK, destination.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(site.listen()).await.unwrap();
    client.write_all(b"a question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = destination.accept().await.unwrap();
    let mut asked = Vec::new();
    server.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"a question");
    let mut other = TcpStream::connect(site.listen()).await.unwrap();
    other.write_all(b"?").await.unwrap();
    let (mut other_server, _) = destination.accept().await.unwrap();
    other_server.write_all(b"an announcement").await.unwrap();
    other_server.shutdown().await.unwrap();
    let mut told = Vec::new();
    other.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, b"an announcement");

    let mut answer = Vec::new();
    for round in 0..3 {
        let lost = tunnel(&site, "alpha");
        server.write_all(&[round; 1000]).await.unwrap();
        lost.cut();
        server.write_all(&[round; 1000]).await.unwrap();
        other.write_all(&[round; 500]).await.unwrap();
        answer.extend([round; 2000]);
        until_another_tunnel(&site, "alpha", &lost).await;
        // What is open stays open: half an end is not the end.
        let mut piece = vec![0; 2000];
        client.read_exact(&mut piece).await.unwrap();
        assert_eq!(piece, [round; 2000]);
        let mut piece = vec![0; 500 + usize::from(round == 0)];
        other_server.read_exact(&mut piece).await.unwrap();
        assert!(piece.ends_with(&[round; 500]));
    }
    let lost = tunnel(&site, "alpha");
    lost.cut();
    server.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the answer has a proper end");
    assert_eq!(other_server.read(&mut [0]).await.unwrap(), 0, "so has what was said to the announcer");
}
