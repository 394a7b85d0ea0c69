//! The form of a destination: typed fields on one side, the API's document on the other.

use serde_json::{Value, json};

use super::{answers::Destination, client::Refused, form::Form};
use crate::destination::UrlError;

/// Types that belong together in the menu.
pub(super) struct KindGroup {
    pub(super) label: &'static str,
    /// Name, words, usual port (0: none).
    pub(super) kinds: &'static [(&'static str, &'static str, u16)],
}

pub(super) const KINDS: &[KindGroup] = &[
    KindGroup {
        label: "Databases",
        kinds: &[
            ("postgresql", "PostgreSQL", 5432),
            ("oracle", "Oracle", 1521),
            ("sqlserver", "SQL Server", 1433),
            ("mysql", "MySQL, MariaDB", 3306),
            ("db2", "Db2", 50000),
            ("ibmi", "IBM i (AS/400)", 8471),
        ],
    },
    KindGroup { label: "Web services", kinds: &[("http", "HTTP, SOAP, REST", 80), ("https", "HTTPS", 443)] },
    KindGroup {
        label: "Mail",
        kinds: &[
            ("smtp", "SMTP relay", 25),
            ("submission", "SMTP submission", 587),
            ("smtps", "SMTP over TLS", 465),
            ("imap", "IMAP", 143),
            ("imaps", "IMAP over TLS", 993),
        ],
    },
    KindGroup {
        label: "Others",
        kinds: &[
            ("saprfc", "SAP RFC", 3300),
            ("ldap", "LDAP", 389),
            ("ldaps", "LDAP over TLS", 636),
            ("ssh", "SSH", 22),
            ("sftp", "SFTP", 22),
            ("tcp", "Any TCP", 0),
            ("tls", "Any TLS", 0),
            ("udp", "Any UDP", 0),
        ],
    },
];

/// A field that somebody else changed meanwhile.
pub(super) struct Difference {
    pub(super) field: &'static str,
    pub(super) theirs: String,
    pub(super) ours: String,
}

/// What the form says, as the API wants it. What is wrong with it is the API's to say.
///
/// # Errors
/// Where what was typed into one part would be read as another.
pub(super) fn spec(form: &Form) -> Result<Value, Refused> {
    let (host, port) = (form.text("host"), form.filled("port"));
    if host.contains('/') {
        return Err(Refused::field("host", UrlError::Host(host.to_owned()).to_string()));
    }
    if let Some(port) = port.filter(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return Err(Refused::field("port", UrlError::Port(port.to_owned()).to_string()));
    }
    let clients: Vec<&str> =
        form.text("acl.clients").split([',', '\n', ' ']).filter(|one| !one.is_empty()).collect();
    let streams = match form.filled("limits.streams") {
        // Text that is no number is sent as it is, so that it is refused by its field.
        Some(text) => {
            json!({"streams": text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))})
        }
        None => Value::Null,
    };
    let mut spec = json!({
        "name": form.text("name").trim(),
        "type": form.text("type"),
        "url": url(form),
        "enabled": form.ticked("enabled"),
        "listen": form.filled("listen"),
        "acl": {"clients": clients},
    });
    if let (Value::Object(fields), false) = (&mut spec, streams.is_null()) {
        fields.insert("limits".to_owned(), streams);
    }
    Ok(spec)
}

/// The URL from its typed parts.
fn url(form: &Form) -> String {
    let (kind, host) = (form.text("type"), form.text("host").trim());
    let host =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let port = form.filled("port").map_or_else(String::new, |port| format!(":{port}"));
    let path = if matches!(kind, "http" | "https") { form.text("path").trim() } else { "" };
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    format!("{kind}://{host}{port}{slash}{path}")
}

/// The refusal with the form's fields in the place of the document's: the URL is typed in parts here.
pub(super) fn at_its_fields(refused: Refused, form: &Form) -> Refused {
    let path = form.text("path");
    let odd_path = path.bytes().any(|byte| !byte.is_ascii_graphic() || b"?#\\\"<>".contains(&byte));
    let part = match refused.of("url") {
        Some(_) if matches!(form.text("type"), "http" | "https") && odd_path => "path",
        Some(_) | None => "host",
    };
    refused.called("url", part)
}

