//! Turns templates into text, for bodies, headers and addresses.
//!
//! The language is Jinja's, cut to what an alert needs: `{{ … }}`, `{% if %}`, `{% for %}` and a few filters. What
//! could make a small template eat a machine is left out: assignment, macros, multiplication, inclusion. A name that
//! does not exist is an error, with its line.
//!
//! Values are escaped for the place they stand in, so no agent's error message can add a field to a JSON body, a
//! header line, or a step to a path. `| safe` gives that up, for values that are meant to bring structure.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, UndefinedBehavior, Value, filters};

use crate::secret::Secret;

mod json;
mod limits;
#[cfg(test)]
mod tests;

/// What a template sees.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) values: Value,
    pub(crate) secrets: Arc<BTreeMap<String, Secret>>,
}

/// Where a text goes, and so how values in it are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Text,
    /// In a JSON string a value becomes its letters, elsewhere a JSON value.
    Json,
    /// Percent-encoded, slashes too.
    Url,
}

/// Why a template gives no text, for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("line {line}: {what}")]
    At { line: usize, what: String },
    #[error("{0}")]
    Whole(String),
    #[error("what it gives is no JSON: {error}. It begins: {excerpt}")]
    NotJson { error: String, excerpt: String },
    #[error("it gives more than {0} bytes")]
    TooLong(usize),
}

/// A rendered text is no longer than this.
pub(crate) const OUTPUT_MAX_BYTES: usize = 64 * 1024;

/// A template is no longer than this.
pub(crate) const SOURCE_MAX_BYTES: usize = 32 * 1024;

/// Steps of the template's machine: a hundred times what a preset takes.
const FUEL: u64 = 20_000;

/// In one body this many strings may be templates, each with its own fuel.
const LEAVES_MAX: usize = 256;

/// Renders `source`. [`Form::Json`] gives JSON or an error.
pub(crate) fn render(source: &str, form: Form, scope: &Scope) -> Result<String, TemplateError> {
    limits::refuse_unbounded(source)?;
    let held = Arc::new(Mutex::new(Vec::new()));
    let mut environment = environment(scope);
    let values = held.clone();
    environment.set_formatter(move |out, _, value| write_value(out, form, value, &values));
    let template = environment.template_from_str(source)?;
    let mut text = Limited::default();
    template.render_captured_to(scope.values.clone(), &mut text).map_err(|error| match text.overflowed {
        true => TemplateError::TooLong(OUTPUT_MAX_BYTES),
        false => error.into(),
    })?;
    let text = String::from_utf8(text.bytes).map_err(|_| TemplateError::Whole("it gives no UTF-8".into()))?;
    let text = match form {
        Form::Json => {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let text = json::insert(&text, &held)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| not_json(&error, &text))?;
            text
        }
        Form::Text | Form::Url => text,
    };
    if text.len() > OUTPUT_MAX_BYTES { Err(TemplateError::TooLong(OUTPUT_MAX_BYTES)) } else { Ok(text) }
}

/// Renders every string in `template`, and gives the whole as JSON. A string that is one `{{ … }}` and nothing else
/// becomes the value in it, of whatever type.
pub(crate) fn render_json(template: &serde_json::Value, scope: &Scope) -> Result<String, TemplateError> {
    let mut left = Left { bytes: OUTPUT_MAX_BYTES, leaves: LEAVES_MAX };
    let value = render_leaves(template, scope, &mut left)?;
    let text = value.to_string();
    if text.len() > OUTPUT_MAX_BYTES { Err(TemplateError::TooLong(OUTPUT_MAX_BYTES)) } else { Ok(text) }
}

/// What the rest of a body may still take.
struct Left {
    bytes: usize,
    leaves: usize,
}

