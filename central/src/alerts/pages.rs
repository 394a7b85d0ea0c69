//! Where whoever reads an alert looks on: the administrator's page of what it is about.

use alerting::Kind;
use proto::Name;

use crate::destination::DestinationUrl;

/// The pages as receivers of alerts reach them. Without a public address of central's there are none.
#[derive(Debug, Clone, Default)]
pub struct Pages(Option<String>);

impl Pages {
    /// `public`: where browsers find the UI, `admin.public_url`.
    pub fn new(public: Option<&DestinationUrl>) -> Self {
        // Printed with its port; browsers leave the usual one away.
        Self(public.map(|url| url.to_string().trim_end_matches(":443").to_owned()))
    }

    /// The course of one loss or move of the tunnel, by its number.
    pub fn failover(&self, id: Option<u64>) -> Option<String> {
        self.at(&id.map_or_else(|| "/failovers".to_owned(), |id| format!("/failovers#fo-{id}")))
    }

    pub fn process_server(&self, name: &Name) -> Option<String> {
        self.at(&format!("/process-servers/{name}"))
    }

    /// What an alert of that kind is about, where it is about no one thing.
    pub fn of(&self, kind: Kind, destination: Option<&str>) -> Option<String> {
        match (kind, destination) {
            (Kind::DestinationUnreachable, Some(name)) => self.at(&format!("/destinations/{name}")),
            (Kind::DestinationUnreachable, None) => self.at("/destinations"),
            (Kind::DeliveriesFailing, _) => self.at("/alerts"),
            (Kind::ToleranceLost | Kind::CandidateSilent | Kind::CertificateExpiring, _) => {
                self.at("/process-servers")
            }
            (Kind::Down | Kind::Up | Kind::Failover, _) => self.failover(None),
        }
    }

    fn at(&self, path: &str) -> Option<String> {
        self.0.as_ref().map(|base| format!("{base}{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_leads_to_its_page_where_central_knows_its_public_address() {
        let url = "https://gateway.example:7443".parse().unwrap();
        let pages = Pages::new(Some(&url));
        assert_eq!(pages.failover(Some(7)).as_deref(), Some("https://gateway.example:7443/failovers#fo-7"));
        let server = pages.process_server(&"gw-01".parse().unwrap());
        assert_eq!(server.as_deref(), Some("https://gateway.example:7443/process-servers/gw-01"));
        assert_eq!(
            pages.of(Kind::DestinationUnreachable, Some("db")).as_deref(),
            Some("https://gateway.example:7443/destinations/db")
        );
        assert_eq!(Pages::default().failover(Some(7)), None);
    }
}
