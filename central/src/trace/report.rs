//! What a test of a destination found, made of evidence from central, the tunnel and the agents. Pure.
//!
//! The way through the active is put together from two proofs: a real stream through its tunnel, and the
//! agent's own account of the hops that a stream cannot show (which addresses, which one answered).

use proto::{
    Name,
    trace::{Hop, Step, Verdict},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{
    admin::data_plane::{OpenFailure, TriedOut},
    gateway::probing::NotAsked,
};

/// A [`Step`], for the API's description: `proto` knows nothing of such things.
#[derive(ToSchema)]
#[schema(as = TestStep)]
#[expect(dead_code, reason = "only its shape is of use")]
pub(crate) struct StepShape {
    /// `enabled`, `listener`, `tunnel`, `allow_list`, `dns`, `connect`, `tls`, `greeting`.
    hop: String,
    /// `pass`, `fail` or `skip`.
    verdict: String,
    ms: Option<u64>,
    detail: String,
    action: Option<String>,
}

/// The hops behind the tunnel.
const SITE: [Hop; 5] = [Hop::AllowList, Hop::Dns, Hop::Connect, Hop::Tls, Hop::Greeting];

/// A destination's newest test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestReport {
    #[schema(value_type = String)]
    pub destination: Name,
    /// Of the way a client goes: through the active.
    #[schema(value_type = String)]
    pub verdict: Verdict,
    /// One sentence for people.
    pub summary: String,
    /// A stream came to be through the tunnel.
    pub reached: bool,
    /// Until the destination had accepted, or until it was given up.
    pub ms: u64,
    /// The Process Server whose tunnel was used.
    #[schema(value_type = Option<String>)]
    pub via: Option<Name>,
    /// Why the destination was not reached.
    pub reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
    /// The way of a client, through the active.
    #[schema(value_type = Vec<StepShape>)]
    pub steps: Vec<Step>,
    /// What each candidate's own host sees.
    pub candidates: Vec<CandidateReport>,
}

/// What one candidate's own host sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CandidateReport {
    #[schema(value_type = String)]
    pub name: Name,
    pub active: bool,
    pub connected: bool,
    #[schema(value_type = String)]
    pub verdict: Verdict,
    pub summary: String,
    /// All its steps together; nothing where nothing was tried.
    pub ms: Option<u64>,
    #[schema(value_type = Vec<StepShape>)]
    pub steps: Vec<Step>,
}

/// The same without its steps, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestSummary {
    #[schema(value_type = String)]
    pub destination: Name,
    #[schema(value_type = String)]
    pub verdict: Verdict,
    pub summary: String,
    pub reached: bool,
    pub ms: u64,
    #[schema(value_type = Option<String>)]
    pub via: Option<Name>,
    pub reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub by: String,
}

/// What was gathered for a report.
pub(super) struct Evidence {
    pub(super) destination: Name,
    pub(super) at: OffsetDateTime,
    pub(super) by: String,
    /// The hops in central: enabled, listener, tunnel.
    pub(super) central: [Step; 3],
    /// The stream through the tunnel, and how long it took to be had or given up.
    pub(super) through: Result<TriedOut, OpenFailure>,
    pub(super) ms: u64,
    pub(super) candidates: Vec<Heard>,
}

/// One candidate and what its agent said.
pub(super) struct Heard {
    pub(super) name: Name,
    pub(super) active: bool,
    pub(super) said: Result<Vec<Step>, NotAsked>,
}

