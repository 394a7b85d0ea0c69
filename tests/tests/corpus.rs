//! Replays the inputs that the fuzzers of `tests/fuzz` found worth keeping, with the compiler everybody has.

use std::path::Path;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

#[test]
fn the_corpus_of_what_becomes_known_holds() -> std::io::Result<()> {
    assert!(replay("enrol_request", bodies::enrol_request)? > 20);
    assert!(replay("enrol_answer", bodies::enrol_answer)? > 20);
    Ok(())
}

#[test]
fn the_corpus_of_peers_holds() -> std::io::Result<()> {
    assert!(replay("raft_frame", bodies::raft_frame)? > 20);
    assert!(replay("raft_call", bodies::raft_call)? > 20);
    Ok(())
}

#[test]
fn the_corpus_of_settings_holds() -> std::io::Result<()> {
    assert!(replay("agent_config", bodies::agent_config)? > 20);
    assert!(replay("central_config", bodies::central_config)? > 20);
    assert!(replay("allow_list", bodies::allow_list)? > 20);
    Ok(())
}

#[test]
fn the_corpus_of_upgrades_holds() -> std::io::Result<()> {
    assert!(replay("upgrade_request", bodies::upgrade_request)? > 20);
    assert!(replay("upgrade_answer", bodies::upgrade_answer)? > 20);
    Ok(())
}

/// How many inputs there were; those that fail are named.
fn replay(target: &str, body: fn(&[u8])) -> std::io::Result<usize> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let (mut count, mut failed) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let data = std::fs::read(&path)?;
        if std::panic::catch_unwind(|| body(&data)).is_err() {
            failed.push(path);
        }
        count += 1;
    }
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(count)
}
