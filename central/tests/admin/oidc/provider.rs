//! An identity provider in a few lines: it signs real ID tokens, publishes its keys, insists on the client's secret and
//! on PKCE, and says about people what the test tells it to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::{get, post},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use central::{
    config::Config,
    enrolment::secret_file,
    oidc::{Provider, Settings},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use url::{Url, form_urlencoded};

pub(crate) const SECRET: &str = "hush %+ hush";

/// Clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeProvider {
    pub(crate) issuer: String,
    script: Arc<Mutex<Script>>,
}

/// What it does when it is asked.
pub(crate) struct Script {
    signer: EcdsaKeyPair,
    /// What stands in a token's header.
    pub(crate) header: Value,
    /// Claims that take the place of the sound ones; `null` leaves one out.
    pub(crate) claims: Value,
    /// What `/keys` answers.
    pub(crate) published: Value,
    pub(crate) keys_asked: usize,
    /// The error that it has for every code.
    pub(crate) refuses: Option<&'static str>,
    /// By the code that was given out: the nonce and the PKCE challenge it is bound to.
    codes: BTreeMap<String, (String, String)>,
}

impl FakeProvider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realms/main", listener.local_addr().unwrap());
        let (signer, key) = key("first");
        let script = Script {
            signer,
            header: json!({"alg": "ES256", "kid": "first"}),
            claims: json!({}),
            published: json!({ "keys": [key] }),
            keys_asked: 0,
            refuses: None,
            codes: BTreeMap::new(),
        };
        let provider = Self { issuer, script: Arc::new(Mutex::new(script)) };
        let router = Router::new()
            .route("/realms/main/.well-known/openid-configuration", get(discovery))
            .route("/realms/main/keys", get(keys))
            .route("/realms/main/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Signs with a new key from now on; `/keys` does not know it yet.
    pub(crate) fn change_key(&self, id: &str) -> Value {
        let (signer, public) = key(id);
        let mut script = self.script();
        script.signer = signer;
        script.header = json!({"alg": "ES256", "kid": id});
        public
    }

    /// Somebody signs in on its page: what that page sends the browser back with.
    pub(crate) fn authorize(&self, asked: &Url) -> (String, String) {
        let asked: BTreeMap<_, _> = asked.query_pairs().into_owned().collect();
        for (name, value) in [
            ("response_type", "code"),
            ("client_id", "postern"),
            ("redirect_uri", "https://central.example/sign-in/oidc/callback"),
            ("scope", "openid profile email"),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(asked[name], value, "{name}");
        }
        let mut script = self.script();
        let code = format!("code-{}", script.codes.len());
        script.codes.insert(code.clone(), (asked["nonce"].clone(), asked["code_challenge"].clone()));
        (code, asked["state"].clone())
    }
}

/// As central is set up for the provider at `issuer`.
pub(crate) fn believed(issuer: &str) -> Provider {
    Provider::open(&settings(issuer)).unwrap()
}

fn settings(issuer: &str) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    secret_file::write(&secret, format!("{SECRET}\n").as_bytes()).unwrap();
    let text = format!(
        "[admin]\npublic_url = \"https://central.example\"\n[oidc]\nissuer = \"{issuer}\"\nclient_id = \"postern\"\n\
         client_secret_file = '{}'\n[oidc.roles]\nviewer = [\"staff\"]\noperator = [\"night-shift\"]\n\
         cloud_administrator = [\"owners\"]\n",
        secret.display()
    );
    Config::parse(std::path::Path::new("central.toml"), &text).unwrap().oidc.unwrap()
}

async fn discovery(State(provider): State<FakeProvider>) -> Json<Value> {
    let issuer = &provider.issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/auth?tenant=1"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
    }))
}

async fn keys(State(provider): State<FakeProvider>) -> Json<Value> {
    let mut script = provider.script();
    script.keys_asked += 1;
    Json(script.published.clone())
}

async fn token(
    State(provider): State<FakeProvider>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, Json<Value>) {
    let sent: BTreeMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let encoded: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let client = format!("Basic {}", STANDARD.encode(format!("postern:{encoded}")));
    let refuse = |why: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": why })));
    if headers[header::AUTHORIZATION] != client.as_str() {
        return refuse("invalid_client");
    }
    let mut script = provider.script();
    if let Some(why) = script.refuses {
        return refuse(why);
    }
    let Some((nonce, challenge)) = script.codes.remove(&sent["code"]) else { return refuse("invalid_grant") };
    let proved = URL_SAFE_NO_PAD.encode(Sha256::digest(&sent["code_verifier"])) == challenge;
    let back = sent["redirect_uri"] == "https://central.example/sign-in/oidc/callback";
    if !proved || !back || sent["grant_type"] != "authorization_code" {
        return refuse("invalid_grant");
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({
        "iss": provider.issuer, "aud": "postern", "sub": "1234", "nonce": nonce, "iat": now, "exp": now + 300,
        "preferred_username": "anna", "groups": ["staff", "night-shift"],
    });
    for (claim, value) in script.claims.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encoded(&script.header), encoded(&claims));
    let signature = script.signer.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    // As a forger would, who hopes that nobody looks.
    let signature = if script.header["alg"] == "none" { &[][..] } else { signature.as_ref() };
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    (StatusCode::OK, Json(json!({ "access_token": "unused", "token_type": "Bearer", "id_token": token })))
}

/// A key, and how it is published.
fn key(id: &str) -> (EcdsaKeyPair, Value) {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let half = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = json!({
        "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": half(&point[1..33]), "y": half(&point[33..]),
    });
    (pair, public)
}
