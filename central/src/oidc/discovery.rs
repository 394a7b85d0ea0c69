//! What a provider publishes about itself (OpenID Connect Discovery), as far as signing in needs it.

use reqwest::Url;
use serde_json::Value;

use super::{
    Refusal, Settings,
    refusal::Found,
    settings::{WELL_KNOWN, is_guarded},
};

/// Where things are at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Discovery {
    pub(super) authorization: Url,
    pub(super) token: Url,
    pub(super) keys: Url,
    /// Whether the client's secret goes into a header, as usual, or into the form.
    pub(super) secret_in_header: bool,
    /// Whether it says who it is when it sends a browser back.
    pub(super) names_itself: bool,
}

impl Discovery {
    /// Where it is published.
    pub(super) fn url(settings: &Settings) -> Result<Url, Refusal> {
        let issuer = settings.issuer.as_str().trim_end_matches('/');
        let url = format!("{issuer}/{WELL_KNOWN}").parse();
        url.map_err(|_| Refusal::Answer("its issuer is no address".into()))
    }

    pub(super) fn read(document: &Value, settings: &Settings) -> Result<Self, Refusal> {
        let text = |field: &str| document.get(field).and_then(Value::as_str);
        // Else anybody's document would do, whose tokens would then be refused one by one.
        if text("issuer") != Some(settings.issuer.as_str()) {
            let found = Found::of(document.get("issuer"));
            return Err(Refusal::Answer(format!(
                "its issuer is {found}, and [oidc] issuer must be the same to the last character"
            )));
        }
        let address = |field: &'static str| {
            let url = text(field).and_then(|text| text.parse::<Url>().ok());
            let url = url.filter(|url| is_guarded(url) && url.fragment().is_none());
            // On its own machine only a provider that is there itself may be without TLS.
            let url = url.filter(|url| url.scheme() == "https" || settings.issuer.url().scheme() == "http");
            url.ok_or_else(|| Refusal::Answer(format!("its {field} is no https address")))
        };
        let methods = document.get("token_endpoint_auth_methods_supported").and_then(Value::as_array);
        let takes =
            |method: &str| methods.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(method)));
        Ok(Self {
            authorization: address("authorization_endpoint")?,
            token: address("token_endpoint")?,
            keys: address("jwks_uri")?,
            secret_in_header: takes("client_secret_basic") || !takes("client_secret_post"),
            names_itself: document.get("authorization_response_iss_parameter_supported")
                == Some(&Value::Bool(true)),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oidc::settings::tests;

    #[test]
    fn a_document_says_where_things_are() {
        let read = Discovery::read(&document(), &settings()).unwrap();
        assert_eq!(read.token.as_str(), "https://login.example/token");
        assert!(read.secret_in_header && !read.names_itself);
        let mut other = document();
        other["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]);
        other["authorization_response_iss_parameter_supported"] = json!(true);
        let read = Discovery::read(&other, &settings()).unwrap();
        assert!(!read.secret_in_header && read.names_itself);
        assert_eq!(
            Discovery::url(&settings()).unwrap().as_str(),
            "https://login.example/.well-known/openid-configuration"
        );
    }

    #[test]
    fn another_providers_document_and_addresses_anybody_can_listen_to_are_refused() {
        for (field, value) in [
            ("issuer", json!("https://login.example/")),
            ("issuer", json!(null)),
            ("token_endpoint", json!("http://login.example/token")),
            ("token_endpoint", json!("http://127.0.0.1/token")),
            ("jwks_uri", json!("file:///etc/passwd")),
            ("jwks_uri", json!(7)),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("authorization_endpoint", json!("https://login.example/auth#x")),
        ] {
            let mut odd = document();
            odd[field] = value.clone();
            assert!(Discovery::read(&odd, &settings()).is_err(), "{field} {value}");
        }
    }

    fn settings() -> Settings {
        Settings { issuer: "https://login.example".parse().unwrap(), ..tests::settings() }
    }

    fn document() -> Value {
        json!({
            "issuer": "https://login.example",
            "authorization_endpoint": "https://login.example/auth",
            "token_endpoint": "https://login.example/token",
            "jwks_uri": "https://login.example/keys",
        })
    }
}
