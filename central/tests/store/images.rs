//! Files that end at any byte of their tail: all of the memory or a clear refusal, never a part of it.

use std::{fs, path::Path};

use central::{gateway::fence::Admission, store::sled::OpenStoreError};
use durable::{GuardError, OpenError};
use proto::Name;

use crate::{
    memory::{Memory, Refused},
    rounds,
};

/// The long run cuts at each of the last 2,000 bytes.
const TAIL_BYTES_MAX: usize = 2000;
const TAIL_BYTES_PER_ROUND: usize = 30;

#[tokio::test]
async fn a_database_cut_at_any_byte_of_its_tail_opens_whole_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (image, cut_image) = (folder.path().join("image"), folder.path().join("cut"));
    let memory = written(&folder.path().join("whole"), &image).await;
    let records = memory.records().await;
    let file = fs::read(image.join("db/db")).unwrap();
    let end = file.iter().rposition(|byte| *byte != 0).unwrap() + 1;

    let (mut whole, mut lost, mut damaged) = (0, 0, 0);
    for cut in end - tail()..=end {
        // A file that was truncated, and one whose last pages never arrived.
        for filled in [false, true] {
            copy(&image, &cut_image);
            let mut bytes = file[..cut].to_vec();
            if filled {
                bytes.resize(file.len(), 0);
            }
            fs::write(cut_image.join("db/db"), bytes).unwrap();
            match Memory::open(&cut_image) {
                Ok(memory) => {
                    assert_eq!(memory.records().await, records, "cut at {cut} of {end}");
                    whole += 1;
                }
                Err(Refused::Store(OpenStoreError::Lost { found, guarded, .. })) => {
                    assert!(found < guarded);
                    lost += 1;
                }
                Err(
                    Refused::Store(OpenStoreError::Damaged { .. }) | Refused::Disk(OpenError::Damaged { .. }),
                ) => damaged += 1,
                Err(error) => panic!("cut at {cut} of {end}: {error}"),
            }
            fs::remove_dir_all(&cut_image).unwrap();
        }
    }
    println!("images: {whole} opened whole, {lost} refused as lost, {damaged} refused as damaged");
    assert!(whole > 0 && lost + damaged > 0, "the cuts did not cross the last record");
}

#[tokio::test]
async fn a_guard_cut_at_any_byte_has_a_whole_slot_left_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let records = written(&folder.path().join("whole"), &image).await.records().await;
    let guard = fs::read(image.join("guard")).unwrap();
    let slot = guard.len() / 2;

    for end in [slot, guard.len()] {
        for cut in end - tail()..=end {
            fs::write(image.join("guard"), &guard[..cut]).unwrap();
            match Memory::open(&image) {
                Ok(memory) if cut >= slot => {
                    assert_eq!(memory.records().await, records, "guard cut at {cut}");
                }
                Err(Refused::Store(OpenStoreError::Guard(GuardError::Damaged { .. }))) if cut < slot => {}
                Ok(_) => panic!("guard cut at {cut}: opened with nothing to guard it"),
                Err(error) => panic!("guard cut at {cut}: {error}"),
            }
        }
    }
}

fn tail() -> usize {
    (TAIL_BYTES_PER_ROUND * rounds()).min(TAIL_BYTES_MAX)
}

/// A memory with something in it, and its image, taken while it lives as a crash would.
async fn written(folder: &Path, image: &Path) -> Memory {
    let memory = Memory::open(folder).unwrap();
    for n in 1..=20 {
        let name: Name = format!("gw-{n}").parse().unwrap();
        let token = memory.make_token().await;
        memory.redeem(&token, &name).await.unwrap();
        assert!(matches!(memory.admit(n).await, Admission::New { .. }));
    }
    copy(folder, image);
    memory
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
