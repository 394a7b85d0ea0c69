//! What somebody typed into a form: read whole, bounded, and kept to be shown again with what is wrong
//! with it.

use std::time::Duration;

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
    response::Response,
};
use tokio::time::timeout;

use super::{client::Refused, reply};

/// The largest form holds the settings of alerts, as the API's largest body does.
const FORM_BYTES_MAX: usize = 512 * 1024;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// The fields of a form, in the order they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let body = timeout(FORM_TIMEOUT, to_bytes(request.into_body(), FORM_BYTES_MAX)).await;
        match body {
            Ok(Ok(bytes)) => Ok(Self::parse(&bytes)),
            Ok(Err(_)) | Err(_) => Err(reply::bare(
                StatusCode::PAYLOAD_TOO_LARGE,
                "That did not arrive",
                "The form was too large or came too slowly, so nothing was done.",
            )),
        }
    }
}

impl Form {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        // A text area sends CRLF; people mean line ends.
        let field = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            (name.into_owned(), value.replace("\r\n", "\n"))
        };
        Self(url::form_urlencoded::parse(bytes).map(field).collect())
    }

    /// The field as it was typed; a field that is missing is empty.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// The field without blanks around it, where something was typed.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty())
    }

    /// Whether a box was ticked.
    pub(super) fn ticked(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }

    /// Which of two words a field holds, `yes` or `no`. A button of ours sends one of them; nothing else is taken for
    /// either.
    pub(super) fn either(&self, name: &str, yes: &str, no: &str) -> Result<bool, Refused> {
        match self.text(name) {
            text if text == yes => Ok(true),
            text if text == no => Ok(false),
            text => Err(Refused::field(name, format!("{text:?} is neither {yes} nor {no}"))),
        }
    }

    /// Puts a value into the form, as when it is shown for the first time.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(field, _)| field != name);
        self.0.push((name.to_owned(), value.into()));
    }
}

/// A form on its way to the page: what stands in it, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Filled {
    form: Form,
    refused: Option<Refused>,
}

impl Filled {
    pub(super) fn new(form: Form) -> Self {
        Self { form, refused: None }
    }

    pub(super) fn refused(form: Form, refused: Refused) -> Self {
        Self { form, refused: Some(refused) }
    }

    pub(super) fn value(&self, field: &str) -> &str {
        self.form.text(field)
    }

    pub(super) fn ticked(&self, field: &str) -> bool {
        self.form.ticked(field)
    }

    /// Whether a list shows this choice: what was chosen, or `usual` while nothing is.
    pub(super) fn chose(&self, field: &str, choice: &str, usual: &str) -> bool {
        let chosen = if self.form.ticked(field) { self.form.text(field) } else { usual };
        chosen == choice
    }

    /// What is wrong with this field; empty where nothing is.
    pub(super) fn wrong(&self, field: &str) -> &str {
        self.refused.as_ref().and_then(|refused| refused.of(field)).unwrap_or("")
    }

    pub(super) fn refusal(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// What is wrong with the form as a whole, or with fields that it does not show.
    pub(super) fn trouble(&self, shown: &[&str]) -> Vec<String> {
        let Some(refused) = &self.refused else { return Vec::new() };
        if refused.errors.is_empty() {
            return vec![refused.detail.clone()];
        }
        let elsewhere = refused.errors.iter().filter(|error| !shown.contains(&error.field.as_str()));
        elsewhere.map(|error| format!("{}: {}", error.field, error.reason)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_send_it() {
        let form = Form::parse(b"name=a+b%21&text=1%0D%0A2&box=on");
        assert_eq!((form.text("name"), form.text("missing")), ("a b!", ""));
        assert_eq!(form.text("text"), "1\n2");
        assert!(form.ticked("box") && !form.ticked("other"));
    }

    #[test]
    fn odd_bytes_are_no_reason_to_fail() {
        assert_eq!(Form::parse(b"%ff%fe=%zz&&=&a").text("a"), "");
    }
}
