//! A host of its own for an agent: a network namespace with an address in it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Where the agents of a network hear each other, one a host.
const PEERS_PORT: u16 = 7431;

/// One host of a network that a test has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As `ip netns` knows it.
    pub namespace: String,
    pub address: Ipv4Addr,
    /// Where its agent hears others.
    pub peers_port: u16,
}

impl Place {
    pub fn new(namespace: String, address: Ipv4Addr) -> Self {
        Self { namespace, address, peers_port: PEERS_PORT }
    }

    /// A program on this host. It becomes the program, so the process id stays.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// It may dial everybody in the network.
    pub(super) fn agent_toml(&self) -> String {
        let Self { address, peers_port, .. } = self;
        let [a, b, c, _] = address.octets();
        format!(
            "[[allow]]\nhost = \"{a}.{b}.{c}.0/24\"\nports = \"*\"\n\n\
             [peers]\nlisten = \"{address}:{peers_port}\"\nadvertise = [\"{address}:{peers_port}\"]\n"
        )
    }
}
