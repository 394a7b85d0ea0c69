//! dev's agents: real `postern-agent` processes, one folder each.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use proto::Name;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::enrolment::secret_file;

const PROGRAM: &str = "postern-agent";
/// How long the exchange of a token for a certificate may take, on a busy machine.
const ENROLL_WITHIN: Duration = Duration::from_secs(30);
/// How long an agent may take to stop when asked; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How much of a log's end is shown when something failed.
const TAIL_BYTES: i64 = 4096;
const TAIL_LINES: usize = 12;

const AGENT_TOML: &str = "\
# Written by `postern-central dev` when it made this agent; yours to change.
[peers]
listen = \"127.0.0.1:0\"
";

const ALLOW_LIST_TOML: &str = "\
# Written by `postern-central dev` when it made this agent; yours to change.
# A real agent's list starts empty.
[[allow]]
host = \"127.0.0.0/8\"
ports = \"*\"

[[allow]]
host = \"::1\"
ports = \"*\"

[[allow]]
host = \"localhost\"
ports = \"*\"
resolves_to = [\"127.0.0.0/8\", \"::1\"]
";

/// Why an agent is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error(
        "the program {PROGRAM} is neither beside {beside} nor on the PATH: build it with `cargo build -p agent`, \
         or with `cargo build` for everything"
    )]
    NoProgram { beside: PathBuf },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{name} could not be enrolled: {why}\n{log}")]
    Enroll { name: Name, why: String, log: String },
}

/// An agent that was started.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) name: Name,
    /// Stays the same when central restarts the agent: it starts anew within its process.
    pub(super) pid: u32,
    pub(super) data_dir: PathBuf,
}

/// All agents of this run.
pub(super) struct Agents {
    program: PathBuf,
    folder: PathBuf,
    started: Vec<Agent>,
    attended: JoinSet<()>,
    stop: CancellationToken,
    /// The last one that ended by itself, and how.
    ended: watch::Sender<Option<String>>,
}

/// Finds `postern-agent`: beside this program, as cargo and packages put it, or on the `PATH`.
pub(super) fn program() -> Result<PathBuf, AgentError> {
    let file = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name(&file);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside)
        .chain(std::env::split_paths(&on_path).map(|folder| folder.join(&file)))
        .find(|candidate| candidate.is_file())
        .ok_or(AgentError::NoProgram { beside: own })
}

impl Agents {
    /// None yet. Each will have its folder in `folder`.
    pub(super) fn new(program: PathBuf, folder: PathBuf) -> Self {
        Self {
            program,
            folder,
            started: Vec::new(),
            attended: JoinSet::new(),
            stop: CancellationToken::new(),
            ended: watch::Sender::new(None),
        }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn started(&self) -> &[Agent] {
        &self.started
    }

    /// Tells of agents that end by themselves.
    pub(super) fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.subscribe()
    }

    /// Whether this agent has an identity from an earlier start.
    pub(super) fn is_enrolled(&self, name: &Name) -> bool {
        self.data_dir(name).join("identity").join("identity.json").exists()
    }

