//! Tries a destination for central and tells every step: allow-list, DNS, connection, first words.
//!
//! It goes the way of a stream: the same list, one resolution, only permitted addresses. The site's list
//! keeps its last word, and what it refuses is not even looked up.

use std::{
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use probe::Target;
use proto::trace::{Ask, Hop, Step};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{
    Dialer,
    allow_list::{CheckError, Permitted},
    dial::{Connector, race},
    rationed::is_no_room,
    resolve::{ResolveError, Resolver},
};
use program::explain;

/// The longest that central may let us try.
const LIMIT_MAX: Duration = Duration::from_secs(30);
/// How long TLS and the greeting may take, each; less where central's own time ends before.
const WORDS_LIMIT: Duration = Duration::from_secs(5);
/// How many of a name's addresses are told.
const ADDRESSES_SHOWN: usize = 8;

impl<R: Resolver, C: Connector> Dialer<R, C>
where
    C::Stream: AsyncRead + AsyncWrite + Unpin,
{
    /// Every step, in the order of the hops, whatever fails. Takes no place among the streams' dials: there
    /// is one probe at a time. Cancel-safe: dropping it closes what was opened.
    pub async fn probe(&self, ask: &Ask) -> Vec<Step> {
        let deadline = Instant::now() + Duration::from_millis(ask.limit_ms).min(LIMIT_MAX);
        let (mut steps, permitted) = self.permit(ask, deadline).await;
        let Some(permitted) = permitted else {
            steps.push(Step::skip(Hop::Connect, "there is no permitted address to connect to"));
            steps.extend(probe::not_tried("there is no connection"));
            return steps;
        };
        let began = Instant::now();
        let until = deadline.min(began + self.limit);
        match timeout_at(until, race(permitted.addrs(), &self.connector)).await {
            Ok(Ok((stream, address))) => {
                steps.push(Step::pass(Hop::Connect, Some(ms(began)), format!("{address} accepted")));
                let left = deadline.saturating_duration_since(Instant::now());
                let target = Target { kind: &ask.kind, host: &ask.host, port: ask.port, path: &ask.path };
                steps.extend(probe::first_words(stream, target, WORDS_LIMIT.min(left / 2)).await);
            }
            Ok(Err(error)) => {
                let (reason, action) = refused(&permitted, &error);
                steps.push(Step::fail(Hop::Connect, Some(ms(began)), reason, action));
                steps.extend(probe::not_tried("there is no connection"));
            }
            Err(_) => {
                let reason = format!(
                    "{} did not answer within {} s",
                    addresses(&permitted),
                    (until - began).as_secs_f32()
                );
                let action = "a firewall drops the connection, or that host is off: check both";
                steps.push(Step::fail(Hop::Connect, Some(ms(began)), reason, action));
                steps.extend(probe::not_tried("there is no connection"));
            }
        }
        steps
    }

    /// The allow-list's and the name server's steps.
    async fn permit(&self, ask: &Ask, deadline: Instant) -> (Vec<Step>, Option<Permitted>) {
        let Ask { host, port, .. } = ask;
        let list = self.allow_list();
        let hearing = Hearing { resolver: &self.resolver, heard: Mutex::default() };
        let checked = timeout_at(deadline, list.check(host, *port, &hearing)).await;
        let dns = hearing.step(host);
        let listed = || Step::pass(Hop::AllowList, None, format!("allows {host}:{port}"));
        match checked {
            Ok(Ok(permitted)) => (vec![listed(), dns], Some(permitted)),
            // Asked at all, so it was listed.
            Err(_) => {
                let dns = failed_look_up(host, &ResolveError::TimedOut);
                (vec![listed(), dns], None)
            }
            Ok(Err(CheckError::Resolve { source, .. })) => {
                (vec![listed(), failed_look_up(host, &source)], None)
            }
            Ok(Err(refusal)) => {
                let action = match self.allow_list_path() {
                    Some(path) => format!(
                        "to allow it, add it to {} on that host; the file is read again at once",
                        path.display()
                    ),
                    None => {
                        "to allow it, add it to [[allow]] in that host's agent.toml and restart its agent"
                            .to_owned()
                    }
                };
                (vec![Step::fail(Hop::AllowList, None, explain(&refusal), action), dns], None)
            }
        }
    }
}

/// Listens in on the one look-up.
struct Hearing<'a, R> {
    resolver: &'a R,
    heard: Mutex<Option<(Vec<IpAddr>, u64)>>,
}

impl<R: Resolver> Resolver for Hearing<'_, R> {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let began = Instant::now();
        let addresses = self.resolver.resolve(name).await?;
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((addresses.clone(), ms(began)));
        Ok(addresses)
    }
}

impl<R> Hearing<'_, R> {
    fn step(&self, host: &str) -> Step {
        match &*self.heard.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((addresses, ms)) => Step::pass(Hop::Dns, Some(*ms), shown(addresses.iter().copied())),
            None if host.parse::<IpAddr>().is_ok() => Step::skip(Hop::Dns, "it is an address already"),
            None => Step::skip(Hop::Dns, "what the allow-list refuses is not looked up"),
        }
    }
}

fn failed_look_up(host: &str, why: &ResolveError) -> Step {
    let action = "check the name, and the name servers of the agent's host";
    Step::fail(Hop::Dns, None, format!("{host}: {}", explain(why)), action)
}