fn render_leaves(
    template: &serde_json::Value,
    scope: &Scope,
    left: &mut Left,
) -> Result<serde_json::Value, TemplateError> {
    use serde_json::Value as Json;
    Ok(match template {
        Json::Null | Json::Bool(_) | Json::Number(_) => template.clone(),
        Json::String(plain) if !plain.contains('{') => template.clone(),
        Json::String(source) => {
            let too_many =
                || TemplateError::Whole(format!("more than {LEAVES_MAX} of its strings are templates"));
            left.leaves = left.leaves.checked_sub(1).ok_or_else(too_many)?;
            let value = match single_expression(source) {
                Some(expression) => evaluate(expression, scope)?,
                None => Json::String(render(source, Form::Text, scope)?),
            };
            let length = value.as_str().map_or_else(|| value.to_string().len(), str::len);
            left.bytes = left.bytes.checked_sub(length).ok_or(TemplateError::TooLong(OUTPUT_MAX_BYTES))?;
            value
        }
        Json::Array(items) => {
            let items = items.iter().map(|item| render_leaves(item, scope, left));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| Ok((name.clone(), render_leaves(value, scope, left)?)));
            Json::Object(fields.collect::<Result<_, TemplateError>>()?)
        }
    })
}

fn single_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let one = !["{{", "}}", "{%", "{#"].iter().any(|mark| inner.contains(mark));
    one.then(|| inner.trim_matches(['-', '+']))
}

fn evaluate(expression: &str, scope: &Scope) -> Result<serde_json::Value, TemplateError> {
    limits::refuse_unbounded(&format!("{{{{{expression}}}}}"))?;
    let environment = environment(scope);
    let value = environment.compile_expression(expression)?.eval(scope.values.clone())?;
    if value.is_undefined() {
        return Err(TemplateError::Whole(format!("{} has no value", expression.trim())));
    }
    serde_json::to_value(&value).map_err(|error| TemplateError::Whole(error.to_string()))
}

fn environment(scope: &Scope) -> Environment<'static> {
    // Not the usual environment: some of its filters and functions grow text without bound.
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(16);
    environment.set_debug(true);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("join", filters::join);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("safe", filters::safe);
    environment.add_filter("tojson", filters::tojson);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment
        .add_filter("truncate", |text: String, length: usize| text.chars().take(length).collect::<String>());
    environment.add_filter("urlencode", |text: String| percent_encoded(&text));
    environment.add_filter("slack", |text: String| {
        // The three letters by which Slack tells links and mentions from text.
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    });
    let secrets = scope.secrets.clone();
    environment.add_function("secret", move |name: String| match secrets.get(&name) {
        Some(secret) => Ok(secret.reveal().to_owned()),
        None => {
            let what = format!("no secret is named {name:?}: add it under secrets");
            Err(Error::new(ErrorKind::InvalidOperation, what))
        }
    });
    environment
}

fn write_value(
    out: &mut Output<'_>,
    form: Form,
    value: &Value,
    held: &Mutex<Vec<Value>>,
) -> Result<(), Error> {
    match form {
        Form::Text => write!(out, "{value}")?,
        Form::Url if value.is_safe() => write!(out, "{value}")?,
        Form::Url => out.write_str(&percent_encoded(&value.to_string()))?,
        Form::Json if value.is_safe() => out.write_str(&json::without_marks(&value.to_string()))?,
        // How it is to be written depends on the text before it, which is known at the end.
        Form::Json => {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_str(&json::mark(held.len()))?;
            held.push(value.clone());
        }
    }
    Ok(())
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'*' => {
                encoded.push(char::from(byte))
            }
            other => {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "%{other:02X}");
            }
        }
    }
    encoded
}

fn not_json(error: &serde_json::Error, text: &str) -> TemplateError {
    TemplateError::NotJson { error: error.to_string(), excerpt: text.chars().take(80).collect() }
}

#[derive(Default)]
struct Limited {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_MAX_BYTES {
            self.overflowed = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let what = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        match error.line() {
            Some(line) => Self::At { line, what },
            None => Self::Whole(what),
        }
    }
}
