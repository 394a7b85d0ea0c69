//! Encrypted peers to compare with: programs that people use today to reach a service through two hops, as installed
//! here, each with two processes and TLS 1.3 (or what it has instead) between them.
//!
//! | peer | the outer hop, where clients come | the inner hop | a connection for each stream? |
//! |---|---|---|---|
//! | stunnel, haproxy | speaks TLS to the inner one | speaks plain to the target | yes |
//! | ssh -R | sshd, asked to listen | ssh, which dialled out as an agent does | no: all in one |
//! | rathole | its server | its client, which dialled out (Noise) | yes, from a pool |
//!
//! Each is set up as its manual says, with TCP_NODELAY and AES-128 where there is a choice. A peer that is not installed
//! is left out and named.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use postern_tests::{Folder, Launch, Process, Stop, port, wait_until};

use crate::ask::Asker;
use crate::usage::family;

const READY_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stunnel,
    Haproxy,
    Ssh,
    Rathole,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Stunnel, Kind::Haproxy, Kind::Ssh, Kind::Rathole];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Stunnel => "stunnel",
            Kind::Haproxy => "haproxy",
            Kind::Ssh => "ssh -R",
            Kind::Rathole => "rathole (Noise)",
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Stunnel => &["stunnel"],
            Kind::Haproxy => &["haproxy"],
            Kind::Ssh => &["ssh", "sshd", "ssh-keygen"],
            Kind::Rathole => &["rathole"],
        }
    }

    fn comes_from(self) -> &'static str {
        match self {
            Kind::Stunnel => "Debian package stunnel4",
            Kind::Haproxy => "Debian package haproxy",
            Kind::Ssh => "Debian packages openssh-client and openssh-server",
            Kind::Rathole => {
                "cargo install rathole --version 0.5.0 --no-default-features --features server,client,noise"
            }
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        self.programs().iter().all(|program| find(program).is_some())
    }
}

/// Who is not here, and where to get it; for the report.
pub(crate) fn absent() -> Vec<String> {
    let missing = Kind::ALL.into_iter().filter(|kind| !kind.is_installed());
    missing.map(|kind| format!("{} ({})", kind.name(), kind.comes_from())).collect()
}

/// The two hops of a peer in front of a target. Dropped, both end.
pub(crate) struct Peer {
    addr: SocketAddr,
    pids: Vec<u32>,
    // The one that dialled first: what its end leaves of the other's children ends with it.
    _inner: Process,
    _outer: Process,
    _folder: Folder,
}

impl Peer {
    /// Ready to carry.
    ///
    /// # Panics
    /// When it is not installed or does not start: the tail of its log says why.
    pub(crate) async fn to(target: SocketAddr, kind: Kind) -> Self {
        let folder = Folder::new("peer");
        let (addr, between) = (port::free(), port::free());
        let (outer, inner) = match kind {
            Kind::Stunnel => stunnel(&folder, addr, between, target),
            Kind::Haproxy => haproxy(&folder, addr, between, target),
            Kind::Ssh => ssh(&folder, addr, between, target).await,
            Kind::Rathole => rathole(&folder, addr, between, target),
        };
        wait_until(&format!("{} carries", kind.name()), READY_WITHIN, async || {
            let mut asker = Asker::connect(addr, 1).await.ok()?;
            asker.ask().await.ok()
        })
        .await;
        let pids = [&outer, &inner].into_iter().flat_map(|hop| family(hop.pid())).collect();
        Self { addr, pids, _inner: inner, _outer: outer, _folder: folder }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }
}

fn stunnel(folder: &Folder, addr: SocketAddr, between: SocketAddr, target: SocketAddr) -> (Process, Process) {
    let pem = certificate(folder);
    let common = "foreground = yes\nsyslog = no\npid =\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
                  sslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n";
    let inner = format!("{common}[hop]\naccept = {between}\nconnect = {target}\ncert = {}\n", pem.display());
    let outer = format!(
        "{common}client = yes\n[hop]\naccept = {addr}\nconnect = {between}\nverifyChain = yes\nCAfile = {}\n",
        pem.display()
    );
    let start = |name: &str, config: &str| {
        let mut command = Command::new(program("stunnel"));
        command.arg(folder.write(&format!("{name}.conf"), config));
        hop(folder, name, command)
    };
    (start("outer", &outer), start("inner", &inner))
}

