//! Replays the inputs the fuzzers found worth keeping, with the compiler everybody has.

use std::path::Path;

#[path = "../fuzz/bodies.rs"]
mod bodies;

#[test]
fn the_frame_corpus_holds() -> std::io::Result<()> {
    assert!(replay("frame", bodies::frame)? > 20);
    Ok(())
}

#[test]
fn the_mux_corpus_holds() -> std::io::Result<()> {
    assert!(replay("mux", bodies::mux)? > 20);
    Ok(())
}

#[test]
fn the_hello_corpus_holds() -> std::io::Result<()> {
    assert!(replay("hello", bodies::hello)? > 20);
    Ok(())
}

#[test]
fn the_resume_corpus_holds() -> std::io::Result<()> {
    assert!(replay("resume", bodies::resume)? > 20);
    Ok(())
}

#[test]
fn the_websocket_corpus_holds() -> std::io::Result<()> {
    assert!(replay("websocket", bodies::websocket)? > 20);
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
