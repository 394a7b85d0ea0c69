//! The provider that people may sign in through: what is known of it, who has begun, and who has come back.
//!
//! Nothing is asked of it before somebody begins. What it publishes is kept for an hour; a key that is not known is
//! looked for once more, because providers change their keys. All requests together have one budget, so that no
//! visitor of ours makes us a nuisance to it, and everybody who waits for its documents waits for one reading.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderValue, StatusCode};
use proto::EnvironmentName;
use serde_json::Value;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use url::form_urlencoded;

use super::{
    Answer, Begun, Person, Refusal, Settings,
    client::{ANSWER_LIMIT, ProviderClient},
    discovery::Discovery,
    id_token::{self, Expected, Invalid, Verified},
    keys::Keys,
    pending::PendingSignIns,
    person::person,
    refusal::Word,
};
pub use super::{client::SetupError as OpenError, pending::Pending};
use crate::{budgets::Budgets, people::Secret};

/// How long what it publishes is believed.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Within this somebody who begins is sent on unasked. Later it is asked whether it is there: whom a browser is sent to
/// is no page of ours any more, and one that is away should be told by us.
const HEARD_FOR: Duration = Duration::from_secs(10);
/// One more reading of its documents, after the burst that [`Budgets`] allows.
const READ_EVERY: Duration = Duration::from_secs(10);
/// For all that one step of a sign-in asks of it.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// The longest code; none is longer than the address it comes in.
const CODE_BYTES_MAX: usize = 4096;

/// A provider that was set up. Cheap to clone.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    settings: Settings,
    client: ProviderClient,
    known: tokio::sync::Mutex<Option<Arc<Known>>>,
    readings: Mutex<Budgets<()>>,
    pending: Mutex<PendingSignIns>,
}

/// What it publishes, as it was read.
struct Known {
    discovery: Discovery,
    keys: Keys,
    read_at: Instant,
}

