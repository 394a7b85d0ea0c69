//! What is left after a kill -9, a full disk, and a file that ends at any byte.
//!
//! The test binary starts itself as a child that writes and acknowledges until it is stopped; the
//! parent compares what it finds with what was acknowledged. `DURABLE_ROUNDS=200` makes the long run.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use durable::{Durable, Guard, OpenError, record};

const CHILD: &str = "DURABLE_CHILD_DIR";

#[test]
fn everything_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..rounds() {
        let mut victim = Victim::writing(dir.path(), None);
        // Another moment each round: in the middle of a batch, of a flush, of a guard write.
        let wanted = 1 + round * 37 % 101;
        for line in victim.lines().take(wanted) {
            acknowledged = line.parse().unwrap();
        }
        victim.child.kill().unwrap();
        // Acknowledged between our last look and the kill.
        for line in victim.lines() {
            acknowledged = line.parse().unwrap();
        }
        victim.child.wait().unwrap();
        let found = found_in(dir.path()).unwrap();
        assert!(found.records >= acknowledged, "round {round}: {found:?}, acknowledged {acknowledged}");
        assert!(found.guard <= found.records, "round {round}: the guard is ahead: {found:?}");
        assert!(found.guard >= acknowledged, "round {round}: the guard is behind: {found:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_fails_for_good_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // A limit on file sizes stands for a full disk: writes fail in the same place, and no mount
    // is needed. In blocks of 512 bytes.
    let mut victim = Victim::writing(dir.path(), Some(3 * 2048));
    let lines: Vec<String> = victim.lines().collect();
    assert!(victim.child.wait().unwrap().success());
    let (last, acknowledged) = lines.split_last().unwrap();
    assert!(last.starts_with("failed: "), "{last}");
    let acknowledged: u64 = acknowledged.last().unwrap().parse().unwrap();
    let found = found_in(dir.path()).unwrap();
    assert!(found.records >= acknowledged, "{found:?}, acknowledged {acknowledged}");
}

#[test]
fn a_file_cut_at_any_byte_of_its_tail_opens_with_a_prefix_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, image) = (dir.path().join("whole"), dir.path().join("image"));
    let written = 40;
    {
        let writer = Writer::open(&whole);
        for n in 1..=written {
            writer.write(n).unwrap();
        }
        // The image is taken from the living database, as a crash would.
        copy(&whole, &image);
    }
    let file = fs::read(image.join("db/db")).unwrap();
    let end = file.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let (mut refused, mut shorter) = (0, 0);
    let tail = 40 * rounds().min(60); // the long run goes back over more records
    for cut in end - tail..=end {
        for filled in [false, true] {
            let copy_of = dir.path().join("cut");
            copy(&image, &copy_of);
            let mut damaged = file[..cut].to_vec();
            if filled {
                damaged.resize(file.len(), 0);
            }
            fs::write(copy_of.join("db/db"), damaged).unwrap();
            match found_in(&copy_of) {
                // `found_in` has checked that it is a prefix; the guard tells that it is short.
                Ok(found) => {
                    assert_eq!(found.guard, written);
                    shorter += usize::from(found.records < found.guard);
                }
                Err(OpenError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("cut at {cut}: {error}"),
            }
            fs::remove_dir_all(&copy_of).unwrap();
        }
    }
    println!(
        "of {} images {refused} were refused, {shorter} were short and known to be so by the guard",
        2 * tail + 2
    );
    assert!(refused + shorter > 0, "the cuts touched nothing");
}

fn rounds() -> usize {
    env::var("DURABLE_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// Not a test of its own: the process that the tests above start.
#[test]
fn child() {
    let Ok(dir) = env::var(CHILD) else { return };
    let writer = Writer::open(Path::new(&dir));
    let mut out = std::io::stdout().lock();
    for n in found_in_open(&writer.db).unwrap() + 1.. {
        if let Err(error) = writer.write(n) {
            assert!(writer.db.failed().borrow().is_some());
            assert!(writer.db.sync_blocking().is_err(), "failed once, it must stay failed");
            writeln!(out, "failed: {error}").unwrap();
            return;
        }
        writeln!(out, "{n}").unwrap();
        out.flush().unwrap();
    }
}

/// Writes one record after the other, each acknowledged.
struct Writer {
    db: Durable,
    guard: Arc<Guard<u64>>,
}

impl Writer {
    fn open(dir: &Path) -> Self {
        let db = Durable::open(dir.join("db")).unwrap();
        let (guard, _) = Guard::open(dir.join("guard")).unwrap();
        Self { db, guard: Arc::new(guard) }
    }

    fn write(&self, n: u64) -> std::io::Result<()> {
        let key = n.to_be_bytes();
        let tree = self.db.tree("records")?;
        tree.insert(key, record::encode(&key, &content(n))?)?;
        let (tell, told) = std::sync::mpsc::channel();
        self.db.sync_guarded(&self.guard, n, move |result| tell.send(result).unwrap());
        told.recv().unwrap()
    }
}

#[derive(Debug)]
struct Found {
    records: u64,
    guard: u64,
}

/// What a reopened database holds; panics unless it is exactly the first so many records.
fn found_in(dir: &Path) -> Result<Found, OpenError> {
    let db = Durable::open(dir.join("db"))?;
    let records = found_in_open(&db).unwrap();
    let guard = Guard::open(dir.join("guard")).unwrap().1.unwrap_or(0);
    Ok(Found { records, guard })
}

fn found_in_open(db: &Durable) -> std::io::Result<u64> {
    let mut count = 0u64;
    for entry in &db.tree("records")? {
        let (key, bytes) = entry?;
        count += 1;
        assert_eq!(*key, count.to_be_bytes());
        assert_eq!(record::decode::<String>(&key, &bytes)?, content(count));
    }
    Ok(count)
}

fn content(n: u64) -> String {
    format!("record {n} {}", "x".repeat((n % 50) as usize))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A child that writes, and what it acknowledged.
struct Victim {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    /// `file_limit`: the largest file it may write, in blocks of 512 bytes.
    fn writing(dir: &Path, file_limit: Option<u32>) -> Self {
        let this = env::current_exe().unwrap();
        let mut command = match file_limit {
            None => Command::new(this),
            Some(blocks) => {
                let mut shell = Command::new("sh");
                // Ignored, the signal stays ignored across exec, and the write fails instead.
                shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
                shell.arg(this);
                shell
            }
        };
        let command = command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
        let mut child = command.env(CHILD, dir).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// What the child says, without the test harness' own words.
    fn lines(&mut self) -> impl Iterator<Item = String> {
        let said = self.said.by_ref().map_while(Result::ok);
        said.filter(|line| line.starts_with("failed: ") || line.parse::<u64>().is_ok())
    }
}
