//! What a group's node keeps, and whether it may still be trusted.
//!
//! ```text
//!   own database (agent)            one tree per seat; the seats before it are removed
//!   shared database (witness)       one tree per Environment tag and seat
//!   guard file beside either        vote and log as last made durable, and the newest seat
//! ```
//!
//! A node that forgot a vote could give it twice in one term, and then there are two leaders. So
//! records *below* their guard are refused: the caller quarantines them and takes a new seat.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use durable::{Durable, Guard, GuardError};
use proto::{NodeId, hello::Seat};

use crate::{
    log::{Log, newest_members},
    members::Peer,
    shelf::{Mark, Shelf},
    state::{Applied, StateMachine, snapshot_members},
};

/// Where a node keeps its vote, log and snapshot.
#[derive(Clone)]
pub struct GroupStorage {
    place: Place,
}

#[derive(Clone)]
enum Place {
    Disk { db: Arc<Durable>, prefix: String, guard: PathBuf },
    Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>),
}

/// A seat whose records lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub seat: Seat,
    /// How often vote or log have changed on this disk: it only grows. Whoever told more before was restored from an
    /// older copy, guard and all, and may have forgotten a vote.
    pub written: u64,
}

/// Why a node's records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Acknowledged records are missing. Quarantine the database and take a new seat.
    #[error("the Raft records of node {} are older than their guard {}: {what}", seat.node, guard.display())]
    Regressed { seat: Seat, guard: PathBuf, what: String },
    /// Neither slot of the guard can be read. Quarantine as for `Regressed`.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A record is damaged, missing between others, or the disk refused.
    #[error("the Raft records of node {} could not be read or written", seat.node)]
    Io { seat: Seat, source: io::Error },
}

impl StorageError {
    /// Whether only moving the records away and taking a new seat can help.
    pub fn needs_new_seat(&self) -> bool {
        match self {
            Self::Regressed { .. } | Self::Guard(GuardError::Damaged { .. }) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::InvalidData,
            Self::Guard(GuardError::Io { .. }) => false,
        }
    }
}

/// A node's opened records.
pub(crate) struct Opened {
    pub(crate) log: Log,
    pub(crate) machine: StateMachine,
    pub(crate) records: Records,
}

/// A node's records while it runs: what outlives one Raft core and serves the next.
pub(crate) struct Records {
    seat: Seat,
    shelf: Arc<Shelf>,
    pub(crate) applied: Applied,
    /// The database below, whose failure ends the node. None in memory.
    pub(crate) db: Option<Arc<Durable>>,
}

impl Records {
    /// See [`Kept::written`]; 0 in memory. Never waits.
    pub(crate) fn written(&self) -> u64 {
        self.shelf.written()
    }

    /// Opens log and state for another core. The one before must have ended.
    pub(crate) async fn reopen(&self) -> io::Result<(Log, StateMachine)> {
        let log = Log::restore(self.seat, self.shelf.clone())?;
        // What the core before wrote may still be on its way to the disk, and the next one would
        // take it for durable.
        self.shelf.marked(log.mark()).await?;
        let machine = StateMachine::over(self.seat.group, self.shelf.clone(), self.applied.clone());
        Ok((log, machine))
    }
}

impl GroupStorage {
    /// An agent's: a database of its own, the guard file at `guard` (on the same disk, but outside
    /// the database's directory, so that quarantining the database keeps it).
    pub fn own(db: Durable, guard: impl Into<PathBuf>) -> Self {
        Self { place: Place::Disk { db: Arc::new(db), prefix: "raft/".into(), guard: guard.into() } }
    }

    /// The witness': one database for all groups. `tag` names the Environment, the guard file is
    /// this Environment's alone.
    pub fn shared(db: Arc<Durable>, tag: &str, guard: impl Into<PathBuf>) -> Self {
        Self { place: Place::Disk { db, prefix: format!("raft/{tag}/"), guard: guard.into() } }
    }

    /// For simulations only: nothing survives the process. Clones share the records, so a node
    /// can be "restarted" from one.
    pub fn memory() -> Self {
        Self { place: Place::Memory(Arc::default()) }
    }

    /// The seat whose records lie here, whole as far as the guard tells. Blocks on the disk.
    pub fn kept(&self) -> Result<Option<Kept>, StorageError> {
        let Place::Disk { db, prefix, guard } = &self.place else { return Ok(None) };
        if !Guard::<Mark>::exists(guard) {
            return Ok(None);
        }
        let (guard, mark) = Guard::<Mark>::open(guard)?;
        let Some(mark) = mark.filter(|mark| !mark.left) else { return Ok(None) };
        let tree = tree_name(prefix, mark.seat);
        let present =
            db_has_tree(db, &tree).map_err(|source| StorageError::Io { seat: mark.seat, source })?;
        Ok(present.then_some(Kept { seat: mark.seat, written: guard.written() }))
    }

