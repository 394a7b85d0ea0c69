//! Whose turn it is: hosts, their programs, and time.
//!
//! Each host is a tokio runtime of its own. It runs until it has nothing more to do at this moment; then the next
//! moment comes at which anything is due anywhere. So a host can be killed (its runtime is dropped), stand still
//! (it gets no turn while time goes on), or sleep (neither does its clock).

use std::{
    future::poll_fn,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};

use crate::{
    dice::Dice,
    kernel::{self, Disk, HostId, Kernel, Kind, NANOS, Rules, Time},
    mutant::Mutant,
};

/// How long a disk takes to sync, unless a fault makes it slow.
const SYNC: Duration = Duration::from_micros(800);
/// Turns at one moment: more is a program that never rests.
const TURNS_MAX: u32 = 100_000;

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No program runs on it.
    Off,
    Runs,
    /// Its program stands still; its kernel and clocks go on.
    Paused,
    /// The whole machine sleeps, since then.
    Suspended(Time),
}

/// One machine.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    runtime: Option<Runtime>,
    /// Makes its databases' acknowledgements when its disk has had its time.
    runner: Option<durable::Runner>,
    /// When its program wants to go on.
    timer: Option<Time>,
    slept: Time,
    wall_off: i64,
    /// Where its data lies; another folder after each crash.
    folder: PathBuf,
    lives: u32,
    disk: Arc<Disk>,
    sync: Arc<std::sync::atomic::AtomicU64>,
}

pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    pub(crate) now: Time,
    root: PathBuf,
    mutant: Option<Mutant>,
    dice: Dice,
    turns: u32,
}

