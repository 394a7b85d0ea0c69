//! What stands around every page: where one is, who one is, and the gateway's state, which is the first
//! thing anybody wants to know.

use time::OffsetDateTime;

use super::{
    answers::{Gateway, State},
    assets::Links,
    client::Refused,
    reply::Said,
    visitor::Visitor,
    words::{Badge, Moment, Tone},
};

/// The pages of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    ProcessServers,
    Enrol,
    Destinations,
    Streams,
    Failovers,
    Drills,
    Events,
    Alerts,
    Audit,
    People,
    Settings,
}

/// A group of links in the menu.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) items: Vec<Item>,
}

pub(super) struct Item {
    pub(super) href: &'static str,
    pub(super) icon: &'static str,
    pub(super) label: &'static str,
    pub(super) current: bool,
}

/// Everything the layout needs.
pub(super) struct Frame {
    pub(super) links: Links,
    pub(super) title: String,
    pub(super) menu: Vec<Group>,
    pub(super) environment: String,
    pub(super) who: String,
    pub(super) role: String,
    pub(super) badge: Badge,
    /// Since when the gateway is in its state.
    pub(super) since: Moment,
    pub(super) said: Option<Said>,
    pub(super) version: &'static str,
}

/// A page of the menu: address, icon, words.
type Entry = (Section, &'static str, &'static str, &'static str);

/// The menu, in the order of a first day: see, connect, watch, administer.
const MENU: &[(&str, &[Entry])] = &[
    (
        "Secure Gateway",
        &[
            (Section::Overview, "/", "overview", "Overview"),
            (Section::ProcessServers, "/process-servers", "servers", "Process Servers"),
            (Section::Enrol, "/enrol", "enrol", "Enrol an agent"),
            (Section::Destinations, "/destinations", "destinations", "Destinations"),
            (Section::Streams, "/streams", "streams", "Live streams"),
            (Section::Failovers, "/failovers", "failovers", "Failovers"),
            (Section::Drills, "/drills", "clock", "Drills and recovery"),
        ],
    ),
    (
        "What happens",
        &[
            (Section::Events, "/events", "messages", "Operator Messages"),
            (Section::Alerts, "/alerts", "alerts", "Alerts"),
            (Section::Audit, "/audit", "audit", "Audit"),
        ],
    ),
    (
        "Administration",
        &[
            (Section::People, "/people", "people", "Users and tokens"),
            (Section::Settings, "/settings", "settings", "Settings and health"),
        ],
    ),
];

impl Frame {
    /// The frame of a page, and the gateway as it is now.
    pub(super) async fn new(
        visitor: &mut Visitor,
        section: Section,
        title: impl Into<String>,
    ) -> Result<(Self, Gateway), Refused> {
        let gateway: Gateway = visitor.api.get("/gateway").await?;
        let frame = Self {
            links: Links::new(),
            title: title.into(),
            menu: menu(section),
            environment: visitor.environment.clone(),
            who: visitor.name.clone(),
            role: visitor.role.to_string(),
            badge: gateway_badge(&gateway),
            since: Moment::new(gateway.since, OffsetDateTime::now_utc()),
            said: visitor.said.take(),
            version: env!("CARGO_PKG_VERSION"),
        };
        Ok((frame, gateway))
    }
}

fn menu(current: Section) -> Vec<Group> {
    MENU.iter()
        .map(|(title, items)| Group {
            title,
            items: items
                .iter()
                .map(|&(section, href, icon, label)| Item { href, icon, label, current: section == current })
                .collect(),
        })
        .collect()
}

/// The gateway's state in one word. What carries but could not move is `degraded`.
pub(super) fn gateway_badge(gateway: &Gateway) -> Badge {
    match gateway.state {
        State::Idle => Badge::new(Tone::Calm, "idle"),
        State::Connecting => Badge::new(Tone::Busy, "connecting"),
        State::Up if is_degraded(gateway) => Badge::new(Tone::Busy, "up, degraded"),
        State::Up => Badge::new(Tone::Good, "up"),
        State::Down => Badge::new(Tone::Bad, "down"),
    }
}

/// It carries, and no other candidate is ready to take over.
pub(super) fn is_degraded(gateway: &Gateway) -> bool {
    !gateway.candidates.iter().any(|candidate| candidate.configured && !candidate.active)
}
