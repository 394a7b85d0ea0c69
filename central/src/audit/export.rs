//! A log as a file: one line that says behind what it begins, one line a record, one line that says where it ends.

use std::io::{self, BufRead};

use proto::EnvironmentName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chain::{Anchor, Broken, Chain};

/// What the first line says of itself.
const FORMAT: &str = "postern-audit-1";
/// The longest line: far more than the largest record.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file is not a whole log.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("line {line}: {why}")]
    Line { line: u64, why: String },
    #[error("it ends behind record {0} without the line that says where it ends: its end was cut off")]
    NoEnd(u64),
    #[error("it says that it ends with record {said}, but record {found} is its last")]
    OtherEnd { said: u64, found: u64 },
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}

#[derive(Deserialize)]
struct First {
    audit: String,
    anchor: Anchor,
}

/// The first line.
pub fn first_line(environment: &EnvironmentName, anchor: &Anchor) -> Value {
    json!({ "audit": FORMAT, "environment": environment, "anchor": anchor })
}

/// The last line.
pub fn head_line(head: &Anchor) -> Value {
    json!({ "head": head })
}

/// Reads a whole file, with the head that somebody kept, and returns its own.
///
/// # Errors
/// [`ExportError`] names the first record that is wrong.
pub fn verify_export(mut file: impl BufRead, kept: Option<Anchor>) -> Result<Anchor, ExportError> {
    let mut number = 0;
    let wrong = |line, why: String| ExportError::Line { line, why };
    let first: First = match next(&mut file, &mut number)? {
        Some(line) => serde_json::from_value(line).map_err(|error| wrong(1, error.to_string()))?,
        None => return Err(wrong(1, "the file is empty".into())),
    };
    if first.audit != FORMAT {
        return Err(wrong(1, format!("this is {:?}, and this program reads {FORMAT}", first.audit)));
    }
    let mut chain = Chain::behind(first.anchor);
    if let Some(kept) = kept {
        chain = chain.through(kept)?;
    }
    while let Some(line) = next(&mut file, &mut number)? {
        let Some(head) = line.get("head") else {
            chain.take(&line)?;
            continue;
        };
        let said: Anchor =
            serde_json::from_value(head.clone()).map_err(|error| wrong(number, error.to_string()))?;
        if said != *chain.head() {
            return Err(ExportError::OtherEnd { said: said.seq, found: chain.head().seq });
        }
        if next(&mut file, &mut number)?.is_some() {
            return Err(wrong(number, "there is more behind the end".into()));
        }
        return Ok(chain.end()?);
    }
    let found = chain.head().seq;
    // If a head was kept, it says more.
    chain.end()?;
    Err(ExportError::NoEnd(found))
}

fn next(file: &mut impl BufRead, number: &mut u64) -> Result<Option<Value>, ExportError> {
    let mut line = String::new();
    *number += 1;
    let mut bounded = io::Read::take(&mut *file, LINE_BYTES_MAX);
    if bounded.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match serde_json::from_str(&line) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(ExportError::Line { line: *number, why: format!("it is no JSON: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::chain::hash_of, *};

    #[test]
    fn a_whole_file_is_whole_and_says_its_head() {
        let (text, head) = file(3);
        assert_eq!(verify_export(text.as_bytes(), None).unwrap(), head);
        assert_eq!(verify_export(text.as_bytes(), Some(head.clone())).unwrap(), head);
        assert_eq!(verify_export(file(0).0.as_bytes(), None).unwrap().seq, 4);
    }

    #[test]
    fn lines_that_were_cut_off_are_missed() {
        let (text, head) = file(3);
        let lines: Vec<&str> = text.lines().collect();
        let without = |dropped: &[usize]| {
            let kept = lines.iter().enumerate().filter(|(number, _)| !dropped.contains(number));
            kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        let verify = |text: &str, kept| verify_export(text.as_bytes(), kept).unwrap_err();
        assert!(matches!(verify(&without(&[4]), None), ExportError::NoEnd(7)));
        assert!(matches!(verify(&without(&[3]), None), ExportError::OtherEnd { said: 7, found: 6 }));
        assert!(matches!(verify(&without(&[2]), None), ExportError::Broken(Broken { seq: 6, .. })));
        assert!(matches!(verify(&without(&[0]), None), ExportError::Line { line: 1, .. }));
        // Cut off and closed again with a head of its own: only the kept head tells.
        let closed =
            format!("{}{}\n", without(&[3, 4]), head_line(&Anchor { seq: 6, hash: hash_in(lines[2]) }));
        assert_eq!(verify_export(closed.as_bytes(), None).unwrap().seq, 6);
        assert!(matches!(verify(&closed, Some(head)), ExportError::Broken(Broken { seq: 7, .. })));
        assert!(matches!(verify("", None), ExportError::Line { line: 1, .. }));
    }

    /// Records 5 to 4 + `length`, and the head.
    fn file(length: u64) -> (String, Anchor) {
        let mut head = Anchor { seq: 4, hash: "ab".repeat(32) };
        let mut text = format!("{}\n", first_line(&"default".parse().unwrap(), &head));
        for seq in 5..5 + length {
            let mut record = json!({ "seq": seq, "prev": head.hash });
            record["hash"] = hash_of(&record).into();
            head = Anchor { seq, hash: record["hash"].as_str().unwrap().to_owned() };
            text.push_str(&format!("{record}\n"));
        }
        text.push_str(&format!("{}\n", head_line(&head)));
        (text, head)
    }

    fn hash_in(line: &str) -> String {
        serde_json::from_str::<Value>(line).unwrap()["hash"].as_str().unwrap().to_owned()
    }
}