fn haproxy(folder: &Folder, addr: SocketAddr, between: SocketAddr, target: SocketAddr) -> (Process, Process) {
    let pem = certificate(folder).display().to_string();
    let common = "global\n  maxconn 8000\n\
                  defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n";
    let inner = format!(
        "{common}listen hop\n  bind {between} ssl crt {pem} ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256\n  \
         server target {target}\n"
    );
    let outer = format!(
        "{common}listen hop\n  bind {addr}\n  server inner {between} ssl verify required ca-file {pem}\n"
    );
    let start = |name: &str, config: &str| {
        let mut command = Command::new(program("haproxy"));
        command.arg("-db").arg("-f").arg(folder.write(&format!("{name}.cfg"), config));
        hop(folder, name, command)
    };
    (start("outer", &outer), start("inner", &inner))
}

async fn ssh(
    folder: &Folder,
    addr: SocketAddr,
    between: SocketAddr,
    target: SocketAddr,
) -> (Process, Process) {
    for key in ["host", "client"] {
        let mut keygen = Command::new(program("ssh-keygen"));
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key));
        let made = keygen.output().expect("ssh-keygen starts");
        assert!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
    }
    if rustix::process::geteuid().is_root() {
        // Where sshd drops root's rights; Debian's service makes it at boot. If it cannot be made sshd's log says so.
        let _ = fs::create_dir_all("/run/sshd");
    }
    let config = format!(
        "Port {}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin yes\nAllowTcpForwarding yes\nMaxStartups 100\n",
        between.port(),
        between.ip(),
        folder.join("host").display(),
        folder.join("client.pub").display(),
    );
    let mut server = Command::new(program("sshd"));
    server.args(["-D", "-e", "-f"]).arg(folder.write("sshd.conf", config));
    let outer = hop(folder, "outer", server);
    wait_until("sshd listens", READY_WITHIN, async || tokio::net::TcpStream::connect(between).await.ok())
        .await;

    let mut client = Command::new(program("ssh"));
    client.args(["-N", "-T", "-F", "none", "-c", "aes128-gcm@openssh.com", "-i"]).arg(folder.join("client"));
    for option in [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ExitOnForwardFailure=yes",
        "BatchMode=yes",
        "LogLevel=ERROR",
    ] {
        client.args(["-o", option]);
    }
    client.args(["-p", &between.port().to_string(), "-R", &format!("{addr}:{target}")]);
    client.arg(between.ip().to_string());
    (outer, hop(folder, "inner", client))
}

fn rathole(folder: &Folder, addr: SocketAddr, between: SocketAddr, target: SocketAddr) -> (Process, Process) {
    let program = program("rathole");
    let keys = Command::new(&program).arg("--genkey").output().expect("rathole starts");
    let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
    // "Private Key:", the key in a line of its own, an empty line, and the same for the public one.
    let mut keys = keys.lines().filter(|line| !line.is_empty() && !line.contains(':'));
    let (Some(private), Some(public)) = (keys.next(), keys.next()) else { panic!("rathole made no keys") };
    let server = format!(
        "[server]\nbind_addr = \"{between}\"\ndefault_token = \"bench\"\n[server.transport]\ntype = \"noise\"\n\
         [server.transport.noise]\nlocal_private_key = \"{private}\"\n[server.services.hop]\nbind_addr = \"{addr}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{between}\"\ndefault_token = \"bench\"\n[client.transport]\ntype = \"noise\"\n\
         [client.transport.noise]\nremote_public_key = \"{public}\"\n[client.services.hop]\nlocal_addr = \"{target}\"\n"
    );
    let start = |name: &str, option: &str, config: &str| {
        let mut command = Command::new(&program);
        command.arg(option).arg(folder.write(&format!("{name}.toml"), config)).env("RUST_LOG", "warn");
        hop(folder, name, command)
    };
    (start("outer", "--server", &server), start("inner", "--client", &client))
}

fn hop(folder: &Folder, name: &str, command: Command) -> Process {
    let log = folder.join(&format!("{name}.log"));
    Process::spawn(Launch { name, command, log, stop: Stop::Kill, user: None })
}

/// Certificate and key in one file.
fn certificate(folder: &Folder) -> PathBuf {
    let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate is made");
    folder.write_private("hop.pem", made.cert.pem() + &made.signing_key.serialize_pem())
}

fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} was here a moment ago"))
}

fn find(name: &str) -> Option<PathBuf> {
    // Debian keeps servers' programs in sbin, which is not in every user's search path.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
