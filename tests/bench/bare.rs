//! A tunnel with nothing around it: central's end and the agent's, each a process, as two more hops of a relay.
//!
//! No fence, Raft, store, allow-list or listener of the product; the mux, its driver and the websocket are its own.
//! What the gateway costs beyond this is what stands around it; and a change to the data plane can be measured
//! without building the programs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use proto::driver::{
    Open, ResetCode, Role, Side, Transport, Tunnel, TunnelConfig, WebSocket, prepare_tunnel_socket, relay,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::relay::name;

/// Prints where clients come and where the agent's end does (at `listen`), and takes one agent.
pub(crate) async fn central(acceptor: TlsAcceptor, listen: IpAddr) -> io::Result<()> {
    let clients = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let tunnels = TcpListener::bind((listen, 0)).await?;
    println!("{}\n{}", clients.local_addr()?, tunnels.local_addr()?);
    let (socket, _) = tunnels.accept().await?;
    prepare_tunnel_socket(&socket)?;
    let (tunnel, _incoming) = Tunnel::new(TunnelConfig::new(Side::Central));
    let socket = acceptor.accept(socket).await?;
    let lane = tunnel.clone();
    let lane = tokio::spawn(async move { lane.run(WebSocket::new(socket, Role::Server)).await });
    tokio::select! {
        ended = lane => Err(io::Error::other(format!("the tunnel ended: {ended:?}"))),
        error = serve(clients, tunnel) => Err(error),
    }
}

async fn serve(clients: TcpListener, tunnel: Tunnel) -> io::Error {
    let mut running = JoinSet::new();
    loop {
        let client = match clients.accept().await {
            Ok((client, _)) => client,
            Err(error) => return error,
        };
        while running.try_join_next().is_some() {}
        let Ok(open) = Open::new(Transport::Tcp, "bench", "", 1, [0; 16]) else { continue };
        let nodelay = client.set_nodelay(true);
        // A connection that breaks is reported by the bench's client, whose connection breaks with it.
        if let (Ok(()), Ok(stream)) = (nodelay, tunnel.open(open, Bytes::new())) {
            running.spawn(relay(client, stream));
        }
    }
}

/// Dials central's end at `tunnel`, and `target` for each of its streams. Prints an address, as every hop does.
pub(crate) async fn agent(connector: TlsConnector, tunnel: SocketAddr, target: SocketAddr) -> io::Result<()> {
    let socket = TcpStream::connect(tunnel).await?;
    prepare_tunnel_socket(&socket)?;
    let socket = connector.connect(name(), socket).await?;
    println!("{tunnel}");
    let (tunnel, mut incoming) = Tunnel::new(TunnelConfig::new(Side::Agent));
    let streams = async move {
        let mut running = JoinSet::new();
        while let Some(stream) = incoming.next().await {
            while running.try_join_next().is_some() {}
            running.spawn(async move {
                let dialled = async {
                    let socket = TcpStream::connect(target).await?;
                    socket.set_nodelay(true)?;
                    io::Result::Ok(socket)
                };
                match dialled.await {
                    Ok(socket) => drop(relay(socket, stream.accept()).await),
                    Err(error) => stream.refuse(ResetCode::UNREACHABLE, &error.to_string()),
                }
            });
        }
    };
    // A task of its own, as in the product: the thread that waits here hears of sockets only through another one.
    let lane = tokio::spawn(async move { tunnel.run(WebSocket::new(socket, Role::Client)).await });
    tokio::select! {
        end = lane => Err(io::Error::other(format!("the tunnel ended: {end:?}"))),
        () = streams => Ok(()),
    }
}
