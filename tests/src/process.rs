//! A process of the stage: its output goes to a log, and it does not outlive the test.
//!
//! Three nets, each for what slips through the one before: `Drop` asks it to stop and waits; then
//! its process group is killed; and should the test itself be killed, the kernel tells the process
//! (`PR_SET_PDEATHSIG`, set by setpriv, because setting it from Rust takes unsafe code).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::oneshot;

use crate::{needs, wait_until};

/// How long a process may take to stop when asked; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// A process that nobody needs any more is asked a second time: an agent then ends without draining.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
const LOG_TAIL_LINES: usize = 40;
/// No line we read from a process is longer than this.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// How to ask a process to stop.
#[derive(Clone, Copy, Debug, Default)]
pub enum Stop {
    #[default]
    Term,
    /// PostgreSQL's "fast shutdown".
    Interrupt,
    /// Nothing to lose: kill it at once.
    Kill,
}

/// What to start, and how.
pub struct Launch<'a> {
    /// For messages.
    pub name: &'a str,
    pub command: Command,
    /// Its output is appended to this file.
    pub log: PathBuf,
    pub stop: Stop,
    /// Another user to run as; takes root.
    pub user: Option<&'a str>,
}

/// A running child process, and its log.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Stop,
}

impl Process {
    /// Starts a process whose output all goes to its log.
    ///
    /// Call it from a thread that lives as long as the test does (not from `spawn_blocking`): the
    /// kernel ends the process with the thread that started it.
    pub fn spawn(launch: Launch<'_>) -> Self {
        let log = open_log(&launch.log);
        Self::start(launch, log.into())
    }

    /// Starts a process whose first line on stdout is an announcement; everything else it prints
    /// goes to its log. The receiver fails when the process ends without having printed a line.
    /// As for [`Process::spawn`], the calling thread must outlive the process.
    pub fn announcing(launch: Launch<'_>) -> (Self, oneshot::Receiver<String>) {
        let mut rest = open_log(&launch.log);
        let mut process = Self::start(launch, Stdio::piped());
        let stdout = process.child.stdout.take().expect("stdout is a pipe");
        let (announce, announced) = oneshot::channel();
        // A thread, because a Child's pipe has no async reader; it ends with the process.
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            if stdout.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).is_ok() && line.ends_with('\n') {
                // Nobody listens any more when the test is already over.
                let _ = announce.send(line);
            }
            let _ = io::copy(&mut stdout, &mut rest);
        });
        (process, announced)
    }

    fn start(launch: Launch<'_>, stdout: Stdio) -> Self {
        let Launch { name, command, log, stop, user } = launch;
        let mut tied = through_setpriv(&command, Some(stop), user);
        let child = tied
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(open_log(&log))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} could not be started ({command:?}): {error}"));
        Self { name: name.into(), child, log, stop }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `look` sees that the process is ready.
    ///
    /// # Panics
    /// When the process ends meanwhile, or `limit` passes.
    pub async fn until_ready(&mut self, limit: Duration, mut look: impl AsyncFnMut() -> bool) {
        let what = format!("{} is ready", self.name);
        wait_until(&what, limit, async || {
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before it was ready", self.name);
            }
            look().await.then_some(())
        })
        .await;
    }

    /// Has it ended, and how?
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// The last lines it printed.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Asks the process to stop, waits, and kills what is left of its group.
    pub fn stop(&mut self) {
        self.stop_asking_every(STOP_WITHIN);
    }

    fn stop_asking_every(&mut self, pause: Duration) {
        let signal = match self.stop {
            Stop::Term => Signal::TERM,
            Stop::Interrupt => Signal::INT,
            Stop::Kill => Signal::KILL,
        };
        let began = Instant::now();
        let mut asked = None::<Instant>;
        while self.ended().is_none() && began.elapsed() < STOP_WITHIN {
            if asked.is_none_or(|at| at.elapsed() >= pause) {
                self::signal(self.pid(), signal);
                asked = Some(Instant::now());
            }
            // In Drop there is no executor to wait with.
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(group) = to_pid(self.pid()) {
            // Nobody left in the group: nothing to kill.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let ended = self.ended().map_or("still running".into(), |status| status.to_string());
            eprintln!("--- {} ({ended}), the end of its log:\n{}\n---", self.name, self.log_tail());
        }
        // Nobody waits for streams in it to finish any more, which our own servers could not do now.
        self.stop_asking_every(ASK_AGAIN_AFTER);
    }
}

/// Sends `signal` to a process, which may have ended meanwhile.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs `command` to its end, as `user` when one is given, and answers with what it printed.
///
/// # Panics
/// When it cannot be started or fails; with what it said.
pub(crate) fn run(command: &Command, user: Option<&str>) -> String {
    let output = through_setpriv(command, None, user)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}):\n{said}{complained}", output.status);
    said
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The same command, started by setpriv and setsid, which then become it: the process id stays.
fn through_setpriv(command: &Command, dies_with_us: Option<Stop>, user: Option<&str>) -> Command {
    let mut through = Command::new(needs::command("setpriv", "util-linux"));
    if let Some(user) = user {
        through.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    match dies_with_us {
        Some(Stop::Term) => through.args(["--pdeathsig", "TERM"]),
        Some(Stop::Interrupt) => through.args(["--pdeathsig", "INT"]),
        Some(Stop::Kill) => through.args(["--pdeathsig", "KILL"]),
        None => &mut through,
    };
    through.arg("--");
    if dies_with_us.is_some() {
        // A session of its own makes a group to kill; and Postfix' master insists on leading one.
        through.arg(needs::command("setsid", "util-linux"));
    }
    through.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => through.env(name, value),
            None => through.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        through.current_dir(folder);
    }
    through
}

fn open_log(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("the log {} could not be opened: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_first_line_is_the_announcement_and_the_rest_is_logged() {
        let folder = Folder::new("process");
        let (process, announced) =
            Process::announcing(shell("echo hello; echo more; echo oops >&2; exec sleep 60", &folder));

        assert_eq!(announced.await.unwrap(), "hello\n");
        wait_until("the rest is in the log", SOON, async || {
            let tail = process.log_tail();
            (tail.contains("more") && tail.contains("oops") && !tail.contains("hello")).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_process_that_ends_unannounced_is_noticed() {
        let folder = Folder::new("process");
        let (_process, announced) = Process::announcing(shell("printf 'no newline at the end'", &folder));

        assert!(announced.await.is_err());
    }

    #[tokio::test]
    async fn a_dropped_process_takes_its_children_with_it() {
        let folder = Folder::new("process");
        let process = Process::spawn(shell("sleep 60 & echo $! >child; wait", &folder));
        let child = wait_until("the shell names its child", SOON, async || {
            let pid = fs::read_to_string(folder.join("child")).ok()?;
            pid.ends_with('\n').then(|| pid.trim().to_owned())
        })
        .await;

        drop(process);

        wait_until("the child is gone, or a zombie that waits for init", SOON, async || {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        })
        .await;
    }

    fn shell<'a>(script: &str, folder: &Folder) -> Launch<'a> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder.path());
        Launch { name: "sh", command, log: folder.join("log"), stop: Stop::Kill, user: None }
    }
}
