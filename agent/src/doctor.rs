//! `postern-agent doctor`: is this host set up so that an agent can work here?
//!
//! One line per question, PASS, FAIL or SKIP, in the order in which things depend on each other.
//! It changes nothing, needs no running agent, and nothing waits for its verdict.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use proto::hello::{CLOCK_SKEW_MAX, RENEW_PATH};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::{
    config::{AllowSource, Config, read_allow_list},
    identity::{
        Identity,
        central::{connect_central, reach, resolve},
    },
    status,
};
use program::explain;

/// The questions about the way to central, in their order.
const WAY_TO_CENTRAL: [&str; 4] = ["proxy", "central's name", "central", "clock"];
const CONFIGURATION_FIRST: &str = "the configuration comes first";
/// How long central may take to tell its time.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Prints a line per check and a summary; fails when a check failed.
pub async fn command(data_dir: PathBuf, config: Option<PathBuf>) -> ExitCode {
    let findings = examine(&data_dir, config.as_deref()).await;
    for finding in &findings {
        println!("{finding}");
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let failed = count(Verdict::Fail);
    println!("SUMMARY: {} passed, {failed} failed, {} skipped", count(Verdict::Pass), count(Verdict::Skip));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    Skip,
}

/// The answer to one question.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    subject: &'static str,
    details: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "SKIP",
        };
        write!(f, "{verdict}  {:<16} {}", self.subject, self.details)
    }
}

/// Collects findings; each check hands on what later ones need.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note<T>(&mut self, subject: &'static str, checked: Result<(T, String), String>) -> Option<T> {
        let (verdict, details, found) = match checked {
            Ok((found, details)) => (Verdict::Pass, details, Some(found)),
            Err(details) => (Verdict::Fail, details, None),
        };
        self.0.push(Finding { verdict, subject, details });
        found
    }

    fn skip(&mut self, subject: &'static str, why: &str) {
        self.0.push(Finding { verdict: Verdict::Skip, subject, details: why.to_owned() });
    }

    fn skip_all(&mut self, subjects: &[&'static str], why: &str) {
        subjects.iter().for_each(|subject| self.skip(subject, why));
    }
}

async fn examine(data_dir: &Path, config: Option<&Path>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.note("data directory", folder(data_dir));
    let config = findings.note("configuration", settings(data_dir, config));
    match &config {
        Some(config) => {
            findings.note("allow-list", allow_list(&config.allow));
        }
        None => findings.skip("allow-list", CONFIGURATION_FIRST),
    }
    match (findings.note("identity", identity(data_dir)), config) {
        (Some(identity), Some(config)) => {
            way_to_central(&identity.through(config.proxy), &mut findings).await;
        }
        (None, _) => findings.skip_all(&WAY_TO_CENTRAL, "the identity comes first"),
        (Some(_), None) => findings.skip_all(&WAY_TO_CENTRAL, CONFIGURATION_FIRST),
    }
    match status::ask(data_dir).await {
        Ok(snapshot) => {
            let details = format!("running, pid {}, {:?}", snapshot.pid, snapshot.role).to_lowercase();
            findings.note("agent", Ok(((), details)));
        }
        Err(status::StatusError::NotRunning { .. }) => findings.skip("agent", "it is not running"),
        Err(error) => {
            findings.note::<()>("agent", Err(explain(&error)));
        }
    }
    findings.0
}

fn folder(data_dir: &Path) -> Result<((), String), String> {
    let shown = data_dir.display();
    let meta = std::fs::metadata(data_dir).map_err(|e| format!("{shown}: {e}"))?;
    if !meta.is_dir() {
        return Err(format!("{shown} is not a folder"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(format!("{shown}: other users may write into it; run 'chmod go-w {shown}'"));
        }
        let key = data_dir.join("identity/key.pem");
        if std::fs::metadata(&key).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
            let key = key.display();
            return Err(format!("{key}: other users may read it; run 'chmod 600 {key}'"));
        }
    }
    Ok(((), format!("{shown} is this user's own")))
}

fn settings(data_dir: &Path, file: Option<&Path>) -> Result<(Config, String), String> {
    let config = Config::load(data_dir, file).map_err(|e| explain(&e))?;
    let path = file.map_or_else(|| data_dir.join("agent.toml"), Path::to_owned);
    let details =
        if path.exists() { format!("{} is good", path.display()) } else { "none; defaults apply".to_owned() };
    Ok((config, details))
}

fn allow_list(source: &AllowSource) -> Result<((), String), String> {
    let (entries, place) = match source {
        AllowSource::Inline(list) => (list.len(), "the configuration".to_owned()),
        AllowSource::File(path) if !path.exists() => {
            return Err(format!("{} is missing: every destination is refused", path.display()));
        }
        AllowSource::File(path) => {
            (read_allow_list(path).map_err(|e| explain(&e))?.len(), path.display().to_string())
        }
    };
    if entries == 0 {
        return Err(format!("{place} lists nothing: every destination is refused"));
    }
    Ok(((), format!("{entries} entries in {place}")))
}

