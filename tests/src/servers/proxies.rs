//! The proxies through which a company lets its hosts out: Squid and tinyproxy, asking for a password.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::process::Command;

use tokio::net::TcpStream;

use super::{START_WITHIN, gid, uid};
use crate::process::Launch;
use crate::{Folder, Process, Stop, needs, port};

const USER: &str = "app";
/// Guards nothing: the proxies listen on loopback for as long as the test runs.
const PASSWORD: &str = "only-for-this-test";
/// The same as `openssl passwd -5 -salt postern` writes it.
const HASHED: &str = "$5$postern$gCoubkZOq5fpTiQNUaRwnZxSKr3Yvuu/4UTsbG.dBb5";
/// The user that Squid becomes, which Debian has on every machine.
const SYSTEM_USER: &str = "proxy";

/// A running Squid.
pub struct Squid(Running);

/// A running tinyproxy.
pub struct Tinyproxy(Running);

struct Running {
    addr: SocketAddr,
    _process: Process,
    // Last, so that it outlives the server that writes into it.
    _folder: Folder,
}

impl Squid {
    /// One that wants Basic, and lets CONNECT through to `name` alone, which it alone knows: it is this machine.
    pub async fn wanting_basic(name: &str) -> Self {
        let helper = needs::file("/usr/lib/squid/basic_ncsa_auth", "squid");
        let folder = Folder::new("squid");
        let users = folder.write("users", format!("{USER}:{HASHED}\n"));
        let auth = format!(
            "auth_param basic program {} {}\nauth_param basic children 1\nauth_param basic realm the way out\n\
             acl there dstdomain {name}\nhttp_access deny !there\n",
            helper.display(),
            users.display()
        );
        Self(start_squid(folder, name, &auth).await)
    }

    /// One that offers NTLM and nothing else.
    pub async fn wanting_ntlm() -> Self {
        let helper = needs::file("/usr/lib/squid/ntlm_fake_auth", "squid");
        let auth = format!("auth_param ntlm program {}\nauth_param ntlm children 1\n", helper.display());
        Self(start_squid(Folder::new("squid"), "localhost", &auth).await)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The one line that it lets through.
    pub fn credentials() -> String {
        format!("{USER}:{PASSWORD}")
    }
}

impl Tinyproxy {
    /// One that wants Basic.
    pub async fn wanting_basic() -> Self {
        let program = needs::command("tinyproxy", "tinyproxy");
        let folder = Folder::new("tinyproxy");
        let addr = port::free();
        let config = format!(
            "Listen {}\nPort {}\nTimeout 600\nMaxClients 50\nBasicAuth {USER} {PASSWORD}\n",
            addr.ip(),
            addr.port()
        );
        let mut command = Command::new(program);
        command.arg("-d").arg("-c").arg(folder.write("tinyproxy.conf", config));
        Self(start("tinyproxy", command, addr, folder).await)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The one line that it lets through.
    pub fn credentials() -> String {
        Squid::credentials()
    }
}

async fn start_squid(folder: Folder, name: &str, auth: &str) -> Running {
    let program = needs::command("squid", "squid");
    let addr = port::free();
    let hosts = folder.write("hosts", format!("127.0.0.1 {name}\n"));
    let state = folder.make("state");
    if needs::is_root() {
        chown(&state, Some(uid(SYSTEM_USER)), Some(gid(SYSTEM_USER))).expect("root may give files away");
    }
    let state = state.display();
    let config = format!(
        "http_port {addr}\nhosts_file {}\nvisible_hostname proxy.example.test\npid_filename {state}/squid.pid\n\
         access_log stdio:{state}/access.log\ncache_log {state}/cache.log\ncoredump_dir {state}\ncache deny all\n\
         pinger_enable off\nshutdown_lifetime 0 seconds\n{auth}\
         acl known proxy_auth REQUIRED\nhttp_access allow CONNECT known\nhttp_access deny all\n",
        hosts.display()
    );
    let mut command = Command::new(program);
    command.arg("-N").arg("-f").arg(folder.write("squid.conf", config));
    start("squid", command, addr, folder).await
}

async fn start(name: &str, command: Command, addr: SocketAddr, folder: Folder) -> Running {
    let log = folder.join("log");
    let mut process = Process::spawn(Launch { name, command, log, stop: Stop::Term, user: None });
    process.until_ready(START_WITHIN, async || TcpStream::connect(addr).await.is_ok()).await;
    Running { addr, _process: process, _folder: folder }
}
