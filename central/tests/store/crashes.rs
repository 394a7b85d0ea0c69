//! kill -9 at any moment: every epoch and every redemption that was acknowledged is there.
//!
//! The test binary starts itself as a child that admits actives and redeems tokens, and says so, until
//! it is killed; the parent opens what is left and compares.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use central::{enrolment::RedeemError, gateway::fence::Admission};
use proto::{Name, hello::RefusalCode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::Runtime;

use crate::{memory::Memory, rounds};

const CHILD: &str = "CENTRAL_CHILD_DIR";

#[test]
fn every_acknowledged_epoch_and_redemption_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let seed = rand::random();
    println!("the moments of the kills come from seed {seed}");
    let mut moments = StdRng::seed_from_u64(seed);
    let mut acknowledged = Acknowledged::default();
    for round in 0..rounds() {
        run_until_killed(folder.path(), &mut moments, &mut acknowledged);
        println!("round {round}: killed after {} epochs", acknowledged.actives);
        runtime.block_on(acknowledged.compare(folder.path()));
    }
    println!(
        "{} epochs and {} redemptions were acknowledged; of {} tokens whose redemption was cut off, {} had \
         been used",
        acknowledged.actives,
        acknowledged.redeemed.len(),
        acknowledged.cut_off,
        acknowledged.cut_off_but_used
    );
    runtime.block_on(acknowledged.compare_all(folder.path()));
}

/// Not a test of its own: the process that the test above starts.
#[test]
fn child() {
    let Ok(folder) = env::var(CHILD) else { return };
    Runtime::new().unwrap().block_on(async {
        let memory = Memory::open(Path::new(&folder)).unwrap();
        say(""); // ends the line that the test harness began
        for n in memory.newest_active().await + 1.. {
            assert!(matches!(memory.admit(n).await, Admission::New { .. }));
            say(&format!("active {n}"));
            let (token, name) = (memory.make_token().await, name(n));
            say(&format!("made {token} {name}"));
            memory.redeem(&token, &name).await.unwrap();
            say(&format!("redeemed {token}"));
        }
    });
}

fn run_until_killed(folder: &Path, moments: &mut StdRng, acknowledged: &mut Acknowledged) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["crashes::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Sometimes early, in the opening that repairs what the last kill left.
    let lines = moments.random_range(0..60);
    said.by_ref().take(lines).for_each(|line| acknowledged.hear(&line));
    // Waits for nothing: it moves the kill away from the moment of an acknowledgement, into a batch, a
    // flush or the write of the guard.
    thread::sleep(Duration::from_micros(moments.random_range(0..8_000)));
    child.kill().unwrap();
    // Acknowledged between our last look and the kill.
    said.for_each(|line| acknowledged.hear(&line));
    child.wait().unwrap();
}

#[derive(Default)]
struct Acknowledged {
    /// So many were admitted, each with a higher epoch than the one before.
    actives: u64,
    /// Made, and nothing is known about the redemption.
    made: BTreeMap<String, Name>,
    redeemed: BTreeMap<String, Name>,
    /// Redeemed since the last comparison.
    recently: Vec<String>,
    cut_off: usize,
    cut_off_but_used: usize,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["active", n] => self.actives = n.parse().unwrap(),
            ["made", token, name] => drop(self.made.insert(token.into(), name.parse().unwrap())),
            ["redeemed", token] => self.redeem(token),
            _ => {} // the test harness' own words
        }
    }

    fn redeem(&mut self, token: &str) {
        let name = self.made.remove(token).unwrap();
        self.redeemed.insert(token.into(), name);
        self.recently.push(token.into());
    }

    async fn compare(&mut self, folder: &Path) {
        let memory = Memory::open(folder).unwrap();
        self.compare_epochs(&memory).await;
        self.compare_cut_off(&memory).await;
        for token in std::mem::take(&mut self.recently) {
            self.must_be_used(&memory, &token).await;
        }
        let servers = memory.servers.list().await.unwrap();
        // What nobody acknowledged was seen by `compare_cut_off`.
        assert_eq!(servers.len(), self.redeemed.len(), "one Process Server for each redemption");
    }

    async fn compare_epochs(&self, memory: &Memory) {
        let newest = memory.newest_active().await;
        assert!(newest >= self.actives, "the fence is at {newest}, acknowledged was {}", self.actives);
        if newest == 0 {
            return; // killed before anything was admitted
        }
        assert_eq!(memory.admit(newest).await, Admission::Same);
        for older in newest.saturating_sub(3).max(1)..newest {
            let Admission::Refused(refusal) = memory.admit(older).await else { panic!("{older} was let in") };
            assert_eq!(refusal.code, RefusalCode::StaleEpoch);
        }
    }

    /// A token that was made is known; it was used together with the birth of its Process Server, or not.
    async fn compare_cut_off(&mut self, memory: &Memory) {
        for (token, name) in self.made.clone() {
            self.cut_off += 1;
            match memory.redeem(&token, &name).await {
                Ok(_) => {}
                Err(RedeemError::UsedAlready { by, .. }) if by == name => self.cut_off_but_used += 1,
                Err(error) => panic!("the token for {name}: {error}"),
            }
            self.redeem(&token);
        }
    }

    async fn must_be_used(&self, memory: &Memory, token: &str) {
        let name = &self.redeemed[token];
        let again = memory.redeem(token, &self::name(0)).await;
        assert!(
            matches!(&again, Err(RedeemError::UsedAlready { by, .. }) if by == name),
            "the token of {name} was redeemed, and now: {again:?}"
        );
    }

    async fn compare_all(&self, folder: &Path) {
        let memory = Memory::open(folder).unwrap();
        for token in self.redeemed.keys() {
            self.must_be_used(&memory, token).await;
        }
    }
}

fn name(n: u64) -> Name {
    format!("gw-{n}").parse().unwrap()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
