//! Finds what could make a small template use unbounded memory: fuel counts steps, not bytes.

use super::TemplateError;

/// The statements that hold nothing: text cannot grow from one round of a loop to the next.
const STATEMENTS: [&str; 6] = ["if", "elif", "else", "endif", "for", "endfor"];

/// Refuses every statement but [`STATEMENTS`], and multiplication, which repeats strings.
pub(super) fn refuse_unbounded(source: &str) -> Result<(), TemplateError> {
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let line = || 1 + source[..source.len() - rest.len() + at].matches('\n').count();
        let tag = &rest[at..];
        if let Some(comment) = tag.strip_prefix("{#") {
            rest = comment.split_once("#}").map_or("", |(_, after)| after);
            continue;
        }
        let (inner, end) = match tag.as_bytes() {
            [b'{', b'{', ..] => (&tag[2..], "}}"),
            [b'{', b'%', ..] => (&tag[2..], "%}"),
            _ => {
                rest = &tag[1..];
                continue;
            }
        };
        if end == "%}" {
            let words = inner.trim_start_matches(['-', '+']).trim_start();
            let word: &str =
                words.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            if !STATEMENTS.contains(&word) {
                let what = format!("{{% {word} %}} is not offered here: only if and for are");
                return Err(TemplateError::At { line: line(), what });
            }
        }
        let (length, multiplies) = read_tag(inner, end);
        if multiplies {
            return Err(TemplateError::At {
                line: line(),
                what: "multiplication is not offered here".into(),
            });
        }
        rest = &inner[length..];
    }
    Ok(())
}

/// Where the tag ends, and whether it multiplies. Strings are read as the template language reads them.
fn read_tag(inner: &str, end: &str) -> (usize, bool) {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '*' => return (at, true),
            None if inner[at..].starts_with(end) => return (at + end.len(), false),
            None => {}
        }
    }
    (inner.len(), false)
}
