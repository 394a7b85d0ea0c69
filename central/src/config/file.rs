//! `central.toml` as it is written: every key may be left out, no other key may be there.

use std::{fmt, ops::Range};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::LogFormat;

/// A value and where it stands, or nothing.
pub(super) type Given<T> = Option<Spanned<T>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) data_dir: Given<String>,
    pub(super) environments: Given<Vec<Spanned<String>>>,
    pub(super) secrets_key_file: Given<String>,
    pub(super) admin: AdminTable,
    pub(super) tunnel: TunnelTable,
    pub(super) gateway: GatewayTable,
    pub(super) agent: AgentTable,
    pub(super) alerts: AlertsTable,
    pub(super) listeners: ListenersTable,
    pub(super) oidc: OidcTable,
    pub(super) traces: TracesTable,
    pub(super) log: LogTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdminTable {
    pub(super) listen: Given<String>,
    pub(super) public_url: Given<String>,
    pub(super) session_idle: Given<DurationText>,
    pub(super) session_lifetime: Given<DurationText>,
    pub(super) metrics: Given<super::MetricsAccess>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TunnelTable {
    pub(super) listen: Given<String>,
    pub(super) public_url: Given<String>,
    pub(super) names: Given<Vec<Spanned<String>>>,
    pub(super) ping_interval: Given<DurationText>,
    pub(super) dead_after: Given<DurationText>,
    pub(super) resume_window: Given<DurationText>,
    pub(super) lanes: Given<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GatewayTable {
    pub(super) connect_timeout: Given<DurationText>,
    pub(super) park_timeout: Given<DurationText>,
    pub(super) drain_timeout: Given<DurationText>,
    pub(super) drill: Given<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AgentTable {
    pub(super) give_way_after: Given<DurationText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AlertsTable {
    pub(super) hold_down: Given<DurationText>,
    pub(super) allow_destinations: Given<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenersTable {
    pub(super) bind: Given<String>,
    pub(super) forwarder: Given<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OidcTable {
    pub(super) issuer: Given<String>,
    pub(super) client_id: Given<String>,
    pub(super) client_secret_file: Given<String>,
    pub(super) scopes: Given<String>,
    pub(super) user_claim: Given<String>,
    pub(super) role_claim: Given<String>,
    pub(super) roles: RolesTable,
    pub(super) ca_file: Given<String>,
    pub(super) environment: Given<String>,
}

impl OidcTable {
    /// Where its first value stands, if it has any.
    pub(super) fn begins_at(&self) -> Option<Range<usize>> {
        let Self { issuer, client_id, client_secret_file, scopes, user_claim, role_claim, .. } = self;
        let RolesTable { viewer, operator, administrator, cloud_administrator } = &self.roles;
        let texts = [issuer, client_id, client_secret_file, scopes, user_claim, role_claim];
        let texts = texts.into_iter().chain([&self.ca_file, &self.environment]);
        let texts = texts.flatten().map(Spanned::span);
        let lists = [viewer, operator, administrator, cloud_administrator].into_iter().flatten();
        texts.chain(lists.map(Spanned::span)).min_by_key(|span| span.start)
    }
}

/// What gives which role.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RolesTable {
    pub(super) viewer: Given<Vec<Spanned<String>>>,
    pub(super) operator: Given<Vec<Spanned<String>>>,
    pub(super) administrator: Given<Vec<Spanned<String>>>,
    pub(super) cloud_administrator: Given<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TracesTable {
    pub(super) endpoint: Given<String>,
    pub(super) sample: Given<f64>,
    pub(super) headers_file: Given<String>,
    pub(super) ca_file: Given<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogTable {
    pub(super) format: Given<LogFormat>,
    pub(super) level: Given<String>,
}

/// A duration as written. A number is refused: nobody can see whether it means seconds or milliseconds.
pub(super) struct DurationText(pub(super) String);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, as in \"4m\" or \"500ms\"")
            }

            fn visit_str<E>(self, text: &str) -> Result<DurationText, E> {
                Ok(DurationText(text.into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Where a value stands; the file's beginning if it was left out.
pub(super) fn place<T>(given: &Given<T>) -> Range<usize> {
    given.as_ref().map_or(0..0, Spanned::span)
}
