//! Destinations: named places reachable through the gateway, checked when they enter.
//!
//! A [`Spec`] is what somebody wrote; a [`Destination`] is one that has been checked. Rooms behind the door
//! take the latter only.

pub mod url;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proto::{EnvironmentName, Name};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    cidr::Cidr,
    store::{Collection, Owner, Precondition, SharedStore, StoreError, Versioned},
};

pub use url::{DestinationUrl, Scheme, Transport, UrlError};

const DESTINATIONS: Collection<Destination> = Collection::new("destinations");

/// The most destinations of one Environment; each to-site one holds a listener.
pub const DESTINATIONS_MAX: usize = 5000;
/// The most streams of one destination that may be asked for.
pub const STREAMS_MAX: u32 = 100_000;
/// Streams of one destination at a time, where nothing else is said.
const STREAMS_DEFAULT: u32 = 4096;
/// The most networks in an access list.
const CLIENTS_MAX: usize = 64;

/// Which way a destination is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Cloud to customer: central listens, the agent dials.
    #[default]
    ToSite,
    /// Customer to cloud.
    ToCloud,
}

/// A destination as somebody writes it: what is left out gets its default. Unknown fields are refused, so
/// that a misspelt limit is not silently without effect.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = NewDestination)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[schema(value_type = String)]
    pub name: Name,
    /// What speaks there, for probes and people; the URL's scheme unless given.
    #[serde(default, rename = "type")]
    #[schema(value_type = Option<String>)]
    pub kind: Option<Scheme>,
    #[schema(value_type = String)]
    pub url: DestinationUrl,
    #[serde(default)]
    pub direction: Direction,
    /// Where central listens for it, `ADDRESS:PORT`; `None` leaves the choice to central.
    #[serde(default, deserialize_with = "listen_address")]
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub acl: Acl,
}

/// A checked destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Destination {
    #[schema(value_type = String)]
    pub name: Name,
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Scheme,
    #[schema(value_type = String)]
    pub url: DestinationUrl,
    pub direction: Direction,
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    pub enabled: bool,
    pub limits: Limits,
    pub tls: Tls,
    pub acl: Acl,
}

/// How much one destination may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Streams at a time; the next client is refused.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: STREAMS_DEFAULT }
    }
}

/// How central itself takes part in TLS. There is nothing to set yet: TLS between application and
/// destination crosses the gateway untouched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {}

/// Who may connect to a destination's listener. It only narrows: the site's own allow-list has the last word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Acl {
    /// Networks of clients that may connect; empty: all.
    #[schema(value_type = Vec<String>)]
    pub clients: Vec<Cidr>,
}

impl Acl {
    /// Whether a client from `address` may connect.
    pub fn permits(&self, address: IpAddr) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|network| network.contains(address))
    }
}

/// Why a destination was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    #[error("no destination is named {0}")]
    Unknown(Name),
    #[error("a destination named {0} exists already: change that one, or choose another name")]
    Exists(Name),
    #[error("{listen} is already the listener of {name}: choose another port")]
    ListenTaken { listen: SocketAddr, name: Name },
    #[error("type {kind} does not travel as {url} does: both TCP or both UDP")]
    Transport { kind: Scheme, url: DestinationUrl },
    #[error("limits.streams is {0}: use 1 to {STREAMS_MAX}")]
    Streams(u32),
    #[error("acl.clients has {0} networks: use at most {CLIENTS_MAX}")]
    Clients(usize),
    #[error("there are already {DESTINATIONS_MAX} destinations: remove some first")]
    TooMany,
    #[error("somebody else changed {0} at the same moment: look again and repeat")]
    Changed(Name),
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for DestinationError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Spec {
    /// The checked destination.
    pub fn check(self) -> Result<Destination, DestinationError> {
        let kind = self.kind.unwrap_or_else(|| self.url.scheme());
        if kind.transport() != self.url.scheme().transport() {
            return Err(DestinationError::Transport { kind, url: self.url });
        }
        if !(1..=STREAMS_MAX).contains(&self.limits.streams) {
            return Err(DestinationError::Streams(self.limits.streams));
        }
        if self.acl.clients.len() > CLIENTS_MAX {
            return Err(DestinationError::Clients(self.acl.clients.len()));
        }
        let Self { name, kind: _, url, direction, listen, enabled, limits, tls, acl } = self;
        Ok(Destination { name, kind, url, direction, listen, enabled, limits, tls, acl })
    }
}

