//! For each form of the pages: what is sound in each field, and what is nonsense there.

use Kind::{Back, Button, Secret, Takes, Tick, Version};

/// One form, filled in well.
pub(super) struct Sheet {
    /// Where it is sent, as the table of pages writes it.
    pub(super) form: &'static str,
    /// A page that shows it on the stage; empty where only a state that the stage does not play shows it.
    pub(super) page: &'static str,
    pub(super) fields: &'static [Field],
    /// What becomes of it when all is sound.
    pub(super) ends: Ends,
}

/// A field's name, what is sound in it, and of which kind it is.
pub(super) type Field = (&'static str, &'static str, Kind);

pub(super) enum Kind {
    /// Typed or chosen; with what is nonsense.
    Takes(&'static [&'static str]),
    /// Put there by a button: the same, with nothing to be kept.
    Button(&'static [&'static str]),
    /// Typed, and never shown again.
    Secret(&'static [&'static str]),
    /// A box: there or not.
    Tick,
    /// Which record was read: another one is a conflict.
    Version,
    /// Says only from where somebody came; whatever stands there, nothing else happens.
    Back,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Done, and said so on the next page.
    Well,
    /// The stage plays no more than the refusals.
    Unplayed,
}

/// What is no name, whatever is to be named.
const NO_NAMES: &[&str] = &["", "no name", "-first", "\u{e4}", "\"><script>alert(1)</script>", LONG];
const NO_NAMES_OR_EMPTY: &[&str] = &["no name", "-first", "\u{e4}", "\"><script>alert(1)</script>", LONG];
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NO_SWITCH: &[&str] = &["", "banana", "ON", "true"];
const PASSWORD: &str = "a password of many letters";

const fn sheet(form: &'static str, page: &'static str, fields: &'static [Field]) -> Sheet {
    Sheet { form, page, fields, ends: Ends::Well }
}

const fn unplayed(form: &'static str, page: &'static str, fields: &'static [Field]) -> Sheet {
    Sheet { form, page, fields, ends: Ends::Unplayed }
}