impl TestReport {
    pub(super) fn of(evidence: Evidence) -> Self {
        let Evidence { destination, at, by, mut central, through, ms, candidates } = evidence;
        let carried_by = match &through {
            Ok(tried) => Some(&tried.via),
            Err(failure) => failure.via(),
        };
        if let Some(via) = carried_by.filter(|_| central[2].failed()) {
            // It came up since the gateway was looked at.
            central[2] = Step::pass(Hop::Tunnel, None, format!("{via} carries the tunnel"));
        }
        let active = candidates.iter().find(|heard| heard.active);
        let account = active.and_then(|heard| heard.said.as_ref().ok());
        let mut steps = Vec::from(central);
        steps.extend(site_steps(&through, account.map_or(&[][..], Vec::as_slice)));
        let candidates: Vec<_> = candidates.into_iter().map(CandidateReport::of).collect();
        let (reached, via, reason) = match &through {
            Ok(tried) => (true, Some(tried.via.clone()), None),
            Err(failure) => (false, failure.via().cloned(), Some(failure.to_string())),
        };
        let failed = steps.iter().find(|step| step.failed());
        let verdict = match failed {
            None if reached => Verdict::Pass,
            None | Some(_) => Verdict::Fail,
        };
        let mut summary = match (failed, &via) {
            (None, Some(via)) => match steps
                .iter()
                .find(|s| s.hop == Hop::Greeting && s.verdict == Verdict::Pass)
            {
                Some(heard) => format!("{destination} answers through {via} in {ms} ms: {}", heard.detail),
                None => format!("{destination} accepts connections through {via}, in {ms} ms"),
            },
            (Some(step), via) => format!("{destination} does not work: {}", blame(step, via.as_ref())),
            (None, None) => {
                format!("{destination} was not reached: {}", reason.as_deref().unwrap_or_default())
            }
        };
        let unable: Vec<_> =
            candidates.iter().filter(|one| !one.active && one.verdict == Verdict::Fail).collect();
        for one in unable {
            summary.push_str(&format!(". {} could not take its place: {}", one.name, one.summary));
        }
        Self { destination, verdict, summary, reached, ms, via, reason, at, by, steps, candidates }
    }

    /// Nobody reaches it: every candidate that could be asked failed, and no stream came to be.
    pub fn is_unreachable(&self) -> bool {
        let mut asked = self.candidates.iter().filter(|one| one.verdict != Verdict::Skip).peekable();
        !self.reached && asked.peek().is_some() && asked.all(|one| one.verdict == Verdict::Fail)
    }
}

impl TestReport {
    /// The same without its steps.
    pub(super) fn summarised(&self) -> TestSummary {
        let Self { destination, verdict, summary, reached, ms, via, reason, at, by, .. } = self.clone();
        TestSummary { destination, verdict, summary, reached, ms, via, reason, at, by }
    }
}

impl CandidateReport {
    fn of(heard: Heard) -> Self {
        let Heard { name, active, said } = heard;
        let connected = said != Err(NotAsked::NotConnected);
        match said {
            Err(why) => {
                let summary = why.to_string();
                Self { name, active, connected, verdict: Verdict::Skip, summary, ms: None, steps: Vec::new() }
            }
            Ok(steps) => {
                let ms = steps.iter().filter_map(|step| step.ms).fold(0, u64::saturating_add);
                let (verdict, summary) = match steps.iter().find(|step| step.failed()) {
                    Some(step) => (Verdict::Fail, blame(step, None)),
                    None => (Verdict::Pass, format!("reaches it in {ms} ms")),
                };
                Self { name, active, connected, verdict, summary, ms: Some(ms), steps }
            }
        }
    }
}