fn identity(data_dir: &Path) -> Result<(Identity, String), String> {
    let identity = Identity::read(data_dir).map_err(|e| explain(&e))?;
    let expires = humantime::format_rfc3339_seconds(identity.not_after);
    match identity.not_after.duration_since(SystemTime::now()) {
        Err(_) => Err(format!(
            "the certificate expired at {expires}; if the agent cannot renew it, enrol again with 'postern-agent \
             enroll --replace'"
        )),
        Ok(left) => {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs() / 60 * 60));
            let details =
                format!("{} in environment {}, valid for {left}", identity.name, identity.environment);
            Ok((identity, details))
        }
    }
}

async fn way_to_central(identity: &Identity, findings: &mut Findings) {
    let [proxy, name, central, clock] = WAY_TO_CENTRAL;
    let url = &identity.central;
    let line = identity.segments.line();
    let connected = match &identity.proxy {
        None => {
            findings.skip(proxy, "none is set, and HTTPS_PROXY is not followed: central is reached directly");
            let addrs = resolve(url).await.map_err(|e| explain(&e)).map(|addrs| {
                let list: Vec<_> = addrs.iter().map(|addr| addr.ip().to_string()).collect();
                ((), format!("{} is {}", url.host(), list.join(", ")))
            });
            if findings.note(name, addrs).is_none() {
                findings.skip(central, "its name comes first");
                findings.skip(clock, "it is compared with central's");
                return;
            }
            connect_central(url, identity, &line).await
        }
        Some(through) => {
            let reached = reach(url, Some(through), &line).await.map_err(|e| explain(&e));
            let reached =
                reached.map(|reached| (reached, format!("{through} opens the way to {}", url.authority())));
            let Some(reached) = findings.note(proxy, reached) else {
                findings.skip_all(&[name, central, clock], "the proxy comes first");
                return;
            };
            findings.skip(name, "the proxy looks it up");
            reached.secure(identity.tls.clone(), &line).await
        }
    };
    let connected = connected
        .map(|stream| (stream, format!("{url} is reached over TLS with the pinned CA")))
        .map_err(|e| explain(&e));
    match findings.note(central, connected) {
        None => findings.skip(clock, "it is compared with central's"),
        Some(stream) => match time_of(stream, &url.authority()).await {
            Some(theirs) => {
                findings.note(clock, compare(SystemTime::now(), theirs));
            }
            None => findings.skip(clock, "central did not tell its time"),
        },
    }
}

/// The time in the answer to a request that changes nothing.
async fn time_of(stream: TlsStream<TcpStream>, authority: &str) -> Option<SystemTime> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request =
            Request::head(RENEW_PATH).header(header::HOST, authority).body(Empty::<Bytes>::new()).ok()?;
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer.ok()?,
            _ = connection => return None,
        };
        let date = answer.headers().get(header::DATE)?.to_str().ok()?;
        http_date(date)
    };
    timeout(CLOCK_TIMEOUT, exchange).await.ok().flatten()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: the one form HTTP servers send today.
fn http_date(text: &str) -> Option<SystemTime> {
    let date = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822).ok()?;
    Some(date.into())
}

fn compare(ours: SystemTime, theirs: SystemTime) -> Result<((), String), String> {
    let (off, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let details =
        format!("{} {word} central's", humantime::format_duration(Duration::from_secs(off.as_secs())));
    if off > CLOCK_SKEW_MAX {
        Err(format!("{details}; more than {CLOCK_SKEW_MAX:?} is refused: correct this host's time"))
    } else {
        Ok(((), details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;

    #[tokio::test]
    async fn a_fresh_host_is_told_what_is_missing_and_what_depends_on_it() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(&parent.path().join("agent")).unwrap();

        let findings = examine(data_dir.path(), None).await;

        let verdicts: Vec<_> = findings.iter().map(|finding| (finding.subject, finding.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("data directory", Verdict::Pass),
                ("configuration", Verdict::Pass),
                ("allow-list", Verdict::Fail),
                ("identity", Verdict::Fail),
                ("proxy", Verdict::Skip),
                ("central's name", Verdict::Skip),
                ("central", Verdict::Skip),
                ("clock", Verdict::Skip),
                ("agent", Verdict::Skip),
            ]
        );
        assert!(findings[3].details.contains("postern-agent enroll"), "{}", findings[3]);
    }

    #[test]
    fn the_time_in_an_http_answer_is_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
        assert_eq!(http_date("soon"), None);
    }

    #[test]
    fn a_clock_off_by_more_than_central_takes_is_a_failure_either_way() {
        let now = SystemTime::now();
        let off = |seconds| Duration::from_secs(seconds);
        assert!(compare(now, now - off(299)).is_ok());
        assert!(compare(now, now - off(301)).unwrap_err().contains("ahead of"));
        assert!(compare(now, now + off(301)).unwrap_err().contains("behind"));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_others_may_write_into_is_a_failure() {
        use std::os::unix::fs::PermissionsExt;
        let folder_path = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder_path.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(folder(folder_path.path()).unwrap_err().contains("chmod go-w"));
    }
}