pub(super) const SHEETS: &[Sheet] = &[
    sheet(
        "/setup/{secret}",
        "/setup/{secret}",
        &[
            ("name", "anna", Takes(NO_NAMES)),
            ("password", PASSWORD, Secret(&["", "short", "aaaaaaaaaaaaaaaa"])),
        ],
    ),
    // Which of the two is wrong is nobody's business: `a_refused_sign_in_keeps_the_name_and_says_no_more`.
    sheet(
        "/sign-in",
        "/sign-in",
        &[
            ("next", "/", Back),
            ("environment", "default", Takes(&["no name"])),
            ("name", "anna", Takes(&[])),
            ("password", PASSWORD, Secret(&[])),
        ],
    ),
    sheet("/sign-out", "/", &[]),
    sheet("/process-servers/{name}/candidate", "/process-servers", CANDIDATE),
    sheet("/process-servers/{name}/restart", "/process-servers", &[("from", "list", Back)]),
    // Only an agent with an expired certificate asks to come back.
    unplayed("/process-servers/{name}/approve", "", &[("from", "list", Back)]),
    sheet("/process-servers/{name}/remove", "/process-servers/{name}", &[("from", "detail", Back)]),
    sheet(
        "/gateway/switch",
        "/process-servers",
        &[("to", "gw-b", Button(&["", "no name", "nobody"])), ("from", "list", Back)],
    ),
    sheet(
        "/enrol",
        "/enrol",
        &[("name", "gw-c", Takes(NO_NAMES_OR_EMPTY)), ("ttl", "5m", Takes(&["banana", "-1m", "5", "10y"]))],
    ),
    sheet("/destinations", "/destinations/new", NEW_DESTINATION),
    sheet("/destinations/{name}/edit", "/destinations/{name}/edit", CHANGED_DESTINATION),
    sheet(
        "/destinations/{name}/enabled",
        "/destinations/{name}",
        &[("enabled", "off", Button(NO_SWITCH)), ("from", "detail", Back)],
    ),
    unplayed("/destinations/{name}/test", "/destinations/{name}", &[("from", "detail", Back)]),
    sheet("/destinations/{name}/remove", "/destinations/{name}", &[("from", "detail", Back)]),
    sheet("/alerts/endpoint", "/alerts/endpoint", WEBHOOK),
    sheet("/alerts/endpoint", "/alerts/endpoint", SLACK),
    sheet("/alerts/endpoint", "/alerts/endpoint", MAIL),
    sheet("/alerts/endpoint", "/alerts/endpoint", AS_JSON),
    sheet("/alerts/test", "/alerts", TRIED_ENDPOINT),
    sheet("/alerts/preview", "/alerts", TRIED_ENDPOINT),
    sheet(
        "/alerts/switch",
        "/alerts",
        &[
            ("endpoint", "ops", Button(&["", "nobody"])),
            ("enabled", "off", Button(NO_SWITCH)),
            ("version", "", Version),
        ],
    ),
    sheet(
        "/alerts/remove",
        "/alerts",
        &[("endpoint", "ops", Button(&["", "nobody"])), ("version", "", Version)],
    ),
    sheet(
        "/alerts/hold-down",
        "/alerts",
        &[("hold_down", "30s", Takes(&["", "banana", "-1s", "25h"])), ("version", "", Version)],
    ),
    // Only what was told stands there to be sent again.
    unplayed("/alerts/send-again", "", &[("id", "nobody", Button(&["", "nobody", "../up", "a b"]))]),
    sheet(
        "/alerts/maintenance",
        "/alerts",
        &[
            ("hours", "8", Takes(&["", "banana", "-1", "0", "NaN", "1e300", "169"])),
            ("reason", "night work", Takes(&[BOOK])),
        ],
    ),
    sheet("/alerts/maintenance/end", "", &[("from", "alerts", Back)]),
    sheet("/streams/{id}/end", "/streams", &[("from", "list", Back)]),
    unplayed("/drills", "/drills", &[("to", "gw-b", Takes(&["no name"]))]),
    // The stage ends what drains once; a second time nothing does, which is said.
    unplayed("/drills/end-drain", "/drills", &[("from", "drills", Back)]),
    sheet(
        "/drills/recover",
        "/drills",
        &[
            ("on", "gw-b", Takes(&["", "no name", "\u{e4}"])),
            ("lost", "gw-a", Takes(&["gw/a", "\u{e4}"])),
            ("accept_risk", "on", Tick),
        ],
    ),
    sheet(
        "/people/users",
        "/people",
        &[
            ("name", "bert", Takes(&["", "no name", "vera", "\"><script>alert(1)</script>"])),
            ("role", "operator", Takes(&["", "banana"])),
            ("password", PASSWORD, Secret(&["", "short"])),
        ],
    ),
    sheet(
        "/people/users/{name}",
        "/people",
        &[("role", "operator", Takes(&["", "banana"])), ("version", "", Version)],
    ),
    sheet(
        "/people/users/{name}",
        "/people",
        &[("disabled", "yes", Button(&["", "banana", "on"])), ("version", "", Version)],
    ),
    sheet("/people/users/{name}/remove", "/people", &[("from", "list", Back)]),
    sheet(
        "/people/tokens",
        "/people",
        &[
            ("name", "night-jobs", Takes(NO_NAMES_OR_EMPTY)),
            ("role", "operator", Takes(&["", "banana"])),
            ("ttl", "30d", Takes(&["banana", "-1d", "30", "99y"])),
        ],
    ),
    sheet("/people/tokens/{id}/revoke", "/people", &[("from", "list", Back)]),
    sheet(
        "/settings/password",
        "/settings",
        &[
            ("username", "anna", Back),
            ("current", PASSWORD, Secret(&["", "not this one"])),
            ("new", "another password of many letters", Secret(&["", "short"])),
        ],
    ),
    sheet("/settings/sessions/{id}/end", "/settings", &[("from", "list", Back)]),
];

const CANDIDATE: &[Field] = &[("candidate", "on", Button(NO_SWITCH)), ("from", "list", Back)];
const TRIED_ENDPOINT: &[Field] =
    &[("endpoint", "ops", Button(&["", "nobody"])), ("kind", "up", Button(&["", "banana", "Down"]))];

