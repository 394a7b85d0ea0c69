//! Vote and log, acknowledged only after the disk has them.
//!
//! ```text
//!   "vote" "committed" "purged"     one record each
//!   'l' ‖ index (8 bytes, big end)  one entry each; no holes
//! ```
//!
//! openraft calls from one task and lets a write finish before the next one, except that appends
//! may be under way together; the shelf acknowledges in order, so a later acknowledgement always
//! covers the earlier writes. The guard's mark is taken when a write is applied and written after
//! its sync; only before a truncation does it go first, downwards.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds, RangeInclusive},
    sync::Arc,
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use proto::hello::Seat;

use crate::{
    shelf::{Batch, Mark, Shelf},
    types::{Entry, Id, Nodes, TypeConfig, Vote},
};

const VOTE_KEY: &[u8] = b"vote";
const COMMITTED_KEY: &[u8] = b"committed";
const PURGED_KEY: &[u8] = b"purged";
const ENTRY_PREFIX: u8 = b'l';

/// Entries removed in one step; a step must be small enough not to hold up a heartbeat.
const REMOVED_AT_ONCE: usize = 256;

/// One node's log.
pub(crate) struct Log {
    seat: Seat,
    shelf: Arc<Shelf>,
    vote: Option<Vote>,
    last: Option<Id>,
    purged: Option<Id>,
}

impl Log {
    /// Reads vote and ends of the log from `shelf`.
    ///
    /// # Errors
    /// A damaged record, or a hole between the purged part and the last entry.
    pub(crate) fn restore(seat: Seat, shelf: Arc<Shelf>) -> io::Result<Self> {
        let vote = shelf.read(VOTE_KEY)?;
        let purged: Option<Id> = shelf.read(PURGED_KEY)?;
        let mut log = Self { seat, shelf, vote, last: purged, purged };
        log.find_last()?;
        Ok(log)
    }

    /// How far vote and log have come.
    pub(crate) fn mark(&self) -> Mark {
        Mark { seat: self.seat, left: false, vote: self.vote, last_log_id: self.last }
    }

    fn find_last(&mut self) -> io::Result<()> {
        // Entries at or below `purged` are leftovers of a purge cut short.
        let first = self.purged.map_or(0, |id| id.index() + 1);
        let entries = read(&self.shelf, entry_key(first)..=entry_key(u64::MAX))?;
        if let (Some(purged), Some(entry)) = (self.purged, entries.first())
            && entry.log_id.index() != purged.index() + 1
        {
            return Err(hole(purged.index() + 1));
        }
        if let Some(entry) = entries.last() {
            self.last = Some(entry.log_id);
        }
        Ok(())
    }

    fn remove(&self, indices: impl Iterator<Item = u64>) -> io::Result<()> {
        let indices: Vec<u64> = indices.collect();
        for some in indices.chunks(REMOVED_AT_ONCE) {
            let mut batch = Batch::default();
            some.iter().for_each(|index| batch.remove(&entry_key(*index)));
            self.shelf.apply(batch)?;
        }
        Ok(())
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState { last_purged_log_id: self.purged, last_log_id: self.last })
    }

    async fn get_log_reader(&mut self) -> Reader {
        Reader { shelf: self.shelf.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shelf.write(VOTE_KEY, vote)?;
        self.vote = Some(*vote);
        self.shelf.marked(self.mark()).await
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> io::Result<()> {
        // Needs no sync: it only spares a restarted node the wait for the next commit.
        self.shelf.write(COMMITTED_KEY, &committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<Id>> {
        Ok(self.shelf.read::<Option<Id>>(COMMITTED_KEY)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        for entry in entries {
            batch.write(&entry_key(entry.log_id.index()), &entry)?;
            self.last = Some(entry.log_id);
        }
        self.shelf.apply(batch)?;
        self.shelf.sync_marked(self.mark(), move |result| flushed.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<Id>) -> io::Result<()> {
        let Some(end) = self.last else { return Ok(()) };
        let first = last.map_or(0, |id| id.index() + 1);
        if first > end.index() {
            return Ok(());
        }
        self.last = last.or(self.purged);
        // The guard steps down first: were it above the log after a crash, the log would look lost.
        self.shelf.marked(self.mark()).await?;
        // From the end, so that a cut in between leaves no hole.
        self.remove((first..=end.index()).rev())?;
        self.shelf.marked(self.mark()).await
    }

    async fn purge(&mut self, upto: Id) -> io::Result<()> {
        let first = self.purged.map_or(0, |id| id.index() + 1);
        self.shelf.write(PURGED_KEY, &upto)?;
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index() <= upto.index()) {
            self.last = Some(upto);
        }
        // Durable before the entries go: otherwise a crash would leave a log without a beginning.
        self.shelf.marked(self.mark()).await?;
        self.remove(first..=upto.index())
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        read_bounds(&self.shelf, &range)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote)
    }
}

/// Reads beside the writer, for replication.
pub(crate) struct Reader {
    shelf: Arc<Shelf>,
}

impl RaftLogReader<TypeConfig> for Reader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        read_bounds(&self.shelf, &range)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.shelf.read(VOTE_KEY)
    }
}

fn read_bounds(shelf: &Shelf, range: &impl RangeBounds<u64>) -> io::Result<Vec<Entry>> {
    let first = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let last = match range.end_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(0) => return Ok(Vec::new()),
        Bound::Excluded(index) => index - 1,
        Bound::Unbounded => u64::MAX,
    };
    if first > last {
        return Ok(Vec::new());
    }
    read(shelf, entry_key(first)..=entry_key(last))
}

/// The entries under `keys`, which must follow each other.
fn read(shelf: &Shelf, keys: RangeInclusive<Vec<u8>>) -> io::Result<Vec<Entry>> {
    let entries: Vec<Entry> = shelf.scan(keys)?;
    for pair in entries.windows(2) {
        if pair[1].log_id.index() != pair[0].log_id.index() + 1 {
            return Err(hole(pair[0].log_id.index() + 1));
        }
    }
    Ok(entries)
}

/// The members that the newest entry about them names, committed or not.
pub(crate) fn newest_members(shelf: &Shelf) -> io::Result<Option<Nodes>> {
    let entries = read(shelf, entry_key(0)..=entry_key(u64::MAX))?;
    Ok(entries.into_iter().rev().find_map(|entry| match entry.payload {
        EntryPayload::Membership(members) => Some(members),
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    }))
}

fn entry_key(index: u64) -> Vec<u8> {
    let mut key = vec![ENTRY_PREFIX];
    key.extend(index.to_be_bytes());
    key
}

fn hole(index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log has no entry {index} between others"))
}
