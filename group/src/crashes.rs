//! Votes and entries across kill -9: what was acknowledged is there, and the guard agrees.
//!
//! The test binary starts itself as a child that votes, appends, truncates and purges until it is
//! killed. `DURABLE_ROUNDS=200` makes the long run.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use durable::Durable;
use openraft::{
    RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
    type_config::TypeConfigExt,
};
use proto::{NodeId, hello::Seat};
use tokio::runtime::Runtime;

use crate::{
    log::Log,
    storage::GroupStorage,
    types::{Entry, Id, TypeConfig, Vote},
};

const CHILD: &str = "GROUP_CHILD_DIR";
const SEAT: Seat = Seat { group: 1, node: NodeId(7) };

#[test]
fn every_acknowledged_vote_and_entry_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let rounds: usize = env::var("DURABLE_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let mut acknowledged = Acknowledged::default();
    for round in 0..rounds {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["crashes::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in said.by_ref().take(5 + round * 37 % 101) {
            acknowledged.hear(&line);
        }
        child.kill().unwrap();
        said.for_each(|line| acknowledged.hear(&line));
        child.wait().unwrap();
        Runtime::new().unwrap().block_on(acknowledged.check(dir.path(), round));
    }
}

/// Not a test of its own: the process that the test above starts.
#[test]
fn child() {
    let Ok(dir) = env::var(CHILD) else { return };
    Runtime::new().unwrap().block_on(async {
        let mut log = open(Path::new(&dir));
        let state = log.get_log_state().await.unwrap();
        let mut term = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id().term);
        let mut index = state.last_log_id.map_or(0, |id| id.index());
        loop {
            term += 1;
            log.save_vote(&Vote::new(term, 7)).await.unwrap();
            say(&format!("vote {term}"));
            for _ in 0..5 {
                index += 1;
                append(&mut log, Id::new_term_index(term, index)).await;
                say(&format!("entry {term} {index}"));
            }
            if term.is_multiple_of(7) {
                // As a follower whose last entries were never committed.
                say(&format!("truncating {}", index - 2));
                log.truncate_after(Some(Id::new_term_index(term, index - 2))).await.unwrap();
                index -= 2;
            }
            if term.is_multiple_of(11) {
                log.purge(Id::new_term_index(term, index - 3)).await.unwrap();
                say(&format!("purged {}", index - 3));
            }
        }
    });
}

#[derive(Default)]
struct Acknowledged {
    term: u64,
    index: u64,
    purged: u64,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next();
        let mut number = || words.next().unwrap().parse().unwrap();
        match what {
            Some("vote") => self.term = number(),
            Some("entry") => (_, self.index) = (number(), number()),
            Some("truncating") => self.index = number(),
            Some("purged") => self.purged = number(),
            _ => {} // the test harness' own words
        }
    }

    async fn check(&self, dir: &Path, round: usize) {
        let mut log = open(dir);
        let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id().term);
        assert!(vote >= self.term, "round {round}: vote {vote}, acknowledged {}", self.term);
        let state = log.get_log_state().await.unwrap();
        let last = state.last_log_id.map_or(0, |id| id.index());
        assert!(last >= self.index, "round {round}: last entry {last}, acknowledged {}", self.index);
        let purged = state.last_purged_log_id.map_or(0, |id| id.index());
        assert!(purged >= self.purged, "round {round}: purged {purged}, acknowledged {}", self.purged);
        // Every entry in between is there, once.
        let entries = log.try_get_log_entries(purged + 1..=last).await.unwrap();
        assert_eq!(entries.len() as u64, last - purged, "round {round}");
    }
}

/// Panics if the guard says that something was lost.
fn open(dir: &Path) -> Log {
    let db = Durable::open(dir.join("db")).unwrap();
    GroupStorage::own(db, dir.join("guard")).open(SEAT).unwrap().log
}

async fn append(log: &mut Log, id: Id) {
    let (tell, told) = TypeConfig::oneshot();
    log.append([Entry::new_blank(id)], IOFlushed::signal(tell)).await.unwrap();
    told.await.unwrap().unwrap();
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