impl World {
    /// A world whose hosts all are off. `root` is an empty folder for their disks; a host's own is copied from
    /// `template/NAME` where that exists.
    pub(crate) fn new(
        hosts: &[(&str, Ipv4Addr, Kind)],
        began: Time,
        rules: Rules,
        root: &Path,
        template: Option<&Path>,
        seed: u64,
        mutant: Option<Mutant>,
    ) -> std::io::Result<Self> {
        let mut dice = Dice::new(seed);
        let network: Vec<_> = hosts.iter().map(|(_, ip, kind)| (*ip, *kind)).collect();
        kernel::install(Kernel::new(&network, rules, mutant, dice.split()), dice.split());
        let mut made = Vec::new();
        for (name, _, kind) in hosts {
            let folder = root.join(format!("{name}-0"));
            match template.map(|template| template.join(name)).filter(|from| from.exists()) {
                Some(from) => copy_folder(&from, &folder)?,
                None => std::fs::create_dir_all(&folder)?,
            }
            made.push(Host {
                name: (*name).to_owned(),
                kind: *kind,
                state: State::Off,
                runtime: None,
                runner: None,
                timer: None,
                slept: 0,
                wall_off: 0,
                disk: kernel::watch_disk(&folder)?,
                folder,
                lives: 0,
                sync: Arc::new((SYNC.as_nanos() as u64).into()),
            });
        }
        let world = Self { hosts: made, now: began, root: root.to_owned(), mutant, dice, turns: 0 };
        world.show_clock(0);
        kernel::with(|kernel| kernel.advance(began));
        Ok(world)
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(crate) fn folder(&self, host: HostId) -> PathBuf {
        self.hosts[host].folder.clone()
    }

    fn show_clock(&self, host: HostId) {
        let host = &self.hosts[host];
        let monotonic = self.now - host.slept;
        let boot = match self.mutant {
            Some(Mutant::LeaseForgetsSleep) => monotonic,
            Some(Mutant::LeaseNeverEnds) if host.kind == Kind::Agent => 0,
            _ => self.now,
        };
        kernel::set_clock(self.now, monotonic, boot, host.wall_off);
    }

    /// Starts a program on a host that runs none.
    pub(crate) fn boot(&mut self, id: HostId, program: impl Future<Output = ()> + Send + 'static) {
        kernel::with(|kernel| {
            kernel.hosts[id].powered = true;
            kernel.run(id);
        });
        self.show_clock(id);
        let host = &mut self.hosts[id];
        #[expect(clippy::expect_used, reason = "a machine that gives no epoll runs no tests")]
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sync = host.sync.clone();
        let on = runtime.handle().clone();
        let runner: durable::Runner = Arc::new(move |work| {
            let wait = Duration::from_nanos(sync.load(std::sync::atomic::Ordering::Relaxed));
            on.spawn(async move {
                tokio::time::sleep(wait).await;
                work();
            });
        });
        runtime.spawn(program);
        host.runtime = Some(runtime);
        host.runner = Some(runner);
        host.state = State::Runs;
        host.timer = Some(self.now);
    }

    /// Does something on a host that runs.
    pub(crate) fn spawn(&mut self, id: HostId, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.hosts[id].runtime {
            runtime.spawn(work);
            self.hosts[id].timer = Some(self.now);
        }
    }

    /// As `kill -9`: the kernel closes its sockets, nothing of the program's runs any more.
    pub(crate) fn kill(&mut self, id: HostId) {
        kernel::with(|kernel| kernel.kill(id));
        self.take_down(id, false);
    }

    /// Power is lost: nobody is told, and what was not synced is gone, but for what happened to be written.
    pub(crate) fn cut_power(&mut self, id: HostId) {
        kernel::with(|kernel| kernel.power_off(id));
        self.take_down(id, true);
    }

    /// A copy of a host's disk as its programs see it now.
    pub(crate) fn back_up(&self, id: HostId) -> PathBuf {
        let host = &self.hosts[id];
        let backup = self.root.join(format!("{}-{}.backup", host.name, host.lives));
        #[expect(clippy::expect_used, reason = "without room for a copy there is no history")]
        copy_folder(&host.folder, &backup).expect("room for a backup");
        backup
    }

    /// The machine is stopped hard, and its disk is what it was when `backup` was made.
    pub(crate) fn put_back(&mut self, id: HostId, backup: &Path) {
        self.kill(id);
        let host = &mut self.hosts[id];
        host.lives += 1;
        let (before, after) = (host.folder.clone(), self.root.join(format!("{}-{}", host.name, host.lives)));
        kernel::forget_disk(&before);
        let _ = std::fs::remove_dir_all(&before);
        #[expect(clippy::expect_used, reason = "the copy is ours")]
        std::fs::rename(backup, &after).expect("a backup in its place");
        #[expect(clippy::expect_used, reason = "without room for a host's disk there is no history")]
        let disk = kernel::watch_disk(&after).expect("room for a host's disk");
        (host.disk, host.folder) = (disk, after);
    }

    fn take_down(&mut self, id: HostId, power_lost: bool) {
        let Some(runtime) = self.hosts[id].runtime.take() else { return };
        let before = self.hosts[id].folder.clone();
        self.hosts[id].lives += 1;
        let after = self.root.join(format!("{}-{}", self.hosts[id].name, self.hosts[id].lives));
        // What the dying program still writes goes to the folder that nobody looks at any more.
        #[expect(clippy::expect_used, reason = "without room for a copy there is no history")]
        copy_folder(&before, &after).expect("room for a copy of a host's disk");
        if power_lost {
            let lost = self.hosts[id].disk.lose_power(&after, &mut self.dice);
            #[expect(clippy::expect_used, reason = "the copy is ours")]
            lost.expect("what was not synced can be taken back");
        }
        kernel::with(|kernel| kernel.run(id));
        self.show_clock(id);
        drop(runtime);
        kernel::forget_disk(&before);
        let _ = std::fs::remove_dir_all(&before);
        let host = &mut self.hosts[id];
        #[expect(clippy::expect_used, reason = "without room for a host's disk there is no history")]
        let disk = kernel::watch_disk(&after).expect("room for a host's disk");
        host.disk = disk;
        host.folder = after;
        host.state = State::Off;
        host.timer = None;
    }

    pub(crate) fn pause(&mut self, id: HostId) {
        if self.hosts[id].state == State::Runs {
            self.hosts[id].state = State::Paused;
        }
    }

    /// The machine sleeps, whether or not its program stands still; when it wakes, both go on.
    pub(crate) fn suspend(&mut self, id: HostId) {
        if matches!(self.hosts[id].state, State::Runs | State::Paused) {
            self.hosts[id].state = State::Suspended(self.now);
            kernel::with(|kernel| kernel.hosts[id].powered = false);
        }
    }

    /// Goes on after a pause or a sleep.
    pub(crate) fn resume(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id];
        match host.state {
            State::Paused => {}
            State::Suspended(since) => {
                host.slept += now - since;
                host.timer = host.timer.map(|timer| timer + (now - since));
                kernel::with(|kernel| kernel.hosts[id].powered = true);
            }
            State::Off | State::Runs => return,
        }
        host.state = State::Runs;
        kernel::with(|kernel| kernel.hosts[id].woken = true);
    }

