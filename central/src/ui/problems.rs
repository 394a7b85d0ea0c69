//! What is wrong, by root cause, with what to do next. Consequences are not listed beside their cause: a
//! gateway that is down because every candidate is away has one problem per candidate, and says so once.

use time::OffsetDateTime;

use super::{
    answers::{Destination, Gateway, ProcessServer, State},
    words::{Moment, Tone},
};

/// Something to be mended.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) tone: Tone,
    /// One word for programs and search.
    pub(super) code: &'static str,
    pub(super) title: String,
    pub(super) why: String,
    pub(super) next: String,
    /// A command that helps, to be copied.
    pub(super) command: Option<String>,
    /// The page where it is mended: address and words.
    pub(super) link: Option<(String, &'static str)>,
    pub(super) since: Option<Moment>,
}

/// All that is known to be wrong, the worst first.
pub(super) fn find(
    gateway: &Gateway,
    servers: &[ProcessServer],
    destinations: &[Destination],
    now: OffsetDateTime,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(of_the_gateway(gateway, servers, now));
    for server in servers.iter().filter(|server| server.candidate) {
        problems.extend(of_a_candidate(server, gateway, now));
    }
    problems.extend(of_the_group(gateway, servers));
    problems.extend(destinations.iter().filter_map(of_a_destination));
    problems.sort_by_key(|problem| match problem.tone {
        Tone::Bad => 0,
        Tone::Busy => 1,
        Tone::Calm => 2,
        Tone::Good => 3,
    });
    problems
}

fn of_the_gateway(gateway: &Gateway, servers: &[ProcessServer], now: OffsetDateTime) -> Option<Problem> {
    if gateway.state != State::Down {
        return None;
    }
    let candidates = servers.iter().filter(|server| server.candidate);
    let (mut away, mut all) = (0, 0);
    for candidate in candidates {
        all += 1;
        away += usize::from(!candidate.connected);
    }
    // Where every candidate is away, they are the cause and stand below; this says what it means.
    let why = if away == all {
        "Every candidate is disconnected from central, so nobody can carry the tunnel.".to_owned()
    } else {
        format!(
            "{} of {all} candidates are connected, and none could bring up a secure connection.",
            all - away
        )
    };
    Some(Problem {
        tone: Tone::Bad,
        code: "gateway_down",
        title: "The Secure Gateway is down".to_owned(),
        why,
        next:
            "New connections are refused after their wait. Central keeps trying every candidate, round after \
            round: mend one of the candidates below."
                .to_owned(),
        command: None,
        link: None,
        since: Some(Moment::new(gateway.since, now)),
    })
}

fn of_a_candidate(server: &ProcessServer, gateway: &Gateway, now: OffsetDateTime) -> Option<Problem> {
    let name = &server.name;
    let page = format!("/process-servers/{name}");
    let problem = |tone, code, title: String, why: String, next: &str| Problem {
        tone,
        code,
        title,
        why,
        next: next.to_owned(),
        command: None,
        link: Some((page.clone(), "Look at it")),
        since: None,
    };
    if let Some(returning) =
        server.returning.as_ref().filter(|one| one.approved_until.is_none_or(|at| at <= now))
    {
        return Some(Problem {
            since: Some(Moment::new(returning.expired_at, now)),
            ..problem(
                Tone::Bad,
                "certificate_expired",
                format!("{name} cannot come back: its certificate has expired"),
                "Its agent asks for a new one, which central gives to nobody unasked.".to_owned(),
                "Look whether it is the host itself that asks, and let it come back.",
            )
        });
    }
    if !server.connected {
        let carries = gateway.state == State::Up;
        let tone = if carries { Tone::Busy } else { Tone::Bad };
        let why = match server.last_seen {
            Some(_) => "Central hears nothing from its agent.".to_owned(),
            None => "Its agent has never connected since it was enrolled.".to_owned(),
        };
        return Some(Problem {
            command: Some("postern-agent doctor".to_owned()),
            since: server.last_seen.map(|seen| Moment::new(seen, now)),
            ..problem(
                tone,
                "candidate_disconnected",
                format!("{name} is not connected"),
                why,
                "On that host, see that the service runs and what it says of its way to central.",
            )
        });
    }
    if let Some(said) = disagreement(server) {
        return Some(problem(
            Tone::Busy,
            "ends_disagree",
            format!("{name} and central disagree"),
            said,
            "This lasts for moments during a change. If it stays, restart the agent.",
        ));
    }
    if server.restart_required {
        return Some(problem(
            Tone::Calm,
            "restart_required",
            format!("{name} waits for a restart"),
            "It was marked as Secure Gateway Candidate, and its agent has not been restarted since."
                .to_owned(),
            "Restart it when it suits: the first one restarted becomes active.",
        ));
    }
    if let Some(error) = server.link.as_ref().and_then(|link| link.last_error.as_deref())
        && gateway.state != State::Up
    {
        return Some(problem(
            Tone::Bad,
            "tunnel_failed",
            format!("{name} cannot bring up its tunnel"),
            format!("It says: {error}"),
            "Mend what it names; it keeps trying by itself.",
        ));
    }
    None
}