impl Provider {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// Where the certificates that are to be believed cannot be used.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(Inner {
            client: ProviderClient::new(settings, ANSWER_LIMIT)?,
            settings: settings.clone(),
            known: tokio::sync::Mutex::default(),
            readings: Mutex::default(),
            pending: Mutex::default(),
        })))
    }

    /// The Environment that its people sign in to.
    pub fn environment(&self) -> &EnvironmentName {
        &self.0.settings.environment
    }

    /// Where people are sent, for them to read.
    pub fn host(&self) -> &str {
        self.0.settings.issuer.host()
    }

    /// Begins a sign-in that leads to `next`. A browser that began one before keeps its secret, so that two of its tabs
    /// can both finish.
    ///
    /// # Errors
    /// Where the provider cannot be asked for its documents.
    pub async fn begin(
        &self,
        next: &str,
        browser: Option<Secret>,
        now: OffsetDateTime,
    ) -> Result<Begun, Refusal> {
        let known = within(self.present()).await?;
        let settings = &self.0.settings;
        let (state, browser) = (Secret::random(), browser.unwrap_or_else(Secret::random));
        let pending = Pending::new(next, &browser, now);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(pending.verifier.reveal()));
        let mut url = known.discovery.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &settings.client_id)
            .append_pair("redirect_uri", &settings.redirect_uri)
            .append_pair("scope", &settings.scopes)
            .append_pair("state", state.reveal())
            .append_pair("nonce", pending.nonce.reveal())
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        self.pending().begin(&state, pending);
        Ok(Begun { url: url.into(), browser })
    }

    /// What was begun under this state. From now on nobody finishes it a second time.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] and [`Refusal::OtherBrowser`].
    pub fn take(
        &self,
        state: &str,
        browser: Option<&Secret>,
        now: OffsetDateTime,
    ) -> Result<Pending, Refusal> {
        self.pending().take(state, browser, now)
    }

    /// Who came back from the provider. Cancel-safe: the code is gone, nobody is signed in.
    ///
    /// # Errors
    /// Whatever keeps the answer from proving who somebody is, and that they may come in.
    pub async fn person(
        &self,
        pending: &Pending,
        answer: &Answer,
        now: OffsetDateTime,
    ) -> Result<Person, Refusal> {
        within(async {
            let known = self.known().await?;
            let settings = &self.0.settings;
            let named = answer.iss.as_deref();
            if named.is_some_and(|named| named != settings.issuer.as_str())
                || (named.is_none() && known.discovery.names_itself)
            {
                return Err(Refusal::Answer("somebody else's name, or none".into()));
            }
            if let Some(error) = &answer.error {
                return Err(Refusal::Denied(Word::of(error)));
            }
            let code = answer.code.as_deref().filter(|code| !code.is_empty() && code.len() <= CODE_BYTES_MAX);
            let code = code.ok_or_else(|| Refusal::Answer("no code".into()))?;
            let token = self.exchange(&known.discovery, pending, code).await?;
            person(self.verified(&token, known, pending, now).await?, settings)
        })
        .await
    }

    /// The ID token for a code.
    async fn exchange(&self, to: &Discovery, pending: &Pending, code: &str) -> Result<String, Refusal> {
        let Settings { client_id, client_secret, redirect_uri, .. } = &self.0.settings;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri.as_str()),
            ("code_verifier", pending.verifier.reveal()),
        ];
        let authorization = if to.secret_in_header {
            Some(basic(client_id, client_secret.reveal())?)
        } else {
            fields.extend([("client_id", client_id.as_str()), ("client_secret", client_secret.reveal())]);
            None
        };
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let (status, answer) = self.0.client.post(&to.token, form, authorization).await?;
        let text = |field: &str| answer.get(field).and_then(Value::as_str);
        match (status, text("id_token")) {
            (StatusCode::OK, Some(token)) => Ok(token.to_owned()),
            (StatusCode::OK, None) => {
                Err(Refusal::Answer("no ID token: is openid among [oidc] scopes?".into()))
            }
            (status, _) if status.is_server_error() => {
                Err(Refusal::Unreachable(format!("it answered {status} for the code")))
            }
            (_, _) => Err(Refusal::Denied(Word::of(text("error").unwrap_or_default()))),
        }
    }

    async fn verified(
        &self,
        token: &str,
        known: Arc<Known>,
        pending: &Pending,
        now: OffsetDateTime,
    ) -> Result<Verified, Refusal> {
        let Settings { issuer, client_id, .. } = &self.0.settings;
        let expected = Expected {
            issuer: issuer.as_str(),
            client_id,
            nonce: pending.nonce.reveal(),
            begun_at: pending.begun_at,
            now,
        };
        let verified = match id_token::verify(token, &known.keys, &expected) {
            Err(Invalid::UnknownKey) => {
                let newer = self.newer_keys(&known).await?;
                id_token::verify(token, &newer.keys, &expected)
            }
            verified => verified,
        };
        verified.map_err(|invalid| Refusal::Token(invalid.to_string()))
    }

    /// What it publishes, read anew where it is old.
    async fn known(&self) -> Result<Arc<Known>, Refusal> {
        let mut kept = self.0.known.lock().await;
        if let Some(known) = kept.as_ref().filter(|known| known.is_younger(KEPT_FOR)) {
            return Ok(known.clone());
        }
        self.may_read()?;
        self.read(&mut kept).await
    }

    /// The same from a provider that is there: read just now, or as often as the budget allows.
    async fn present(&self) -> Result<Arc<Known>, Refusal> {
        let mut kept = self.0.known.lock().await;
        let younger = |limit| kept.as_ref().filter(|known| known.is_younger(limit)).cloned();
        if let Some(known) = younger(HEARD_FOR) {
            return Ok(known);
        }
        if let Err(too_often) = self.may_read() {
            return younger(KEPT_FOR).ok_or(too_often);
        }
        self.read(&mut kept).await
    }

    /// Reads it into `kept`, which stays as it is where that fails.
    async fn read(&self, kept: &mut Option<Arc<Known>>) -> Result<Arc<Known>, Refusal> {
        let Inner { settings, client, .. } = &*self.0;
        let discovery = Discovery::read(&client.get(&Discovery::url(settings)?).await?, settings)?;
        let keys = self.read_keys(&discovery).await?;
        Ok(kept.insert(Arc::new(Known { discovery, keys, read_at: Instant::now() })).clone())
    }

    /// Its keys of now, where those of `old` lack one. Whoever comes while somebody else asks gets what that one got.
    async fn newer_keys(&self, old: &Arc<Known>) -> Result<Arc<Known>, Refusal> {
        let mut kept = self.0.known.lock().await;
        if let Some(known) = kept.as_ref().filter(|known| !Arc::ptr_eq(known, old)) {
            return Ok(known.clone());
        }
        self.may_read()?;
        let (discovery, read_at) = (old.discovery.clone(), old.read_at);
        let keys = self.read_keys(&discovery).await?;
        Ok(kept.insert(Arc::new(Known { discovery, keys, read_at })).clone())
    }

    async fn read_keys(&self, discovery: &Discovery) -> Result<Keys, Refusal> {
        let document = self.0.client.get(&discovery.keys).await?;
        Keys::read(&document).ok_or_else(|| Refusal::Answer("no list of keys".into()))
    }

    fn may_read(&self) -> Result<(), Refusal> {
        let mut readings = self.0.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = readings.take((), READ_EVERY, Instant::now());
        // To the second, and never "0s".
        taken.map_err(|wait| Refusal::TooOften(Duration::from_secs(wait.as_secs() + 1)))
    }

    fn pending(&self) -> MutexGuard<'_, PendingSignIns> {
        // Nobody panics with the lock held.
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_younger(&self, limit: Duration) -> bool {
        self.read_at.elapsed() < limit
    }
}

