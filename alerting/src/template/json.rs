//! Puts values into JSON text, each in the form that its place asks for.
//!
//! While a template is rendered a value leaves only a mark. At the end the text is read as JSON is, and a mark inside
//! a string becomes the value's letters, escaped; elsewhere, the value as JSON. So both `"text": {{ x }}` and
//! `"text": "Down: {{ x }}"` are right, whatever is in `x`.

use minijinja::Value;

use super::TemplateError;

/// Two code points that Unicode promises never to assign a character to.
const BEGIN: char = '\u{FDD0}';
const END: char = '\u{FDD1}';

/// What stands for the value at `index` for now.
pub(super) fn mark(index: usize) -> String {
    format!("{BEGIN}{index}{END}")
}

/// Text that is not ours must bring no marks.
pub(super) fn without_marks(text: &str) -> String {
    text.replace([BEGIN, END], "")
}

/// `text` with each mark replaced by its value.
pub(super) fn insert(text: &str, values: &[Value]) -> Result<String, TemplateError> {
    let mut written = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == BEGIN {
            let index: String = rest.by_ref().take_while(|c| *c != END).collect();
            let value = index.parse().ok().and_then(|index: usize| values.get(index));
            let value =
                value.ok_or_else(|| TemplateError::Whole("it contains the character U+FDD0".into()))?;
            written.push_str(&if in_string { letters(value)? } else { json(value)? });
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        written.push(c);
    }
    Ok(written)
}

fn letters(value: &Value) -> Result<String, TemplateError> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.kind() == minijinja::value::ValueKind::None => String::new(),
        None => json(value)?,
    };
    let quoted = json(&Value::from(text))?;
    // A JSON string has a quote at each end.
    Ok(quoted[1..quoted.len() - 1].to_owned())
}

fn json(value: &Value) -> Result<String, TemplateError> {
    serde_json::to_string(value).map_err(|error| TemplateError::Whole(error.to_string()))
}