/// The destinations of one Environment. Cheap to clone. Followers watch the store's changes and list again.
#[derive(Clone)]
pub struct Destinations {
    store: SharedStore,
    owner: Owner,
}

impl Destinations {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    /// All of them, by name.
    pub async fn list(&self) -> Result<Vec<Destination>, StoreError> {
        let records = DESTINATIONS.all(&*self.store, &self.owner).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// Up to `limit` of them behind `after`, by name.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<Destination>, StoreError> {
        let records = DESTINATIONS.page(&*self.store, &self.owner, after, limit).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    pub async fn find(&self, name: &Name) -> Result<Option<Destination>, StoreError> {
        Ok(self.record(name).await?.map(|record| record.value))
    }

    pub async fn create(&self, spec: Spec) -> Result<Destination, DestinationError> {
        let destination = spec.check()?;
        let others = self.list().await?;
        if others.iter().any(|other| other.name == destination.name) {
            return Err(DestinationError::Exists(destination.name));
        }
        // Two that create at once may pass this bound by one: it is against forgetting, not a fence.
        if others.len() >= DESTINATIONS_MAX {
            return Err(DestinationError::TooMany);
        }
        listen_is_free(&destination, &others)?;
        let name = destination.name.clone();
        self.write(destination, Precondition::Absent, || DestinationError::Exists(name)).await
    }

    /// Lets `change` make a new spec of what is there, as a `PATCH` does; the name stays.
    pub async fn change<E: From<DestinationError>>(
        &self,
        name: &Name,
        change: impl FnOnce(&Destination) -> Result<Spec, E>,
    ) -> Result<Destination, E> {
        let before = self.record(name).await.map_err(DestinationError::from)?;
        let before = before.ok_or_else(|| DestinationError::Unknown(name.clone()))?;
        let destination = Spec { name: name.clone(), ..change(&before.value)? }.check()?;
        listen_is_free(&destination, &self.list().await.map_err(DestinationError::from)?)?;
        let changed = || DestinationError::Changed(name.clone());
        Ok(self.write(destination, before.unchanged(), changed).await?)
    }

    pub async fn remove(&self, name: &Name) -> Result<(), DestinationError> {
        let record = self.record(name).await?.ok_or_else(|| DestinationError::Unknown(name.clone()))?;
        let delete = DESTINATIONS.delete(&self.owner, &record.key, Precondition::Any);
        self.store.commit(delete.into()).await?;
        Ok(())
    }

    async fn record(&self, name: &Name) -> Result<Option<Versioned<Destination>>, StoreError> {
        DESTINATIONS.get(&*self.store, &self.owner, name.as_str()).await
    }

    async fn write(
        &self,
        destination: Destination,
        precondition: Precondition,
        conflict: impl FnOnce() -> DestinationError,
    ) -> Result<Destination, DestinationError> {
        let put = DESTINATIONS.put(&self.owner, destination.name.as_str(), precondition, &destination)?;
        match self.store.commit(put.into()).await {
            Ok(_) => Ok(destination),
            Err(StoreError::Conflict(_)) => Err(conflict()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Says early what the listener would find out anyway. Port 0 asks for any free port, so it never collides.
fn listen_is_free(destination: &Destination, others: &[Destination]) -> Result<(), DestinationError> {
    let Some(listen) = destination.listen.filter(|listen| listen.port() != 0) else { return Ok(()) };
    let taken = others.iter().find(|other| {
        other.name != destination.name
            && other.listen == Some(listen)
            && other.url.scheme().transport() == destination.url.scheme().transport()
    });
    match taken {
        Some(other) => Err(DestinationError::ListenTaken { listen, name: other.name.clone() }),
        None => Ok(()),
    }
}

fn yes() -> bool {
    true
}

fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_listen(&text).map_err(serde::de::Error::custom)).transpose()
}

/// `ADDRESS:PORT` or `localhost:PORT`: an address of central's own, so nothing is resolved.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let localhost = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match localhost {
        Some(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} is no address to listen on: write ADDRESS:PORT, as in 127.0.0.1:15432 or [::1]:15432")
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_name_and_a_url_are_enough() {
        let destination = spec(json!({"name": "db", "url": "postgresql://db.example"})).check().unwrap();
        assert_eq!(destination.kind.as_str(), "postgresql");
        assert_eq!(destination.direction, Direction::ToSite);
        assert!(destination.enabled && destination.listen.is_none());
        assert!(destination.acl.permits("203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn a_destination_written_out_reads_back_as_a_spec() {
        let all = json!({"name": "db", "type": "oracle", "url": "tcp://10.0.4.7:1521", "direction": "to_site",
            "listen": "127.0.0.1:1521", "enabled": false, "limits": {"streams": 7}, "tls": {},
            "acl": {"clients": ["10.0.0.0/8"]}});
        let destination = spec(all.clone()).check().unwrap();
        assert_eq!(serde_json::to_value(&destination).unwrap(), all);
        assert!(!destination.acl.permits("203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn unknown_fields_are_refused_by_name_at_every_level() {
        for (path, value) in
            [("lissten", json!("x")), ("limits", json!({"stream": 1})), ("tls", json!({"verify": false}))]
        {
            let mut body = json!({"name": "db", "url": "tcp://db:1"});
            body[path] = value;
            let error = serde_json::from_value::<Spec>(body).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn a_listener_is_an_address_of_our_own() {
        assert_eq!(parse_listen("localhost:15432"), Ok("127.0.0.1:15432".parse().unwrap()));
        for odd in ["db.example:1", "15432", "127.0.0.1", ""] {
            assert!(parse_listen(odd).unwrap_err().contains("ADDRESS:PORT"), "{odd}");
        }
    }

    #[test]
    fn a_type_must_travel_as_the_url_does() {
        let odd = spec(json!({"name": "db", "type": "oracle", "url": "udp://db:1521"}));
        assert!(matches!(odd.check(), Err(DestinationError::Transport { .. })));
    }

    #[test]
    fn limits_are_bounded() {
        let none = spec(json!({"name": "db", "url": "tcp://db:1", "limits": {"streams": 0}}));
        assert!(matches!(none.check(), Err(DestinationError::Streams(0))));
    }

    #[tokio::test]
    async fn a_name_is_given_once() {
        let destinations = destinations();
        destinations.create(spec(json!({"name": "db", "url": "tcp://db:1"}))).await.unwrap();
        let again = destinations.create(spec(json!({"name": "db", "url": "tcp://db:2"}))).await;
        assert!(matches!(again, Err(DestinationError::Exists(_))));
    }

    #[tokio::test]
    async fn two_destinations_do_not_share_a_listener() {
        let destinations = destinations();
        let at = |name, port| {
            spec(json!({"name": name, "url": "tcp://db:1", "listen": format!("127.0.0.1:{port}")}))
        };
        destinations.create(at("one", 15432)).await.unwrap();
        let error = destinations.create(at("two", 15432)).await.unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1:15432 is already the listener of one: choose another port");
        destinations.create(at("three", 0)).await.unwrap();
        destinations.create(at("four", 0)).await.unwrap();
    }

    #[tokio::test]
    async fn a_change_keeps_the_name_and_is_checked() {
        let destinations = destinations();
        destinations.create(spec(json!({"name": "db", "url": "tcp://db:1"}))).await.unwrap();
        let name: Name = "db".parse().unwrap();
        let renamed =
            |_: &Destination| Ok::<_, DestinationError>(spec(json!({"name": "x", "url": "tcp://db:2"})));
        let changed = destinations.change(&name, renamed).await.unwrap();
        assert_eq!((changed.name.as_str(), changed.url.port()), ("db", 2));
        destinations.remove(&name).await.unwrap();
        assert!(matches!(destinations.remove(&name).await, Err(DestinationError::Unknown(_))));
    }

    fn destinations() -> Destinations {
        Destinations::new(Arc::new(MemoryStore::default()), &"default".parse().unwrap())
    }

    fn spec(value: Value) -> Spec {
        serde_json::from_value(value).unwrap()
    }
}
