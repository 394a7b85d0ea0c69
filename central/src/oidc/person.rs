//! What the claims of a token that was checked mean here: a name, and the highest role of all it gives.

use proto::{Name, ids::NAME_BYTES_MAX};
use serde_json::{Map, Value};

use super::{Person, Refusal, Settings, id_token::Verified, refusal::Found};
use crate::people::Account;

/// More values of a claim are not looked at.
const VALUES_MAX: usize = 10_000;

pub(super) fn person(verified: Verified, settings: &Settings) -> Result<Person, Refusal> {
    let Verified { subject, claims } = verified;
    let claim = claim(&claims, &settings.user_claim);
    let name = claim
        .and_then(Value::as_str)
        .and_then(name_of)
        .ok_or_else(|| Refusal::NoName { claim: settings.user_claim.clone(), found: Found::of(claim) })?;
    let claim = self::claim(&claims, &settings.role_claim);
    let role = settings
        .roles
        .highest(texts(claim))
        .ok_or_else(|| Refusal::NoRole { claim: settings.role_claim.clone(), found: Found::of(claim) })?;
    Ok(Person { name, role, account: Account { issuer: settings.issuer.as_str().to_owned(), subject } })
}

/// A claim by its name; else by a path of names with dots between, as in `realm_access.roles`.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, part| value.get(part))
}

/// One text, or all texts of a list.
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().take(VALUES_MAX).filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
}

/// A name of ours that looks as much like `text` as our rules allow: `anna@example.com` is `anna-example.com`. That two
/// texts may become one name is no danger: who somebody is, says the account.
fn name_of(text: &str) -> Option<Name> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fitting: String = text
        .chars()
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(NAME_BYTES_MAX)
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    fitting.trim_end_matches('-').parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        oidc::settings::{Roles, tests},
        people::Role,
    };

    #[test]
    fn a_name_is_made_to_fit() {
        for (text, name) in [
            ("anna", "anna"),
            ("Anna.Berg", "Anna.Berg"),
            ("anna@example.com", "anna-example.com"),
            (" anna berg ", "anna-berg"),
            ("Jürgen", "J-rgen"),
            ("<b>x</b>", "b-x--b"),
            (&"a".repeat(100), &"a".repeat(63)),
        ] {
            assert_eq!(name_of(text).unwrap().as_str(), name, "{text}");
        }
        for none in ["", "@", "---", "\u{202e}\n", "Ωμέγα"] {
            assert_eq!(name_of(none), None, "{none}");
        }
    }

    #[test]
    fn the_highest_match_wins_and_a_path_leads_into_a_claim() {
        let settings = Settings {
            role_claim: "realm_access.roles".into(),
            roles: Roles::new([("all".into(), Role::Viewer), ("ops".into(), Role::Operator)]),
            ..tests::settings()
        };
        let claims = json!({"preferred_username": "anna", "realm_access": {"roles": ["ops", "all", 7]}});
        let found = person(verified(claims), &settings).unwrap();
        assert_eq!((found.name.as_str(), found.role), ("anna", Role::Operator));
        assert_eq!(found.account.subject, "1234");
        let one = json!({"preferred_username": "anna", "realm_access.roles": "all"});
        assert_eq!(person(verified(one), &settings).unwrap().role, Role::Viewer);
    }

    #[test]
    fn no_role_and_no_name_are_told_with_what_stood_in_the_claim() {
        let no_role =
            person(verified(json!({"preferred_username": "anna", "groups": ["<x>"]})), &tests::settings());
        let told = no_role.unwrap_err().to_string();
        let why = r#"the identity provider gives you no role here: the claim groups holds "<x>" ("#;
        assert!(told.starts_with(why), "{told}");
        let no_name = person(verified(json!({"preferred_username": ["a"]})), &tests::settings());
        let told = no_name.unwrap_err().to_string();
        let why = r#"the claim preferred_username holds "a", which is no name for a user ("#;
        assert!(told.starts_with(why), "{told}");
        let nothing =
            person(verified(json!({"preferred_username": "anna", "groups": {}})), &tests::settings());
        assert!(nothing.is_err());
    }

    fn verified(claims: Value) -> Verified {
        Verified { subject: "1234".into(), claims: claims.as_object().unwrap().clone() }
    }
}
