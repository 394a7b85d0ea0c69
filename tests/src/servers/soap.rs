//! The SOAP service of `tests/suites/soap/service.py`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use serde::Deserialize;

use super::START_WITHIN;
use crate::process::Launch;
use crate::{Folder, Process, Stop, needs};

/// A running SOAP service.
pub struct SoapService {
    addr: SocketAddr,
    _process: Process,
    // Last, so that it outlives the server that writes into it.
    _folder: Folder,
}

#[derive(Deserialize)]
struct Announcement {
    port: u16,
}

impl SoapService {
    /// Starts the service, which picks its own port and says which.
    pub async fn start() -> Self {
        let folder = Folder::new("soap");
        let mut command = Command::new(needs::python());
        command.arg(needs::suites().join("soap/service.py"));
        let log = folder.join("log");
        let launch = Launch { name: "SOAP service", command, log, stop: Stop::Kill, user: None };
        let (process, announced) = Process::announcing(launch);
        let line = tokio::time::timeout(START_WITHIN, announced)
            .await
            .unwrap_or_else(|_| panic!("the SOAP service did not start within {START_WITHIN:?}"))
            .unwrap_or_else(|_| {
                panic!("the SOAP service ended instead of starting:\n{}", process.log_tail())
            });
        let Announcement { port } = serde_json::from_str(&line).expect("service.py announces its port");
        Self { addr: (Ipv4Addr::LOCALHOST, port).into(), _process: process, _folder: folder }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