/// The site's hops on the way through the active.
fn site_steps(through: &Result<TriedOut, OpenFailure>, account: &[Step]) -> Vec<Step> {
    let told = |hop: Hop| account.iter().find(|step| step.hop == hop);
    match through {
        // The stream is the proof; the account adds what it cannot show.
        Ok(tried) => {
            let open = format!("a stream through the tunnel of {} was accepted", tried.via);
            let proved = |hop| match told(hop).filter(|step| !step.failed()) {
                Some(step) => step.clone(),
                None if hop == Hop::Connect => Step::pass(hop, Some(tried.ms), open.clone()),
                None => Step::pass(hop, None, open.clone()),
            };
            [Hop::AllowList, Hop::Dns, Hop::Connect]
                .map(proved)
                .into_iter()
                .chain(tried.words.clone())
                .collect()
        }
        Err(OpenFailure::Refused { at, reason, .. }) => {
            // The agent's own probe usually met the same thing, and knows where.
            let failed = account.iter().find(|step| step.failed() && SITE[..3].contains(&step.hop));
            let at = failed.map_or(*at, |step| step.hop);
            SITE.into_iter()
                .map(|hop| match told(hop) {
                    Some(step) if hop == at && step.failed() => step.clone(),
                    _ if hop == at => Step::fail(hop, None, reason.clone(), action(hop)),
                    Some(step) if hop < at => step.clone(),
                    None if hop < at => Step::skip(hop, "the agent did not tell"),
                    _ => Step::skip(hop, "the hops before it failed"),
                })
                .collect()
        }
        Err(failure) => {
            let why = match failure {
                OpenFailure::NoTunnel => "there is no tunnel to go through".to_owned(),
                other => other.to_string(),
            };
            SITE.map(|hop| Step::skip(hop, why.clone())).into()
        }
    }
}

fn action(hop: Hop) -> &'static str {
    match hop {
        Hop::AllowList => "allow it in the allow-list on that host, if the site agrees",
        Hop::Dns => "check the name, and the name servers of the agent's host",
        _ => "check that the service runs, and the firewalls between it and the agent's host",
    }
}

/// Where it failed and why, in one clause.
fn blame(step: &Step, via: Option<&Name>) -> String {
    let seen_from = via.map(|via| format!(" (seen from {via})")).unwrap_or_default();
    let detail = step.detail.trim_end_matches('.');
    match step.hop {
        Hop::Enabled | Hop::Listener | Hop::Tunnel => detail.to_owned(),
        hop => format!("{}{seen_from}: {detail}", title(hop)),
    }
}