    /// The agents that the records of `seat` name as members: whom to ask while the seat is not taken yet. Blocks on the
    /// disk.
    pub fn peers(&self, seat: Seat) -> Result<Vec<Peer>, StorageError> {
        let Place::Disk { db, prefix, guard } = &self.place else { return Ok(Vec::new()) };
        let io = |source| StorageError::Io { seat, source };
        let (guard, _) = Guard::<Mark>::open(guard)?;
        let tree = db.tree(&tree_name(prefix, seat)).map_err(io)?;
        let shelf = Shelf::Disk { db: db.clone(), tree, guard: Arc::new(guard) };
        let members = match newest_members(&shelf).map_err(io)? {
            Some(members) => Some(members),
            None => snapshot_members(&shelf).map_err(io)?,
        };
        let nodes = members.iter().flat_map(|members| members.nodes());
        Ok(nodes.filter_map(|(_, site)| site.peer().cloned()).collect())
    }

    /// Forgets a seat that was left. The guard remembers that it was held, so that it is never
    /// sat on again. The seat's [`Group`](crate::Group) must have been shut down.
    pub async fn forget(&self, seat: Seat) -> Result<(), StorageError> {
        let Place::Disk { db, prefix, guard } = &self.place else { return Ok(()) };
        let io = |source| StorageError::Io { seat, source };
        let (guard, _) = Guard::<Mark>::open(guard)?;
        let mark = Mark { seat, left: true, vote: None, last_log_id: None };
        // The guard first, downwards: records gone below a guard that expects them look lost.
        guard.write(&mark).map_err(io)?;
        remove_trees(db, |name| name == tree_name(prefix, seat)).map_err(io)?;
        db.sync().await.map_err(io)
    }

    /// Gives these records up, after an error that needs a new seat. Whoever sits down next needs a
    /// higher node than the one returned, the highest the guard knows of. A guard that cannot be read
    /// is kept beside its place. Blocks on the disk.
    pub fn give_up(&self) -> Result<Option<NodeId>, StorageError> {
        let Place::Disk { guard, .. } = &self.place else { return Ok(None) };
        // Without a guard there are no records either: both are refused until a new seat is taken.
        if !Guard::<Mark>::exists(guard) {
            return Ok(None);
        }
        match Guard::<Mark>::open(guard) {
            Ok((_, mark)) => Ok(mark.map(|mark| mark.seat.node)),
            Err(GuardError::Damaged { path }) => {
                let mut aside = path.clone().into_os_string();
                aside.push(".damaged");
                std::fs::rename(&path, aside).map_err(|source| GuardError::Io { path, source })?;
                Ok(None)
            }
            Err(error @ GuardError::Io { .. }) => Err(error.into()),
        }
    }

    /// Opens the records of `seat` and compares them with the guard. Blocks on the disk.
    pub(crate) fn open(&self, seat: Seat) -> Result<Opened, StorageError> {
        let io = |source| StorageError::Io { seat, source };
        let (shelf, held, db, guard_path) = match &self.place {
            Place::Memory(records) => (Shelf::Memory(records.clone()), None, None, PathBuf::new()),
            Place::Disk { db, prefix, guard: path } => {
                let name = tree_name(prefix, seat);
                if !Guard::<Mark>::exists(path) && db_has_tree(db, &name).map_err(io)? {
                    let what = "the guard file is missing".into();
                    return Err(StorageError::Regressed { seat, guard: path.clone(), what });
                }
                let (guard, held) = Guard::<Mark>::open(path)?;
                let guard = Arc::new(guard);
                let tree = db.tree(&name).map_err(io)?;
                let shelf = Shelf::Disk { db: db.clone(), tree, guard };
                (shelf, held, Some(db.clone()), path.clone())
            }
        };
        let shelf = Arc::new(shelf);
        let log = Log::restore(seat, shelf.clone()).map_err(io)?;
        if let Some(held) = held {
            check(&held, &log.mark()).map_err(|what| StorageError::Regressed {
                seat,
                guard: guard_path.clone(),
                what,
            })?;
        }
        if let Place::Disk { db, prefix, .. } = &self.place {
            shelf.note(log.mark()).map_err(io)?;
            let ours = tree_name(prefix, seat);
            remove_trees(db, |name| name.starts_with(prefix.as_str()) && name != ours).map_err(io)?;
        }
        let machine = StateMachine::restore(seat.group, shelf.clone()).map_err(io)?;
        let records = Records { seat, shelf, applied: machine.applied(), db };
        Ok(Opened { log, machine, records })
    }

    /// The guard file, where there is one.
    pub fn guard_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Disk { guard, .. } => Some(guard),
            Place::Memory(_) => None,
        }
    }
}

