//! The first words on each websocket: who speaks, which version, under which epoch.
//!
//! ```text
//!   agent ── AgentHello ──► central         control      agent ── TunnelHello ──► central    tunnel
//!   agent ◄─ Welcome / Refusal ── central                agent ◄─ TunnelAdmission ── central
//!
//!   agent ── LaneHello ──► central          a further lane of a tunnel that is up
//!   agent ◄─ TunnelAdmission ── central
//! ```
//!
//! Who the agent *is* comes from its certificate alone; a hello adds what a certificate cannot
//! know. Hellos are JSON text messages of at most [`HELLO_BYTES_MAX`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BootId, EnvironmentName, Epoch, LaneId, Name, NodeId, SessionId};

/// The newest wire version this build speaks. Central N speaks with agents N and N-1.
pub const WIRE_VERSION: u16 = 1;
/// The oldest wire version this build still speaks.
pub const WIRE_VERSION_MIN: u16 = 1;
/// The largest hello, in bytes.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Websocket subprotocol of the control websocket.
pub const CONTROL_SUBPROTOCOL: &str = "postern.control.v1";
/// Websocket subprotocol of the tunnel websocket.
pub const TUNNEL_SUBPROTOCOL: &str = "postern.tunnel.v1";
/// Path of the control websocket.
pub const CONTROL_PATH: &str = "/agent/v1/control";
/// Path of the tunnel websocket.
pub const TUNNEL_PATH: &str = "/agent/v1/tunnel";
/// Websocket subprotocol of a tunnel's further lanes.
pub const LANE_SUBPROTOCOL: &str = "postern.lane.v1";
/// Path of a tunnel's further lanes. Not the tunnel's: a central that knows nothing of lanes must not take one for a
/// tunnel that comes back.
pub const LANE_PATH: &str = "/agent/v1/lane";
/// The most lanes a tunnel has. Beyond, a line is full or something else is the limit; and each lane may hold in memory
/// what a tunnel of one may.
pub const LANES_MAX: u8 = 8;
/// Path where a one-time token is exchanged for a certificate.
pub const ENROLL_PATH: &str = "/agent/v1/enroll";
/// Path where a valid certificate is exchanged for a younger one.
pub const RENEW_PATH: &str = "/agent/v1/renew";
/// Path where an agent whose certificate has expired asks to come back.
pub const RETURN_PATH: &str = "/agent/v1/return";
/// How far an agent's clock may be off before central says so and refuses.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// The wire versions one end speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub min: u16,
    pub max: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self { min: WIRE_VERSION_MIN, max: WIRE_VERSION };

    /// The newest version both ends speak.
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// An agent's place in a gateway group's Raft: the generation it was granted under and its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seat {
    pub group: u64,
    pub node: NodeId,
}

/// Opens the control websocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    pub versions: Versions,
    /// The agent's software version, for people.
    pub software: String,
    pub boot: BootId,
    /// The seat whose Raft state this agent still holds, intact.
    pub seat: Option<Seat>,
    /// How often that state has changed on this agent's disk. Less than it told before: it was put back from an earlier
    /// day. An older agent says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Where peers inside the network may reach this agent, `HOST:PORT`, best first.
    pub peer_addrs: Vec<String>,
    /// The agent's wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    pub system: SystemInformation,
    /// What this agent can do beyond its wire version, by name. An older one names nothing.
    #[serde(default)]
    pub features: Vec<String>,
}

/// What System Information shows of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemInformation {
    pub os: String,
    pub arch: String,
    pub hostname: String,
    pub pid: u32,
}

/// Central's answer to a good [`AgentHello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub version: u16,
    pub software: String,
    pub environment: EnvironmentName,
    pub name: Name,
    pub settings: LinkSettings,
}

/// Timings that both ends of a link must share; central's configuration decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    pub ping_interval_ms: u64,
    pub dead_after_ms: u64,
    pub resume_window_ms: u64,
    pub drain_timeout_ms: u64,
    pub give_way_after_ms: u64,
    /// How many websockets a tunnel consists of. An older central says nothing of it, an older agent does not listen.
    #[serde(default = "one_lane", skip_serializing_if = "is_one_lane")]
    pub lanes: u8,
}

