//! An agent whose threads hang: it is noticed, said, and ended, and another takes over.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Hosts, wait_until};

const SOON: Duration = Duration::from_secs(30);
const SIGABRT: i32 = 6;

#[tokio::test]
async fn an_active_whose_runtime_hangs_says_so_and_ends_and_the_other_serves() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;

    let pid = hosts.pid("alpha");
    let hang = Hang::workers_of(pid).await;
    // Its held threads stay until strace lets go of them; the first one dies at once.
    wait_until("alpha ends itself", SOON, async || is_dead(pid).then_some(())).await;
    drop(hang);
    let (status, log) = wait_until("alpha has ended", SOON, async || hosts.ended("alpha")).await;

    assert_eq!(status.signal(), Some(SIGABRT), "{log}");
    assert!(log.contains("The runtime has run no task for this long"), "{log}");
    hosts.until_active("beta").await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.start("alpha");
    wait_until("alpha is configured again", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
}

/// The worker threads of a process, held in their next system call.
struct Hang(Child);

impl Hang {
    async fn workers_of(pid: u32) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-e", "trace=epoll_wait,futex"]);
        // Microseconds: longer than the test.
        strace.args(["-e", "inject=epoll_wait,futex:delay_enter=300000000", "-o", "/dev/null"]);
        let workers = worker_threads(pid);
        assert!(!workers.is_empty(), "process {pid} has no worker threads by that name");
        for thread in &workers {
            strace.args(["-p", &thread.to_string()]);
        }
        let hang = Self(strace.stdin(Stdio::null()).spawn().expect("strace, which tests/setup installs"));
        wait_until("strace holds every worker thread", SOON, async || {
            workers.iter().all(|thread| is_traced(pid, *thread)).then_some(())
        })
        .await;
        hang
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker_threads(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let ids = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    let is_worker = |thread: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap_or_default();
        name.starts_with("tokio-")
    };
    ids.filter(is_worker).collect()
}

fn is_dead(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains("zombie"))
}

fn is_traced(pid: u32, thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}