const NO_PORTS: &[&str] = &["banana", "0", "65536", "-1", "80 80"];
const NO_HOSTS: &[&str] = &["", "a b", "user@host", "a/b", "\"><script>", "h\u{f6}st"];
const NO_LISTENERS: &[&str] = &["banana", "127.0.0.1", "127.0.0.1:99999", ":80"];
const NO_STREAMS: &[&str] = &["banana", "0", "-1", "1.5", "100001"];
const NO_NETWORKS: &[&str] = &["banana", "10.0.0.0/33", "10.0.0.0/8\nx"];

const NEW_DESTINATION: &[Field] = &[
    ("version", "", Back),
    ("name", "mail", Takes(&["", "no name", "orders", "\"><script>"])),
    ("type", "http", Takes(&["", "banana", "udp "])),
    ("host", "web.example", Takes(NO_HOSTS)),
    ("port", "8080", Takes(NO_PORTS)),
    ("path", "/orders", Takes(&["/a?b", "/a b", "/a#b"])),
    ("listen", "127.0.0.1:15432", Takes(NO_LISTENERS)),
    ("limits.streams", "7", Takes(NO_STREAMS)),
    ("acl.clients", "10.0.0.0/8\n192.0.2.0/24", Takes(NO_NETWORKS)),
    ("enabled", "on", Tick),
];

const CHANGED_DESTINATION: &[Field] = &[
    ("version", "", Version),
    ("name", "orders", Back),
    ("type", "postgresql", Takes(&["", "banana"])),
    ("host", "db2.example", Takes(NO_HOSTS)),
    ("port", "5433", Takes(NO_PORTS)),
    ("path", "", Takes(&[])),
    ("listen", "127.0.0.1:15433", Takes(NO_LISTENERS)),
    ("limits.streams", "9", Takes(NO_STREAMS)),
    ("acl.clients", "10.0.0.0/8", Takes(NO_NETWORKS)),
    ("enabled", "on", Tick),
];

const NO_ENDPOINT_NAMES: &[&str] = &["", "a/b", "\"><script>", LONG, "ops"];

const WEBHOOK: &[Field] = &[
    ("version", "", Version),
    ("changed", "", Back),
    ("name", "pager", Takes(NO_ENDPOINT_NAMES)),
    ("preset", "json", Takes(&["", "banana"])),
    (
        "url",
        "https://ops.example/hook",
        Takes(&["", "banana", "ftp://ops.example", "http://169.254.169.254/latest"]),
    ),
    ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Takes(&["banana"])),
    ("also.failover", "on", Tick),
    ("also.tolerance_lost", "on", Tick),
    ("also.candidate_silent", "on", Tick),
    ("also.certificate_expiring", "on", Tick),
    ("also.destination_unreachable", "on", Tick),
    ("also.deliveries_failing", "on", Tick),
    ("enabled", "on", Tick),
];

const SLACK: &[Field] = &[
    ("version", "", Version),
    ("name", "chat", Takes(NO_ENDPOINT_NAMES)),
    ("preset", "slack", Takes(&[])),
    (
        "url",
        "https://hooks.slack.com/services/{{ secret(\"hook\") | safe }}",
        Takes(&["banana", "https://x/{{ secret("]),
    ),
    ("secret_value", "T0/B0/x", Takes(&["***"])),
    ("enabled", "on", Tick),
];

const MAIL: &[Field] = &[
    ("version", "", Version),
    ("name", "office", Takes(NO_ENDPOINT_NAMES)),
    ("preset", "mail", Takes(&[])),
    ("url", "smtp://mail.example:587", Takes(&["", "banana", "https://mail.example"])),
    ("from", "postern@example.com", Takes(&["", "banana", "a@b.example\r\nBcc: c@d.example"])),
    ("to", "ops@example.com, night@example.com", Takes(&["", "banana"])),
    ("enabled", "on", Tick),
];

const AS_JSON: &[Field] = &[
    ("version", "", Version),
    ("name", "is not looked at", Takes(&[])),
    ("as_json", "on", Tick),
    (
        "json",
        r#"{"name": "own", "url": "https://ops.example/hook", "headers": {"X-Team": "night"}}"#,
        Takes(&[
            "",
            "{",
            "[]",
            "7",
            r#"{"name": "own"}"#,
            r#"{"name": "own", "url": "https://a.example", "nonsense": 1}"#,
            r#"{"name": "own", "url": "https://a.example", "down": {"body": {"text": "{{ event.sumary }}"}}}"#,
        ]),
    ),
];

const BOOK: &str = concat!(
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
);