fn one_lane() -> u8 {
    1
}

fn is_one_lane(lanes: &u8) -> bool {
    *lanes == one_lane()
}

impl LinkSettings {
    /// The lanes beside a tunnel's first one, by number; bounded, whatever the other end says.
    pub fn further_lanes(&self) -> std::ops::Range<u8> {
        1..self.lanes.clamp(1, LANES_MAX)
    }
    pub fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }
    pub fn dead_after(&self) -> Duration {
        Duration::from_millis(self.dead_after_ms)
    }
    pub fn resume_window(&self) -> Duration {
        Duration::from_millis(self.resume_window_ms)
    }
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
    pub fn give_way_after(&self) -> Duration {
        Duration::from_millis(self.give_way_after_ms)
    }
}

/// Opens a tunnel websocket: this agent, in this boot, is active under this epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelHello {
    pub versions: Versions,
    pub node: NodeId,
    pub epoch: Epoch,
    pub boot: BootId,
    pub session: SessionId,
    /// Set when this websocket continues `session`: how far central's frames have arrived.
    pub resume: Option<Resume>,
}

/// Opens a further lane of a tunnel that is up. Whose the tunnel is, its epoch and its session are the tunnel's own; central
/// admits a lane only beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneHello {
    /// As the tunnel's own hello, but for `resume`: how far central's frames have arrived on this lane.
    pub tunnel: TunnelHello,
    /// Which one: the tunnel's first websocket is lane 0.
    pub lane: u8,
    /// Tells the streams of this lane from those that another lane of the same number had. Chosen anew whenever the
    /// lane begins anew.
    pub id: LaneId,
}

/// Where a resumed tunnel or lane continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The sequence number of the last frame received in order, 0 if none.
    pub received_through: u64,
}

/// Central's answer to a [`TunnelHello`] or a [`LaneHello`]; frames follow an admission, a close follows a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelAdmission {
    Admitted { version: u16, settings: LinkSettings, resume: Option<Resume> },
    Refused(Refusal),
}

/// Central's answer to an [`AgentHello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAdmission {
    Welcome(Welcome),
    Refused(Refusal),
}

/// Why central closes a door, in words for a person and a code for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("central refused ({code}): {message}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

/// The reasons central knows. The agent decides by the code whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No wire version is spoken by both ends.
    Version,
    /// The agent's clock is off by more than [`CLOCK_SKEW_MAX`].
    Clock,
    /// The Process Server was removed or its certificate revoked: enrol again.
    Unknown,
    /// Another boot of this agent is connected and answers: a cloned data directory.
    Cloned,
    /// A higher epoch has been admitted.
    StaleEpoch,
    /// No committed claim with this index, node and boot is known.
    UnknownClaim,
    /// This epoch belongs to another boot or session.
    OtherSession,
    /// This seat is not, or no longer, this agent's.
    NotSeated,
    /// The session cannot be continued; start a new one.
    CannotResume,
    /// Too many connections or attempts; come back later.
    Busy,
    /// The message was not understood.
    Malformed,
    /// Central is stopping.
    Stopping,
    /// Central could not read or write its store.
    Internal,
    /// An administrator has to approve first: ask again later.
    Waiting,
    /// A code newer than this build.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The serde name is the code's one spelling, on the wire and in logs.
        let name = serde_json::to_value(self).map_err(|_| std::fmt::Error)?;
        f.write_str(name.as_str().unwrap_or("other"))
    }
}

/// `POST` to [`ENROLL_PATH`]. The token travels in the body, never in a URL or header log.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrollRequest {
    pub token: String,
    pub name: Name,
    /// PKCS#10, PEM. Its self-signature proves possession of the key.
    pub csr_pem: String,
    pub software: String,
    pub unix_ms: u64,
}

impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("token", &"***")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// `POST` to [`RENEW_PATH`], over mutual TLS with the certificate that is still valid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    pub csr_pem: String,
}

/// `POST` to [`RETURN_PATH`], without a client certificate: an expired one would end the handshake.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReturnRequest {
    /// The certificate that has expired.
    pub certificate_pem: String,
    /// For the same key; its self-signature proves possession.
    pub csr_pem: String,
    pub unix_ms: u64,
}

/// The answer to all three: the certificate and everything the agent must pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    pub certificate_pem: String,
    /// Central's CA certificates, PEM, newest first; the agent trusts these and no others.
    pub ca_pem: String,
    pub environment: EnvironmentName,
    pub name: Name,
    pub agent: crate::AgentId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let v = |min, max| Versions { min, max };
        assert_eq!(v(1, 3).agree(v(2, 5)), Some(3));
        assert_eq!(v(4, 5).agree(v(1, 3)), None);
        assert_eq!(Versions::OURS.agree(Versions::OURS), Some(WIRE_VERSION));
    }

    #[test]
    fn the_bytes_of_hellos_are_pinned() {
        let hello = TunnelHello {
            versions: Versions { min: 1, max: 1 },
            node: NodeId(3),
            epoch: Epoch { group: 2, claim: 17 },
            boot: BootId::from_bytes([0xab; 16]),
            session: SessionId::from_bytes([0x01; 16]),
            resume: Some(Resume { received_through: 9 }),
        };
        let golden = include_str!("../testdata/tunnel_hello.json").trim_end();
        assert_eq!(serde_json::to_string(&hello).unwrap(), golden);
        assert_eq!(serde_json::from_str::<TunnelHello>(golden).unwrap(), hello);
    }

    #[test]
    fn the_bytes_of_a_lanes_hello_are_pinned() {
        let tunnel = serde_json::from_str(include_str!("../testdata/tunnel_hello.json")).unwrap();
        let hello = LaneHello { tunnel, lane: 2, id: LaneId::from_bytes([0xcd; 16]) };
        let golden = include_str!("../testdata/lane_hello.json").trim_end();
        assert_eq!(serde_json::to_string(&hello).unwrap(), golden);
        assert_eq!(serde_json::from_str::<LaneHello>(golden).unwrap(), hello);
    }

    #[test]
    fn ends_that_know_nothing_of_lanes_have_one() {
        let of_before = r#"{"ping_interval_ms":1,"dead_after_ms":2,"resume_window_ms":3,"drain_timeout_ms":4,"give_way_after_ms":5}"#;
        let settings: LinkSettings = serde_json::from_str(of_before).unwrap();
        assert_eq!((settings.lanes, settings.further_lanes().len()), (1, 0));
        assert_eq!(serde_json::to_string(&settings).unwrap(), of_before);
    }

    #[test]
    fn a_number_of_lanes_from_outside_is_bounded() {
        let lanes = |lanes: u8| {
            let text = r#"{"ping_interval_ms":1,"dead_after_ms":2,"resume_window_ms":3,"drain_timeout_ms":4,"give_way_after_ms":5,"lanes":N}"#;
            let settings: LinkSettings =
                serde_json::from_str(&text.replace('N', &lanes.to_string())).unwrap();
            settings.further_lanes().collect::<Vec<_>>()
        };
        assert_eq!(lanes(0), [0; 0]);
        assert_eq!(lanes(3), [1, 2]);
        assert_eq!(lanes(255).len(), usize::from(LANES_MAX) - 1);
    }

    #[test]
    fn a_code_from_a_newer_central_is_still_a_refusal() {
        let refusal: Refusal = serde_json::from_str(r#"{"code":"moon_phase","message":"no"}"#).unwrap();
        assert_eq!(refusal.code, RefusalCode::Other);
    }

    #[test]
    fn an_enrolment_token_is_not_printed() {
        let request = EnrollRequest {
            token: "pst_secret".into(),
            name: "a".parse().unwrap(),
            csr_pem: String::new(),
            software: String::new(),
            unix_ms: 0,
        };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
