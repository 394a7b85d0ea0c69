//! Postfix: submission with STARTTLS and AUTH, delivery into a maildir.
//!
//! It runs beside whatever mail system the machine has: configuration, queue and mailbox are all in
//! a temporary folder. Root, because Postfix' master insists on it before its daemons give it up.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{START_WITHIN, gid, uid};
use crate::process::{Launch, run};
use crate::{Certificates, Folder, Process, Stop, needs, port, wait_until};

const USER: &str = "app";
/// Guards nothing: the server listens on loopback for as long as the test runs.
const PASSWORD: &str = "only-for-this-test";
/// The user Debian's package makes for Postfix' daemons.
const SYSTEM_USER: &str = "postfix";
const MESSAGE_BYTES_MAX: u64 = 100 * 1024 * 1024;

/// A running Postfix that takes mail for `…@example.test` from whoever logs in.
pub struct Postfix {
    addr: SocketAddr,
    certificates: Certificates,
    inbox: PathBuf,
    _process: Process,
    // Last, so that it outlives the server that writes into it.
    _folder: Folder,
}

impl Postfix {
    /// Starts Postfix.
    pub async fn start() -> Self {
        needs::root("Postfix' master starts as root");
        let postfix = needs::file("/usr/sbin/postfix", "postfix");
        let master = needs::file("/usr/lib/postfix/sbin/master", "postfix");
        let saslpasswd = needs::file("/usr/sbin/saslpasswd2", "sasl2-bin");
        let folder = Folder::new("postfix");
        let certificates = Certificates::make(&folder);
        let addr = port::free();
        let (uid, gid) = (uid(SYSTEM_USER), gid(SYSTEM_USER));
        let (data, mail) = (folder.make("data"), folder.make("mail"));
        folder.make("spool");
        let config = folder.make("config");
        // Debian's Postfix looks for SASL's settings in a folder beside its own.
        folder.make("config/sasl");
        folder.write("config/main.cf", main_cf(folder.path(), &certificates, uid, gid));
        folder.write("config/master.cf", master_cf(addr));
        folder.write("config/sasl/smtpd.conf", sasl_conf(folder.path()));

        let users = folder.join("users.db");
        let password = folder.write_private("password", PASSWORD);
        let mut enter = Command::new("sh");
        enter.args(["-c", r#""$1" -p -c -f "$2" -u mail.example.test "$3" <"$4""#, "sh"]);
        run(enter.arg(saslpasswd).arg(&users).arg(USER).arg(&password), None);
        for path in [&data, &mail, &users] {
            chown(path, Some(uid), Some(gid)).expect("root may give files away");
        }
        // Makes the queue's folders.
        run(Command::new(postfix).arg("-c").arg(&config).arg("check"), None);

        let mut command = Command::new(master);
        command.arg("-s").env("MAIL_CONFIG", &config);
        let log = folder.join("log");
        let mut process =
            Process::spawn(Launch { name: "postfix", command, log, stop: Stop::Term, user: None });
        process.until_ready(START_WITHIN, async || greets(addr).await).await;
        Self { addr, certificates, inbox: mail.join("inbox/new"), _process: process, _folder: folder }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The CA that its clients must trust.
    pub fn ca(&self) -> &Path {
        &self.certificates.ca
    }

    /// Name and password of the user who may send.
    pub fn credentials(&self) -> (&'static str, &'static str) {
        (USER, PASSWORD)
    }

    /// The file of the one delivered message whose subject is `subject`, once it is there.
    pub async fn delivered(&self, subject: &str, limit: Duration) -> PathBuf {
        let line = format!("Subject: {subject}\n");
        wait_until(&format!("the mail {subject:?} is delivered"), limit, async || {
            let messages = fs::read_dir(&self.inbox).ok()?.flatten();
            // A maildir's rule: what is in `new` is complete.
            messages.map(|message| message.path()).find(|path| {
                let content = fs::read(path).unwrap_or_default();
                let head = &content[..content.len().min(16 * 1024)];
                String::from_utf8_lossy(head).contains(&line)
            })
        })
        .await
    }
}

async fn greets(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr).await else { return false };
    let mut code = [0; 4];
    stream.read_exact(&mut code).await.is_ok() && &code == b"220 "
}

fn main_cf(folder: &Path, certificates: &Certificates, uid: u32, gid: u32) -> String {
    let folder = folder.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mail.example.test
inet_interfaces = loopback-only
inet_protocols = ipv4
mydestination =
alias_maps =
virtual_alias_maps =
virtual_mailbox_domains = example.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:inbox/
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = {MESSAGE_BYTES_MAX}
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
",
        certificate = certificates.certificate.display(),
        key = certificates.key.display(),
    )
}

fn master_cf(addr: SocketAddr) -> String {
    format!(
        "{addr} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"
    )
}

fn sasl_conf(folder: &Path) -> String {
    format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}/users.db\nmech_list: PLAIN LOGIN\n",
        folder.display()
    )
}
