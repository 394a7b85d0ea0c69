use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

#[tokio::test(start_paused = true)]
async fn bytes_cross_in_both_directions_and_each_half_ends_by_itself() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("jdbc-orders"), Bytes::from_static(b"hello")).unwrap();
    let mut far = pair.accept().await;
    near.opened().await.unwrap();

    near.write_all(b", world").await.unwrap();
    near.shutdown().await.unwrap();
    let mut request = String::new();
    far.read_to_string(&mut request).await.unwrap();
    assert_eq!(request, "hello, world");

    far.write_all(b"bye").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");

    drop((near, far));
    assert_eq!(pair.central.stats().streams, 0);
    assert_eq!(pair.agent.stats().streams, 0);
}

// ---- the stage ----

/// Two ends of a tunnel, each on a task, over a pipe in memory.
struct Pair {
    central: Tunnel,
    agent: Tunnel,
    agent_incoming: Incoming,
    lanes: Option<(JoinHandle<LaneEnd>, JoinHandle<LaneEnd>)>,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(|_| {})
    }

    fn with(change: impl Fn(&mut TunnelConfig)) -> Pair {
        let clock = Arc::new(TokioClock::start());
        let config = |side| {
            let mut config = TunnelConfig { clock: clock.clone(), ..TunnelConfig::new(side) };
            change(&mut config);
            config
        };
        let (central, _) = Tunnel::new(config(Side::Central));
        let (agent, agent_incoming) = Tunnel::new(config(Side::Agent));
        Pair { central, agent, agent_incoming, lanes: None }
    }

    async fn connected() -> Pair {
        let mut pair = Pair::new();
        pair.connect().await;
        pair
    }

    async fn connect(&mut self) {
        let (a, b) = duplex(64 * 1024);
        let near = tokio::spawn(run(self.central.clone(), a, Role::Server));
        let far = tokio::spawn(run(self.agent.clone(), b, Role::Client));
        self.lanes = Some((near, far));
    }

    async fn accept(&mut self) -> TunnelStream {
        self.agent_incoming.next().await.unwrap().accept()
    }
}

async fn run(tunnel: Tunnel, pipe: DuplexStream, role: Role) -> LaneEnd {
    let websocket = WebSocketStream::from_raw_socket(pipe, role, Some(websocket_config())).await;
    tunnel.run(websocket).await
}

fn to(destination: &str) -> Open {
    Open::new(Transport::Tcp, destination, "10.0.0.7", 1521, [0; 16]).unwrap()
}
