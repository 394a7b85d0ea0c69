//! Replays the inputs of the fuzz targets, with the compiler everybody has.

use std::path::Path;

#[path = "../fuzz/bodies.rs"]
mod bodies;

#[test]
fn the_record_corpus_holds() -> std::io::Result<()> {
    assert!(replay("record", bodies::record)? > 20);
    Ok(())
}

#[test]
fn the_guard_corpus_holds() -> std::io::Result<()> {
    assert!(replay("guard", bodies::guard)? > 20);
    Ok(())
}

/// How many inputs there were; a failing one is named.
fn replay(target: &str, body: fn(&[u8])) -> std::io::Result<usize> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let data = std::fs::read(&path)?;
        let held = std::panic::catch_unwind(|| body(&data));
        assert!(held.is_ok(), "{} fails", path.display());
        count += 1;
    }
    Ok(count)
}