    /// Writes the agent's settings, where there are none, and exchanges the token for its certificate.
    pub(super) async fn enroll(
        &self,
        name: &Name,
        central: SocketAddr,
        ca_cert: &Path,
        token: &str,
    ) -> Result<(), AgentError> {
        let data_dir = self.data_dir(name);
        secret_file::create_folder(&data_dir).map_err(failed("create", &data_dir))?;
        for (file, content) in [("agent.toml", AGENT_TOML), ("allow-list.toml", ALLOW_LIST_TOML)] {
            let path = data_dir.join(file);
            if !path.exists() {
                secret_file::write(&path, content.as_bytes()).map_err(failed("write", &path))?;
            }
        }
        let mut command = self.command(name)?;
        command.arg("enroll").arg("--central").arg(format!("https://{central}"));
        command.args(["--token-file", "-", "--name", name.as_str()]);
        command.arg("--ca-cert").arg(ca_cert).arg("--data-dir").arg(&data_dir).stdin(Stdio::piped());
        let mut child = command.spawn().map_err(failed("start", &self.program))?;
        let exchange = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A child that ended before it read says why in its log.
                let _ = stdin.write_all(format!("{token}\n").as_bytes()).await;
            }
            child.wait().await
        };
        let why = match timeout(ENROLL_WITHIN, exchange).await {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {ENROLL_WITHIN:?}"),
        };
        Err(AgentError::Enroll { name: name.clone(), why, log: self.log_tail(name) })
    }

    /// Starts the agent's process.
    pub(super) fn start(&mut self, name: &Name) -> Result<(), AgentError> {
        let data_dir = self.data_dir(name);
        let mut command = self.command(name)?;
        command.arg("run").arg("--data-dir").arg(&data_dir).stdin(Stdio::null());
        let child = command.spawn().map_err(failed("start", &self.program))?;
        // A child that was not waited for has its number.
        let pid = child.id().unwrap_or_default();
        self.started.push(Agent { name: name.clone(), pid, data_dir: data_dir.clone() });
        let again = format!("{} run --data-dir {}", self.program.display(), data_dir.display());
        let attending = attend(child, name.clone(), again, self.stop.clone(), self.ended.clone());
        self.attended.spawn(attending);
        Ok(())
    }

    /// Stops all agents, in order if they let us, and waits until they are gone.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while self.attended.join_next().await.is_some() {}
    }

    /// The ends of all agents' logs, for an error message.
    pub(super) fn log_tails(&self) -> String {
        self.started.iter().map(|agent| self.log_tail(&agent.name)).collect()
    }

    fn log_tail(&self, name: &Name) -> String {
        let path = self.log(name);
        let mut text = format!("--- the end of {}\n", path.display());
        match tail(&path) {
            Ok(lines) => text.push_str(&lines),
            Err(error) => _ = writeln!(text, "cannot be read: {error}"),
        }
        text
    }

    fn data_dir(&self, name: &Name) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn log(&self, name: &Name) -> PathBuf {
        self.data_dir(name).join("agent.log")
    }

    /// The program, its output appended to the agent's log. Should we die without a farewell to our tasks, tokio
    /// kills it.
    fn command(&self, name: &Name) -> Result<Command, AgentError> {
        let path = self.log(name);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        let errors = log.try_clone().map_err(failed("open", &path))?;
        let mut command = Command::new(&self.program);
        command.stdout(log).stderr(errors).kill_on_drop(true);
        Ok(command)
    }
}

/// Waits for the child's own end, or ends it.
async fn attend(
    mut child: Child,
    name: Name,
    again: String,
    stop: CancellationToken,
    ended: watch::Sender<Option<String>>,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => end(&mut child, &name).await,
        status = child.wait() => {
            let how = status.map_or_else(|error| error.to_string(), |status: ExitStatus| status.to_string());
            eprintln!("{name} ended ({how}) and stays so. To start it again: {again}");
            ended.send_replace(Some(format!("{name} ended ({how})")));
        }
    }
}

async fn end(child: &mut Child, name: &Name) {
    ask_to_stop(child);
    if timeout(STOP_WITHIN, child.wait()).await.is_err() {
        tracing::warn!(agent = %name, within = ?STOP_WITHIN, "An agent did not stop when asked and is killed");
        // Fails only on a process that is gone.
        let _ = child.kill().await;
    }
}

#[cfg(unix)]
fn ask_to_stop(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};

    // Nobody has waited for it yet, so the number is still its own.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Fails only on a process that is gone.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// There is no polite way for a process without a window.
#[cfg(not(unix))]
fn ask_to_stop(child: &mut Child) {
    let _ = child.start_kill();
}

/// The last lines of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let behind = fs::metadata(path)?.len().min(TAIL_BYTES.unsigned_abs());
    file.seek(SeekFrom::End(-i64::try_from(behind).unwrap_or(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES.unsigned_abs()).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("{line}\n")).collect())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logs_end_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        let all: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, &all).unwrap();
        let tail = tail(&path).unwrap();
        assert!(all.ends_with(&tail));
        assert_eq!(tail.lines().count(), TAIL_LINES);
    }

    #[test]
    fn a_short_log_is_shown_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        fs::write(&path, "one\ntwo").unwrap();
        assert_eq!(tail(&path).unwrap(), "one\ntwo\n");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_stopped_child_is_gone_and_one_that_ends_by_itself_is_told_of() {
        let stop = CancellationToken::new();
        let ended = watch::Sender::new(None);
        let name: Name = "agent-1".parse().unwrap();
        let sleeper = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        let attending = attend(sleeper, name.clone(), String::new(), stop.clone(), ended.clone());
        stop.cancel();
        timeout(Duration::from_secs(30), attending).await.unwrap();
        assert_eq!(*ended.borrow(), None);

        let brief = Command::new("false").kill_on_drop(true).spawn().unwrap();
        attend(brief, name, String::new(), CancellationToken::new(), ended.clone()).await;
        assert!(ended.borrow().as_deref().unwrap().starts_with("agent-1 ended"));
    }
}