fn refused(permitted: &Permitted, error: &io::Error) -> (String, &'static str) {
    let action = match error.kind() {
        _ if is_no_room(error) => {
            "raise LimitNOFILE of the agent's service, or end streams that nobody needs"
        }
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: check that the service runs, and its port"
        }
        _ => "check the route and the firewalls between the agent's host and the service",
    };
    (format!("{}: {error}", addresses(permitted)), action)
}

fn addresses(permitted: &Permitted) -> String {
    shown(permitted.addrs().iter().copied())
}

fn shown<T: ToString>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(ADDRESSES_SHOWN);
    let mut text = all.take(ADDRESSES_SHOWN).map(|one| one.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::SocketAddr};

    use proto::trace::Verdict::{self, Fail, Pass, Skip};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::{super::list_file::ListFile, *};
    use crate::dialer::allow_list::{AllowList, Entry};

    #[tokio::test(start_paused = true)]
    async fn a_database_that_answers_passes_every_hop() {
        let steps = site("db.example", 5432).probe(&ask("db.example", 5432, "postgresql")).await;
        assert_eq!(verdicts(&steps), [Pass, Pass, Pass, Skip, Pass], "{steps:?}");
        assert_eq!(steps[1].detail, "10.0.4.7");
        assert_eq!(steps[2].detail, "10.0.4.7:5432 accepted");
        assert_eq!(steps[4].detail, "PostgreSQL, without TLS");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_site_does_not_list_is_not_even_looked_up() {
        let steps = site("db.example", 5432).probe(&ask("other.example", 5432, "tcp")).await;
        assert_eq!(verdicts(&steps), [Fail, Skip, Skip, Skip, Skip]);
        assert!(steps[0].detail.contains("is not in this agent's allow-list"), "{steps:?}");
        assert!(steps[0].action.as_ref().unwrap().contains("agent.toml"), "{steps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_leads_elsewhere_shows_where() {
        let steps = site("liar.example", 5432).probe(&ask("liar.example", 5432, "tcp")).await;
        assert_eq!(verdicts(&steps), [Fail, Pass, Skip, Skip, Skip]);
        assert!(steps[0].detail.contains("127.0.0.1") && steps[1].detail == "127.0.0.1", "{steps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_nobody_knows_fails_at_dns() {
        let steps = site("gone.example", 5432).probe(&ask("gone.example", 5432, "tcp")).await;
        assert_eq!(verdicts(&steps), [Pass, Fail, Skip, Skip, Skip]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_ends_within_its_time() {
        let began = Instant::now();
        let steps = site("dead.example", 5432).probe(&ask("dead.example", 5432, "tcp")).await;
        assert_eq!(verdicts(&steps), [Pass, Pass, Fail, Skip, Skip]);
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(steps[2].detail, "10.0.4.9:5432 did not answer within 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn no_question_may_last_longer_than_the_bound() {
        let began = Instant::now();
        let ask = Ask { limit_ms: u64::MAX, ..ask("mute.example", 5432, "postgresql") };
        let steps = site("mute.example", 5432).probe(&ask).await;
        assert_eq!(verdicts(&steps), [Pass, Pass, Pass, Skip, Fail]);
        assert!(began.elapsed() <= LIMIT_MAX);
    }

    fn verdicts(steps: &[Step]) -> Vec<Verdict> {
        assert!(steps.is_sorted_by_key(|step| step.hop), "{steps:?}");
        steps.iter().map(|step| step.verdict).collect()
    }

    fn ask(host: &str, port: u16, kind: &str) -> Ask {
        let (destination, host, kind) = ("db".into(), host.into(), kind.into());
        Ask { id: 1, destination, host, port, kind, path: String::new(), limit_ms: 15_000 }
    }

    /// A site that allows one name.
    fn site(host: &str, port: u16) -> Dialer<Names, Hosts> {
        #[derive(serde::Deserialize)]
        struct List {
            allow: Vec<Entry>,
        }
        let text = format!("[[allow]]\nhost = \"{host}\"\nports = {port}\n");
        let list: List = toml::from_str(&text).unwrap();
        let list = ListFile::fixed(AllowList::new(list.allow), &[]);
        Dialer::assemble(list, Names, Hosts, Duration::from_secs(10), super::super::DIALS_MAX)
    }

    struct Names;

    impl Resolver for Names {
        async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
            let known = HashMap::from([
                ("db.example", "10.0.4.7"),
                ("mute.example", "10.0.4.8"),
                ("dead.example", "10.0.4.9"),
                ("liar.example", "127.0.0.1"),
            ]);
            known.get(name).map(|address| vec![address.parse().unwrap()]).ok_or(ResolveError::NoAddress)
        }
    }

    #[derive(Clone)]
    struct Hosts;

    impl Connector for Hosts {
        type Stream = DuplexStream;

        async fn connect(&self, addr: SocketAddr) -> io::Result<DuplexStream> {
            let (near, mut far) = duplex(1024);
            match addr.ip().to_string().as_str() {
                "10.0.4.7" => {
                    tokio::spawn(async move {
                        let mut request = [0; 8];
                        far.read_exact(&mut request).await.unwrap();
                        far.write_all(b"N").await.unwrap();
                    });
                    Ok(near)
                }
                "10.0.4.8" => {
                    tokio::spawn(async move {
                        let _kept = far;
                        std::future::pending::<()>().await;
                    });
                    Ok(near)
                }
                _ => std::future::pending().await,
            }
        }
    }
}