/// What central and the agent say of each other, where it is not the same.
pub(super) fn disagreement(server: &ProcessServer) -> Option<String> {
    let role = server.link.as_ref()?.reported_role.as_deref()?;
    match (server.active, role) {
        (true, "active" | "draining") | (false, "unseated" | "standby" | "claiming" | "draining") => None,
        (true, other) => {
            Some(format!("Central has its tunnel as the active one; the agent says it is {other}."))
        }
        (false, other) => {
            Some(format!("The agent says it is {other}; central has no admitted tunnel of it."))
        }
    }
}

fn of_the_group(gateway: &Gateway, servers: &[ProcessServer]) -> Option<Problem> {
    let carries = gateway.state == State::Up;
    let ready = gateway.candidates.iter().filter(|candidate| candidate.configured).count();
    if !carries || ready > 1 {
        return None;
    }
    let marked = servers.iter().filter(|server| server.candidate).count();
    // With several marked, those that are away are the cause and stand above.
    let (why, next) = if marked > 1 {
        ("No other candidate is connected and ready.", "Bring one of the other candidates back.")
    } else {
        (
            "Only one Process Server is marked as candidate.",
            "Mark a second one: two hosts are enough, central breaks the tie.",
        )
    };
    Some(Problem {
        tone: Tone::Busy,
        code: "no_standby",
        title: "Nobody could take over".to_owned(),
        why: why.to_owned(),
        next: next.to_owned(),
        command: None,
        link: Some(("/process-servers".to_owned(), "Process Servers")),
        since: None,
    })
}

fn of_a_destination(destination: &Destination) -> Option<Problem> {
    let why = destination.problem.as_ref()?;
    Some(Problem {
        tone: Tone::Bad,
        code: "listener_failed",
        title: format!("Nobody can connect to {}", destination.name),
        why: format!("Its listener at central is not open: {why}."),
        next: "Give it another address to listen on, or free the one it has.".to_owned(),
        command: None,
        link: Some((format!("/destinations/{}", destination.name), "Change it")),
        since: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_names_its_causes_and_only_once_what_it_means() {
        let mut gateway = Gateway::sample();
        gateway.state = State::Down;
        gateway.active = None;
        let servers = [away("gw-a"), away("gw-b")];
        let found = find(&gateway, &servers, &[], OffsetDateTime::now_utc());
        let codes: Vec<_> = found.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["gateway_down", "candidate_disconnected", "candidate_disconnected"]);
    }

    #[test]
    fn a_healthy_pair_has_no_problem() {
        let servers = [connected("gw-a", true), connected("gw-b", false)];
        assert!(find(&Gateway::sample(), &servers, &[], OffsetDateTime::now_utc()).is_empty());
    }

    #[test]
    fn two_ends_that_disagree_say_so() {
        let mut server = connected("gw-b", false);
        if let Some(link) = &mut server.link {
            link.reported_role = Some("active".to_owned());
        }
        let found = find(&Gateway::sample(), &[server], &[], OffsetDateTime::now_utc());
        assert_eq!(found[0].code, "ends_disagree");
    }

    fn away(name: &str) -> ProcessServer {
        ProcessServer { connected: false, link: None, ..connected(name, false) }
    }

    fn connected(name: &str, active: bool) -> ProcessServer {
        ProcessServer { active, ..ProcessServer::sample(name) }
    }
}