/// The form with what stands in the record.
pub(super) fn filled_from(destination: &Destination) -> Form {
    let mut form = Form::default();
    let (host, port, path) = parts(&destination.url);
    form.set("name", destination.name.as_str());
    form.set("type", destination.kind.as_str());
    form.set("host", host);
    form.set("port", port);
    form.set("path", path);
    form.set(
        "listen",
        destination.asked_listen.clone().or_else(|| destination.listen.clone()).unwrap_or_default(),
    );
    form.set("limits.streams", destination.limits.streams.to_string());
    form.set("acl.clients", destination.acl.clients.join("\n"));
    if destination.enabled {
        form.set("enabled", "on");
    }
    form
}

/// What differs between the record as it is now and what was typed over an older one.
pub(super) fn differences(now: &Destination, typed: &Form) -> Vec<Difference> {
    let theirs = filled_from(now);
    let fields = ["type", "host", "port", "path", "listen", "limits.streams", "acl.clients", "enabled"];
    fields
        .into_iter()
        .filter(|field| theirs.text(field).trim() != typed.text(field).trim())
        .map(|field| Difference { field, theirs: shown(theirs.text(field)), ours: shown(typed.text(field)) })
        .collect()
}

fn shown(text: &str) -> String {
    if text.trim().is_empty() { "(empty)".to_owned() } else { text.replace('\n', ", ") }
}

/// The host as a certificate would name it, and the path.
pub(super) fn host_and_path(url: &str) -> (String, String) {
    let (host, _, path) = parts(url);
    (host, path)
}

/// Host, port and path of a URL that the API has checked.
fn parts(url: &str) -> (String, String, String) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.trim_start_matches(':')),
        None => authority.rsplit_once(':').unwrap_or((authority, "")),
    };
    (host.to_owned(), port.to_owned(), path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_fields_become_the_document_of_the_api() {
        let form = Form::parse(
            b"name=db&type=postgresql&host=db.example&port=&listen=&limits.streams=7&acl.clients=10.0.0.0%2F8%0A&enabled=on",
        );
        let spec = spec(&form).unwrap();
        assert_eq!(spec["url"], "postgresql://db.example");
        assert_eq!(spec["limits"], json!({"streams": 7}));
        assert_eq!(spec["acl"], json!({"clients": ["10.0.0.0/8"]}));
        assert_eq!((&spec["listen"], &spec["enabled"]), (&Value::Null, &json!(true)));
    }

    #[test]
    fn nonsense_is_passed_on_to_whoever_refuses_it() {
        let form = Form::parse(b"name=&type=http&host=fe80::1&port=8&path=orders&limits.streams=many");
        let spec = spec(&form).unwrap();
        assert_eq!(
            (&spec["url"], &spec["limits"]["streams"]),
            (&json!("http://[fe80::1]:8/orders"), &json!("many"))
        );
    }

    #[test]
    fn what_would_be_read_as_another_part_is_refused_where_it_was_typed() {
        let field = |form: &[u8]| spec(&Form::parse(form)).unwrap_err().errors[0].field.clone();
        assert_eq!(field(b"type=http&host=a%2Fb"), "host");
        assert_eq!(field(b"type=http&host=a&port=80%2Fb"), "port");
        assert_eq!(field(b"type=http&host=a&port=0"), "port");
    }

    #[test]
    fn what_is_wrong_with_the_url_is_said_at_the_part_that_is() {
        let part = |form: &[u8]| {
            at_its_fields(Refused::field("url", "no"), &Form::parse(form)).errors[0].field.clone()
        };
        assert_eq!(part(b"type=http&host=a&port=80&path=a%3Fb"), "path");
        assert_eq!(part(b"type=tcp&host=a+b&port=80&path=a%3Fb"), "host");
    }

    #[test]
    fn a_url_falls_into_the_parts_it_was_made_of() {
        assert_eq!(parts("http://[fe80::1]:80/a/b"), ("fe80::1".into(), "80".into(), "/a/b".into()));
        assert_eq!(parts("postgresql://db:5432"), ("db".into(), "5432".into(), String::new()));
    }
}
