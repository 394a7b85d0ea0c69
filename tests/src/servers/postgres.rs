//! PostgreSQL 15: passwords by SCRAM, TLS only.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::process::Command as AsyncCommand;

use super::{START_WITHIN, uid};
use crate::process::{Launch, run};
use crate::{Certificates, Folder, Process, Stop, needs, port, suite};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const PACKAGE: &str = "postgresql-15";
const USER: &str = "app";
/// Guards nothing: the server listens on loopback for as long as the test runs.
const PASSWORD: &str = "only for this test";

/// A running PostgreSQL. Clients must use TLS and a password.
pub struct Postgres {
    addr: SocketAddr,
    certificates: Certificates,
    process: Process,
    // Last, so that it outlives the server that writes into it.
    folder: Folder,
}

impl Postgres {
    /// Makes a database cluster and starts its server.
    pub async fn start() -> Self {
        let initdb = needs::file(&format!("{PROGRAMS}/initdb"), PACKAGE);
        let postgres = needs::file(&format!("{PROGRAMS}/postgres"), PACKAGE);
        let folder = Folder::new("postgres");
        let certificates = Certificates::make(&folder);
        // PostgreSQL refuses to be root.
        let user = needs::is_root().then_some("postgres");
        let password = folder.write_private("password", PASSWORD);
        let data = folder.make("data");
        let log = folder.write("log", "");
        if let Some(user) = user {
            let uid = uid(user);
            certificates.key_belongs_to(uid);
            for path in [&password, &data, &log] {
                chown(path, Some(uid), None).expect("root may give files away");
            }
        }

        let mut make = Command::new(initdb);
        make.args([
            "--username",
            USER,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C.UTF-8",
        ]);
        make.arg("--no-sync").arg("--pwfile").arg(&password).arg("--pgdata").arg(&data);
        run(make.current_dir(folder.path()), user);

        let addr = port::free();
        folder.write("data/postgresql.auto.conf", settings(addr, &certificates));
        folder.write("data/pg_hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256\n");
        let mut command = Command::new(postgres);
        command.arg("-D").arg(&data).current_dir(folder.path());
        let process = Process::spawn(Launch { name: "postgres", command, log, stop: Stop::Interrupt, user });
        let mut server = Self { addr, certificates, process, folder };
        let mut query = server.client("psql", addr);
        query.args(["--no-psqlrc", "--command", "SELECT 1"]);
        let answers = async || query.output().await.expect("psql can be started").status.success();
        server.process.until_ready(START_WITHIN, answers).await;
        server
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The CA that its clients must trust.
    pub fn ca(&self) -> &Path {
        &self.certificates.ca
    }

    /// The name of the database to use, and its owner's name and password as libpq's environment
    /// (JDBC's helper reads the same names).
    pub fn credentials(&self) -> [(&'static str, &'static str); 3] {
        [("PGDATABASE", "postgres"), ("PGUSER", USER), ("PGPASSWORD", PASSWORD)]
    }

    /// One of PostgreSQL's own client programs, connecting to `addr`.
    /// It insists on this server's certificate and on channel binding, so that it notices anybody
    /// who ends TLS on the way.
    pub fn client(&self, program: &str, addr: SocketAddr) -> AsyncCommand {
        let mut command = AsyncCommand::new(needs::file(&format!("{PROGRAMS}/{program}"), PACKAGE));
        command.args(["--host", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
        command.envs(self.credentials()).env("PGSSLMODE", "verify-ca").env("PGSSLROOTCERT", self.ca());
        command.env("PGCHANNELBINDING", "require").env("PGCONNECT_TIMEOUT", "40");
        command.kill_on_drop(true);
        command
    }

    /// The user that drivers' own tests come as, see [`Postgres::admit_drivers_tests`].
    pub const DRIVERS_TESTS: [(&'static str, &'static str); 3] =
        [("PGDATABASE", "postgres"), ("PGUSER", "postgres"), ("PGPASSWORD", PASSWORD)];

    /// From now on a superuser `postgres` may come without TLS too, and finds hstore: drivers' own tests expect that.
    pub async fn admit_drivers_tests(&self) {
        let hba = self.folder.write("data/pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n");
        if needs::is_root() {
            chown(&hba, Some(uid("postgres")), None).expect("root may give files away");
        }
        for statement in [
            &format!("CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{PASSWORD}'"),
            "CREATE EXTENSION hstore",
            "SELECT pg_reload_conf()",
        ] {
            let mut psql = self.client("psql", self.addr);
            psql.args(["--no-psqlrc", "--quiet", "--command", statement]);
            suite::output("psql", &mut psql, START_WITHIN).await;
        }
    }

    /// Fills pgbench's tables through `addr`; 100,000 accounts for each `scale`.
    pub async fn prepare_pgbench(&self, addr: SocketAddr, scale: u32) {
        let mut pgbench = self.client("pgbench", addr);
        pgbench.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
        suite::output("pgbench --initialize", &mut pgbench, Duration::from_secs(120)).await;
    }

    /// How many of pgbench's clients are connected now; asked directly.
    pub async fn pgbench_clients(&self) -> usize {
        let mut psql = self.client("psql", self.addr);
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--command"]);
        psql.arg("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'");
        let count = suite::output("psql", &mut psql, START_WITHIN).await;
        count.trim().parse().expect("count(*) is a number")
    }

    /// pgbench through `addr`, ready to start: `clients` at once, for `seconds`.
    pub fn pgbench(&self, addr: SocketAddr, clients: u32, seconds: u32) -> AsyncCommand {
        let mut pgbench = self.client("pgbench", addr);
        pgbench.args(["--no-vacuum", "--jobs", "2"]);
        pgbench.args(["--client", &clients.to_string(), "--time", &seconds.to_string()]);
        pgbench
    }

    /// The program JDBC's driver is found with.
    pub fn jdbc_driver() -> PathBuf {
        needs::file("/usr/share/java/postgresql.jar", "libpostgresql-jdbc-java")
    }
}

fn settings(addr: SocketAddr, certificates: &Certificates) -> String {
    format!(
        "listen_addresses = '{ip}'\nport = {port}\nunix_socket_directories = ''\n\
         ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n\
         max_connections = 200\n\
         # The data lives as long as the test.\nfsync = off\nfull_page_writes = off\n",
        ip = addr.ip(),
        port = addr.port(),
        certificate = certificates.certificate.display(),
        key = certificates.key.display(),
    )
}
