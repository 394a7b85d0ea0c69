//! The people of an Environment: who they are, how they prove it, and for how long that is believed.
//!
//! ```text
//!   password ─┐ attempts (how often)                     ┌─► user (role, disabled)
//!   provider ─┼───────────────────► sign in ─► session ──┤
//!   one-time link ─► first user ─────┘    (idle, lifetime)└─► every request looks up both anew
//! ```
//!
//! A role is never remembered in a session: taking it away counts from the next request on. What each role may
//! do stands elsewhere, in `admin::routes`.

mod attempts;
pub mod last_use;
mod one_time_link;
mod password;
mod provided;
mod role;
mod secret;
mod session;
mod sign_in;
mod user;
mod users;

use std::sync::{Arc, Mutex};

use time::OffsetDateTime;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use last_use::LastUse;
pub use password::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, Password, Weak};
pub use provided::Arrival;
pub use role::Role;
pub use secret::Secret;
pub use session::{Browser, SESSIONS_PER_USER_MAX, Session, SessionLimits, SessionView};
pub use sign_in::SignedIn;
pub use user::{Account, NewUser, PeopleError, USERS_MAX, User, UserChange};

/// For backups, which leave them out: what was ended or used since would be good again.
pub(crate) const SESSIONS: &str = session::SESSIONS.name();
pub(crate) const ONE_TIME_LINKS: &str = one_time_link::LINKS.name();

use crate::store::SharedStore;
use attempts::Attempts;
use password::Passwords;
use session::Sessions;

/// How often last uses are written and ended sessions cleared away.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// The people of all Environments. Cheap to clone.
#[derive(Clone)]
pub struct People {
    store: SharedStore,
    passwords: Passwords,
    sessions: Sessions,
    attempts: Arc<Mutex<Attempts>>,
    last_use: LastUse,
}

impl People {
    pub fn new(store: SharedStore, limits: SessionLimits) -> Self {
        let last_use = LastUse::new(store.clone());
        Self {
            sessions: Sessions::new(store.clone(), last_use.clone(), limits),
            passwords: Passwords::default(),
            attempts: Arc::default(),
            last_use,
            store,
        }
    }

    /// The same people, their changes by way of `store`.
    #[must_use]
    pub fn through(&self, store: SharedStore) -> Self {
        Self { sessions: self.sessions.through(store.clone()), store, ..self.clone() }
    }

    /// When sessions and tokens were last used.
    pub fn last_use(&self) -> &LastUse {
        &self.last_use
    }

    /// How long a session lives.
    pub fn session_limits(&self) -> SessionLimits {
        self.sessions.limits()
    }

    /// Writes what was used and clears away what has ended, once a minute and once more at the end. Dropping it
    /// forgets at most that minute.
    pub async fn keep(self, stop: CancellationToken) {
        let mut minutes = interval(KEEP_EVERY);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = minutes.tick() => false,
            };
            if let Err(error) = self.last_use.write().await {
                warn!(%error, "When sessions and tokens were last used could not be written");
            }
            if stopping {
                return;
            }
            if let Err(error) = self.sessions.clear(OffsetDateTime::now_utc()).await {
                warn!(%error, "Ended sessions could not be cleared away");
            }
        }
    }
}
