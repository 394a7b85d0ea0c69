//! Where a stream cannot go on, both its ends learn that it broke: an RST, never a FIN.

use std::io;
use std::time::Duration;

use postern_tests::{Connection, Partner, Site, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{SOON, site, tunnel};

/// Streams wait two seconds for their tunnel.
const SHORT_WINDOW: &str = "ping_interval = \"500ms\"\ndead_after = \"2s\"\nresume_window = \"2s\"\n";
/// A standby takes over before that window is over.
const TAKE_OVER_FIRST: &str = "ping_interval = \"1s\"\ndead_after = \"3s\"\nresume_window = \"10s\"\n\
                               \n[agent]\ngive_way_after = \"2s\"\n";
/// The resume window, and as long again for a busy machine; a client must not wait for a retry's turn.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn streams_whose_tunnel_comes_back_too_late_end_with_a_reset_at_both_ends() {
    let destination = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = site(&["alpha"], SHORT_WINDOW, destination.local_addr().unwrap()).await;
    let before = site.api().gateway().await;
    let streams = Streams::open(&site, &destination).await;

    // Every new connection vanishes on the way: nobody is told that it is hopeless.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.link("alpha").lead_to(nowhere.local_addr().unwrap());
    tunnel(&site, "alpha").cut();
    streams.end_with_resets(ENDS_WITHIN).await;

    site.link("alpha").lead_to(site.central().tunnel());
    drop(nowhere);
    let mut client = TcpStream::connect(site.listen()).await.unwrap();
    client.write_all(b"again").await.unwrap();
    let (mut server, _) = timeout(SOON, destination.accept()).await.expect("the tunnel comes back").unwrap();
    let mut said = [0; 5];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"again");
    assert_eq!(site.api().gateway().await, before);
}

#[tokio::test]
async fn streams_of_an_active_that_a_standby_replaced_end_with_a_reset_at_both_ends() {
    let destination = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = site(&["alpha", "beta"], TAKE_OVER_FIRST, destination.local_addr().unwrap()).await;
    let before = site.api().gateway().await;
    let streams = Streams::open(&site, &destination).await;

    // Alpha still sees beta, and nobody sees that alpha lives but beta.
    let link = site.link("alpha");
    link.refuse_new(true);
    link.connections().iter().for_each(Connection::freeze);
    wait_until("beta is active", SOON, async || {
        let gateway = site.api().gateway().await;
        (gateway.active.as_deref() == Some("beta") && gateway.epoch > before.epoch).then_some(())
    })
    .await;
    // The clients at once; the destinations at the latest with the resume window, for an agent that
    // nobody can tell does not know whether it may still drain.
    streams.end_with_resets(SOON).await;

    link.cut_all();
    link.refuse_new(false);
    site.central().until_connected("alpha", SOON).await;
    assert_eq!(site.api().gateway().await.active.as_deref(), Some("beta"));
}

#[tokio::test]
async fn a_central_that_was_stopped_in_the_midst_of_conversations_leaves_no_proper_end() {
    let partner = Partner::start().await;
    let site = site(&["alpha"], SHORT_WINDOW, partner.addr()).await;
    let talk = postern_tests::Conversation {
        seed: 5,
        up_bytes: 64 << 20,
        down_bytes: 64 << 20,
        pause: Duration::from_millis(1),
        turns: 0,
    };
    let listen = site.listen();
    let talking = tokio::spawn(async move { talk.hold(listen).await });
    wait_until("the conversation is under way", SOON, async || {
        (tunnel(&site, "alpha").bytes() > 1 << 20).then_some(())
    })
    .await;

    site.central().stop();
    let end = timeout(SOON, talking).await.expect("the client does not hang").unwrap();
    assert!(
        matches!(&end, Err(postern_tests::Fault::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset),
        "{end:?}"
    );
    wait_until("the destination learns of it", SOON, async || partner.faults().pop()).await;
    assert!(partner.faults().iter().all(|fault| fault.starts_with("Io(")), "{:?}", partner.faults());
}

/// Three streams, each both ends: whole, half-closed by the client, half-closed by the destination.
struct Streams {
    whole: (TcpStream, TcpStream),
    asked: (TcpStream, TcpStream),
    announced: (TcpStream, TcpStream),
}

impl Streams {
    async fn open(site: &Site, destination: &TcpListener) -> Self {
        let whole = pair(site, destination).await;
        let mut asked = pair(site, destination).await;
        asked.0.shutdown().await.unwrap();
        assert_eq!(asked.1.read(&mut [0]).await.unwrap(), 0);
        let mut announced = pair(site, destination).await;
        announced.1.shutdown().await.unwrap();
        assert_eq!(announced.0.read(&mut [0]).await.unwrap(), 0);
        Self { whole, asked, announced }
    }

    /// Each end that may still expect something gets an error, and no end.
    async fn end_with_resets(self, limit: Duration) {
        let Self { mut whole, mut asked, mut announced } = self;
        let waits = [
            ("the client", &mut whole.0),
            ("the destination", &mut whole.1),
            ("the client that waits for its answer", &mut asked.0),
            ("the destination that waits for more", &mut announced.1),
        ];
        for (who, stream) in waits {
            let end = timeout(limit, stream.read(&mut [0])).await;
            let end = end.unwrap_or_else(|_| panic!("{who} was left hanging"));
            assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset), "{who}");
        }
        // These two have had their proper end in one direction; the other one breaks.
        for (who, stream) in [("the one who answers", &asked.1), ("the one who is told", &announced.0)] {
            wait_until(&format!("{who} learns that nobody listens"), limit, async || {
                stream.take_error().expect("a socket can be asked")
            })
            .await;
        }
    }
}

async fn pair(site: &Site, destination: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(site.listen()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (mut server, _) = destination.accept().await.unwrap();
    let mut said = [0; 5];
    server.read_exact(&mut said).await.unwrap();
    (client, server)
}
