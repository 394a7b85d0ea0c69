//! A host of its own for an agent: a network namespace with an address in it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Where the agents of a network hear each other.
const PEERS_PORT: u16 = 7431;

/// One host of a network that a test has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As `ip netns` knows it.
    pub namespace: String,
    pub address: Ipv4Addr,
}

impl Place {
    /// A program on this host. It becomes the program, so the process id stays.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// It may dial everybody in the network.
    pub(super) fn agent_toml(&self) -> String {
        let address = self.address;
        let [a, b, c, _] = address.octets();
        format!(
            "[[allow]]\nhost = \"{a}.{b}.{c}.0/24\"\nports = \"*\"\n\n\
             [peers]\nlisten = \"{address}:{PEERS_PORT}\"\nadvertise = [\"{address}:{PEERS_PORT}\"]\n"
        )
    }
}