/// Whether `found` holds everything that the guard knows was acknowledged.
fn check(guard: &Mark, found: &Mark) -> Result<(), String> {
    if guard.seat != found.seat {
        // Node ids only grow: an older one with fresh records would be an empty node under a used
        // id, which could form a quorum of its own.
        return match guard.seat.node < found.seat.node {
            true => Ok(()),
            false => {
                Err(format!("node {} was sat on before, then node {}", found.seat.node, guard.seat.node))
            }
        };
    }
    if guard.left {
        return Err("the seat was left and its records removed".into());
    }
    if guard.vote > found.vote {
        return Err(format!("the vote was {:?} and is {:?}", guard.vote, found.vote));
    }
    if guard.last_log_id > found.last_log_id {
        return Err(format!("the log ended at {:?} and ends at {:?}", guard.last_log_id, found.last_log_id));
    }
    Ok(())
}

fn tree_name(prefix: &str, seat: Seat) -> String {
    format!("{prefix}{}.{}", seat.group, seat.node)
}

fn db_has_tree(db: &Durable, name: &str) -> io::Result<bool> {
    Ok(db.tree_names().iter().any(|existing| existing == name) && !db.tree(name)?.is_empty())
}

fn remove_trees(db: &Durable, unwanted: impl Fn(&str) -> bool) -> io::Result<()> {
    db.tree_names().iter().filter(|name| unwanted(name)).try_for_each(|name| db.remove_tree(name))
}

#[cfg(test)]
mod tests {
    use openraft::testing::log::{StoreBuilder, Suite};
    use tempfile::TempDir;

    use super::*;
    use crate::types::{Id, TypeConfig, Vote};

    /// openraft's own ~50 cases, with real syncs.
    #[test]
    fn log_and_state_on_disk_are_what_openraft_expects() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Suite::test_all(OnDisk)).unwrap();
    }

    #[test]
    fn log_and_state_in_memory_are_what_openraft_expects() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Suite::test_all(InMemory)).unwrap();
    }

    struct OnDisk;
    struct InMemory;

    impl StoreBuilder<TypeConfig, Log, StateMachine, TempDir> for OnDisk {
        async fn build(&self) -> Result<(TempDir, Log, StateMachine), openraft::StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let db = Durable::open(dir.path().join("db")).unwrap();
            let opened = GroupStorage::own(db, dir.path().join("guard")).open(SEAT).unwrap();
            Ok((dir, opened.log, opened.machine))
        }
    }

    impl StoreBuilder<TypeConfig, Log, StateMachine, ()> for InMemory {
        async fn build(&self) -> Result<((), Log, StateMachine), openraft::StorageError<TypeConfig>> {
            let opened = GroupStorage::memory().open(SEAT).unwrap();
            Ok(((), opened.log, opened.machine))
        }
    }

    const SEAT: Seat = Seat { group: 1, node: NodeId(0) };

    #[test]
    fn records_that_reach_the_guard_are_trusted_and_records_below_it_are_not() {
        let guard = mark(7, 3, 10);
        assert!(check(&guard, &mark(7, 3, 10)).is_ok());
        assert!(check(&guard, &mark(7, 4, 12)).is_ok());
        assert!(check(&guard, &mark(7, 2, 10)).unwrap_err().contains("vote"));
        assert!(check(&guard, &mark(7, 3, 9)).unwrap_err().contains("log"));
        let empty = Mark { vote: None, last_log_id: None, ..guard };
        assert!(check(&guard, &empty).is_err());
        assert!(check(&empty, &guard).is_ok());
    }

    #[test]
    fn a_seat_held_earlier_is_never_sat_on_again() {
        let guard = mark(7, 3, 10);
        assert!(check(&guard, &Mark { vote: None, last_log_id: None, ..mark(8, 1, 1) }).is_ok());
        assert!(check(&guard, &mark(6, 9, 99)).is_err());
        assert!(check(&Mark { left: true, ..guard }, &mark(7, 3, 10)).is_err());
    }

    #[test]
    fn records_that_were_given_up_make_room_for_a_higher_node_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let storage = GroupStorage::own(Durable::open(dir.path().join("db")).unwrap(), &path);
        let open = |node| storage.open(Seat { group: 1, node: NodeId(node) }).map(drop);
        Guard::<Mark>::open(&path).unwrap().0.write(&mark(7, 3, 10)).unwrap();
        assert!(open(7).unwrap_err().needs_new_seat());

        assert_eq!(storage.give_up().unwrap(), Some(NodeId(7)));
        assert!(open(6).is_err() && open(7).is_err());
        open(8).unwrap();

        std::fs::write(&path, [7; 100]).unwrap();
        assert!(open(8).unwrap_err().needs_new_seat());
        assert_eq!(storage.give_up().unwrap(), None);
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), [7; 100]);
        open(9).unwrap();
    }

    fn mark(node: u64, term: u64, index: u64) -> Mark {
        Mark {
            seat: Seat { group: 1, node: NodeId(node) },
            left: false,
            vote: Some(Vote::new_committed(term, 1)),
            last_log_id: Some(Id::new_term_index(term, index)),
        }
    }
}