    pub(crate) fn set_wall_off(&mut self, id: HostId, off: i64) {
        self.hosts[id].wall_off = off;
    }

    pub(crate) fn set_sync(&self, id: HostId, takes: Option<Duration>) {
        let nanos = takes.unwrap_or(SYNC).as_nanos() as u64;
        self.hosts[id].sync.store(nanos, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn set_disk_failing(&self, id: HostId, failing: bool) {
        self.hosts[id].disk.set_failing(failing);
    }

    /// Lets time pass until `until`, or until `enough` says so, which is asked after each moment.
    pub(crate) fn run_until(&mut self, until: Time, mut enough: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if enough(self) {
                return true;
            }
            if !self.step(until) {
                return false;
            }
        }
    }

    /// One moment: everything that is due next, unless that is after `until`.
    fn step(&mut self, until: Time) -> bool {
        let now = self.now;
        let woken = |id: HostId| kernel::with(|kernel| kernel.hosts[id].woken).unwrap_or(false);
        let due = |id: HostId, host: &Host| match host.state {
            State::Runs if woken(id) => Some(now),
            State::Runs => host.timer,
            State::Off | State::Paused | State::Suspended(_) => None,
        };
        let of_hosts = self.hosts.iter().enumerate().filter_map(|(id, host)| due(id, host)).min();
        let of_network = kernel::with(|kernel| kernel.next_event()).flatten();
        let Some(next) = of_hosts.into_iter().chain(of_network).min().map(|next| next.max(now)) else {
            self.now = until;
            return false;
        };
        if next > until {
            self.now = until;
            return false;
        }
        self.turns = if next == now { self.turns + 1 } else { 0 };
        assert!(self.turns < TURNS_MAX, "a program never rests at {:?}", self.now());
        self.now = next;
        kernel::with(|kernel| kernel.advance(next));
        for id in 0..self.hosts.len() {
            let host = &self.hosts[id];
            if host.state == State::Runs && (woken(id) || host.timer.is_some_and(|timer| timer <= next)) {
                self.turn(id);
            }
        }
        true
    }

    /// `id` runs until it has nothing more to do at this moment.
    fn turn(&mut self, id: HostId) {
        kernel::with(|kernel| kernel.run(id));
        self.show_clock(id);
        let host = &mut self.hosts[id];
        durable::set_runner(host.runner.clone());
        if let Some(runtime) = &host.runtime {
            host.timer = runtime.block_on(poll_fn(|cx| {
                kernel::wake_when_idle(cx.waker());
                match kernel::with(|kernel| kernel.idled()).flatten() {
                    Some(timer) => Poll::Ready(timer),
                    None => Poll::Pending,
                }
            }));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in 0..self.hosts.len() {
            kernel::with(|kernel| kernel.kill(id));
            self.hosts[id].runtime = None;
            kernel::forget_disk(&self.hosts[id].folder);
        }
        durable::set_runner(None);
        kernel::uninstall();
    }
}

/// A copy with everything in it: a host's disk.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Seconds as the world counts.
pub(crate) const fn seconds(seconds: u64) -> Time {
    seconds * NANOS
}