/// A hop in people's words.
pub fn title(hop: Hop) -> &'static str {
    match hop {
        Hop::Enabled => "destination",
        Hop::Listener => "listener",
        Hop::Tunnel => "tunnel",
        Hop::AllowList => "allow-list",
        Hop::Dns => "DNS",
        Hop::Connect => "connection",
        Hop::Tls => "TLS",
        Hop::Greeting => "greeting",
        Hop::Other => "another hop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_proof_and_the_agent_tells_the_addresses() {
        let report = TestReport::of(evidence(Ok(tried()), vec![heard("gw-a", true, Ok(account()))]));
        assert_eq!((report.verdict, report.reached), (Verdict::Pass, true));
        assert_eq!(detail(&report, Hop::Dns), "10.0.4.7");
        assert_eq!(report.summary, "db answers through gw-a in 34 ms: PostgreSQL, offers TLS");
    }

    #[test]
    fn an_agent_that_is_too_old_to_tell_leaves_the_streams_own_proof() {
        let old = Err(NotAsked::TooOld { software: "0.0.1".into() });
        let report = TestReport::of(evidence(Ok(tried()), vec![heard("gw-a", true, old)]));
        assert_eq!(report.verdict, Verdict::Pass);
        assert!(detail(&report, Hop::Connect).contains("was accepted"));
        assert_eq!(report.candidates[0].verdict, Verdict::Skip);
    }

    #[test]
    fn a_candidate_that_could_not_take_over_is_named_though_all_is_well() {
        let refusing = vec![
            Step::fail(Hop::AllowList, None, "db:5432 is not in this agent's allow-list", "add it"),
            Step::skip(Hop::Dns, ""),
        ];
        let all = vec![heard("gw-a", true, Ok(account())), heard("gw-b", false, Ok(refusing))];
        let report = TestReport::of(evidence(Ok(tried()), all));
        assert_eq!(report.verdict, Verdict::Pass);
        assert!(!report.is_unreachable());
        let wanted = "gw-b could not take its place: allow-list: db:5432 is not in this agent's allow-list";
        assert!(report.summary.ends_with(wanted), "{}", report.summary);
    }

    #[test]
    fn a_refusal_shows_at_the_hop_where_the_agent_met_it() {
        let failure = refused(Hop::Connect, "db has no usable name");
        let met = vec![
            Step::pass(Hop::AllowList, None, "allows db:5432"),
            Step::fail(Hop::Dns, None, "db: it has no address", "check the name"),
            Step::skip(Hop::Connect, ""),
        ];
        let report = TestReport::of(evidence(Err(failure), vec![heard("gw-a", true, Ok(met))]));
        let verdicts: Vec<_> = report.steps.iter().map(|step| step.verdict).collect();
        use Verdict::{Fail, Pass, Skip};
        assert_eq!(verdicts, [Pass, Pass, Pass, Pass, Fail, Skip, Skip, Skip]);
        assert_eq!(report.summary, "db does not work: DNS (seen from gw-a): db: it has no address");
        assert!(report.is_unreachable());
    }

    #[test]
    fn without_the_agents_account_the_refusals_own_code_says_where() {
        let failure = refused(Hop::AllowList, "db:5432 is refused by this site");
        let report =
            TestReport::of(evidence(Err(failure), vec![heard("gw-a", true, Err(NotAsked::NoAnswer))]));
        let step = report.steps.iter().find(|step| step.failed()).unwrap();
        assert_eq!((step.hop, step.detail.as_str()), (Hop::AllowList, "db:5432 is refused by this site"));
        assert!(!report.is_unreachable(), "nobody else was asked");
    }

    #[test]
    fn without_a_tunnel_a_standby_still_tells_whether_it_could() {
        let mut evidence = evidence(Err(OpenFailure::NoTunnel), vec![heard("gw-b", false, Ok(account()))]);
        evidence.central[2] = Step::fail(Hop::Tunnel, None, "no candidate carries a tunnel", "look");
        let report = TestReport::of(evidence);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.candidates[0].summary, "reaches it in 7 ms");
        assert_eq!(report.summary, "db does not work: no candidate carries a tunnel");
        assert!(!report.is_unreachable());
    }

    #[test]
    fn a_stream_that_came_to_be_went_through_a_tunnel() {
        let mut evidence = evidence(Ok(tried()), Vec::new());
        evidence.central[2] = Step::fail(Hop::Tunnel, None, "no tunnel is up at this moment", "wait");
        let report = TestReport::of(evidence);
        assert_eq!(
            (report.verdict, detail(&report, Hop::Tunnel)),
            (Verdict::Pass, "gw-a carries the tunnel")
        );
    }

    fn detail(report: &TestReport, hop: Hop) -> &str {
        &report.steps.iter().find(|step| step.hop == hop).unwrap().detail
    }

    fn evidence(through: Result<TriedOut, OpenFailure>, candidates: Vec<Heard>) -> Evidence {
        Evidence {
            destination: "db".parse().unwrap(),
            at: OffsetDateTime::UNIX_EPOCH,
            by: "someone".into(),
            central: [Hop::Enabled, Hop::Listener, Hop::Tunnel].map(|hop| Step::pass(hop, None, "")),
            through,
            ms: 34,
            candidates,
        }
    }

    fn heard(name: &str, active: bool, said: Result<Vec<Step>, NotAsked>) -> Heard {
        Heard { name: name.parse().unwrap(), active, said }
    }

    fn account() -> Vec<Step> {
        vec![
            Step::pass(Hop::AllowList, None, "allows db:5432"),
            Step::pass(Hop::Dns, Some(3), "10.0.4.7"),
            Step::pass(Hop::Connect, Some(4), "10.0.4.7:5432 accepted"),
        ]
    }

    fn tried() -> TriedOut {
        let words = [Step::skip(Hop::Tls, ""), Step::pass(Hop::Greeting, Some(5), "PostgreSQL, offers TLS")];
        TriedOut { via: "gw-a".parse().unwrap(), ms: 34, words }
    }

    fn refused(at: Hop, reason: &str) -> OpenFailure {
        OpenFailure::Refused { via: "gw-a".parse().unwrap(), at, reason: reason.into() }
    }
}