async fn within<T>(step: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let given_up = |_| Refusal::Unreachable(format!("no answer within {STEP_LIMIT:?}"));
    timeout(STEP_LIMIT, step).await.map_err(given_up)?
}

/// `client_secret_basic`: both are encoded as in a form before they are joined.
fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, Refusal> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(secret)));
    let header = HeaderValue::from_str(&format!("Basic {both}"));
    let mut header = header.map_err(|_| Refusal::Answer("its client has no name for a header".into()))?;
    header.set_sensitive(true);
    Ok(header)
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Provider({})", self.0.settings.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oidc::settings::tests::settings;

    #[test]
    fn the_clients_name_and_secret_are_encoded_before_they_are_joined() {
        let header = basic("a:b", "c d%").unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("a%3Ab:c+d%25")));
        assert!(header.is_sensitive());
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_publishes_is_believed_for_an_hour() {
        let provider = heard_of().await;
        tokio::time::advance(KEPT_FOR - Duration::from_secs(1)).await;
        provider.known().await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(provider.known().await, Err(Refusal::Unreachable(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_is_not_sent_to_a_provider_that_has_gone_meanwhile() {
        let provider = heard_of().await;
        let now = OffsetDateTime::UNIX_EPOCH;
        assert!(provider.begin("/", None, now).await.is_ok(), "it was heard just now");
        tokio::time::advance(HEARD_FOR).await;
        assert!(matches!(provider.begin("/", None, now).await, Err(Refusal::Unreachable(_))));
        provider.known().await.expect("whoever is there already may come back");
        while provider.may_read().is_ok() {}
        assert!(
            provider.begin("/", None, now).await.is_ok(),
            "where it may not be asked it is taken to be there"
        );
    }

    #[tokio::test]
    async fn a_provider_that_is_away_is_not_asked_without_end() {
        let provider = Provider::open(&settings()).unwrap();
        let now = OffsetDateTime::UNIX_EPOCH;
        for _ in 0..crate::budgets::BURST {
            assert!(matches!(provider.begin("/", None, now).await, Err(Refusal::Unreachable(_))));
        }
        assert!(matches!(provider.begin("/", None, now).await, Err(Refusal::TooOften(_))));
    }

    /// One that was read just now, and has gone.
    async fn heard_of() -> Provider {
        let provider = Provider::open(&settings()).unwrap();
        let url: reqwest::Url = settings().issuer.url().clone();
        let discovery = Discovery {
            authorization: url.clone(),
            token: url.clone(),
            keys: url,
            secret_in_header: true,
            names_itself: false,
        };
        let known = Known { discovery, keys: Keys::default(), read_at: Instant::now() };
        *provider.0.known.lock().await = Some(Arc::new(known));
        provider
    }
}
