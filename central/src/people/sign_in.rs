//! Signing in, by password or by a link that works once, and what a session is worth afterwards.

use std::sync::PoisonError;

use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    Browser, NewUser, Password, People, PeopleError, Role, Secret, Session, SessionView, User,
    attempts::{Attempt, network},
    one_time_link::{self, Purpose},
    user::{FAMILIAR_MAX, SIGN_INS, SignIns, USERS},
    users::{admitted, is_empty, user_key},
};
use crate::store::{Owner, Precondition, StoreError, Transaction, Versioned, Write};

/// How long the set-up link works: whoever installs may have lunch. A restart prints a new one.
const SET_UP_WITHIN: time::Duration = time::Duration::hours(24);
/// How long dev's link into the UI works.
const SIGN_IN_WITHIN: time::Duration = time::Duration::minutes(10);

/// Somebody has just signed in.
#[derive(Debug)]
pub struct SignedIn {
    /// For the cookie; nowhere else.
    pub secret: Secret,
    pub session: Session,
    pub role: Role,
}

impl People {
    /// Signs in with name and password, as they were typed.
    ///
    /// # Errors
    /// [`PeopleError::WrongCredentials`] for an unknown name, a wrong password and a disabled user alike, after the
    /// same time.
    pub async fn sign_in(
        &self,
        environment: &EnvironmentName,
        name: &str,
        password: &Password,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<SignedIn, PeopleError> {
        let user = self.proved(environment, name, password, browser).await?;
        let user = user.filter(|user| !user.value.disabled).ok_or(PeopleError::WrongCredentials)?;
        let (signed_in, writes) = self.beginning(&user.value, environment, browser, now).await?;
        // If the user is changed at this moment, the password may be another one already.
        let unchanged = USERS.check(&environment.into(), &user.key, user.unchanged());
        match self.commit(writes.into_iter().chain([unchanged])).await {
            Err(StoreError::Conflict(_)) => Err(PeopleError::WrongCredentials),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(signed_in),
        }
    }

    /// Whose session this is, if it lives, with the user as the user is now.
    pub async fn session(
        &self,
        secret: &Secret,
        now: OffsetDateTime,
    ) -> Result<Option<(Session, User)>, StoreError> {
        let Some(session) = self.sessions.find(secret, now).await? else { return Ok(None) };
        let user = self.user(&session.environment, &session.user).await?.map(|user| user.value);
        let user = user.filter(|user| !user.disabled && user.sessions_since <= session.created_at);
        Ok(user.map(|user| (session, user)))
    }

    /// The living sessions of an Environment, newest first.
    pub async fn sessions(
        &self,
        environment: &EnvironmentName,
        now: OffsetDateTime,
    ) -> Result<Vec<SessionView>, StoreError> {
        let users = self.users(environment).await?;
        let mut sessions = self.sessions.list(environment, now).await?;
        sessions.retain(|view| {
            let theirs = |user: &User| {
                user.name == view.session.user && user.sessions_since <= view.session.created_at
            };
            users.iter().any(|user| !user.disabled && theirs(user))
        });
        Ok(sessions)
    }

    /// Ends the sessions of a user that `which` names; says how many.
    pub async fn end_sessions(
        &self,
        environment: &EnvironmentName,
        user: &Name,
        which: impl Fn(&Session) -> bool,
    ) -> Result<usize, StoreError> {
        self.sessions.end(environment, user, which).await
    }

    /// Changes the password of whoever has this session, and begins a new session; all others end.
    pub async fn change_own_password(
        &self,
        session: &Session,
        current: &Password,
        new: &Password,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<SignedIn, PeopleError> {
        let (environment, name) = (&session.environment, &session.user);
        if self.user(environment, name).await?.is_some_and(|user| user.value.account.is_some()) {
            return Err(PeopleError::NoPassword(name.clone()));
        }
        let proved = self.proved(environment, name.as_str(), current, browser).await?;
        let proved = proved.ok_or(PeopleError::WrongPassword)?;
        new.check(name.as_str())?;
        let password = Some(self.passwords.hash(new).await?);
        let user = User { password, sessions_since: now, ..proved.value.clone() };
        let (signed_in, writes) = self.beginning(&user, environment, browser, now).await?;
        self.decide(environment, |_| {
            let put = USERS.put(&environment.into(), &proved.key, proved.unchanged(), &user)?;
            Ok((std::iter::once(put).chain(writes.clone()).collect(), ()))
        })
        .await?;
        self.sessions.end(environment, name, |session| session.created_at < now).await?;
        Ok(signed_in)
    }

    /// At the start: a link that makes the first user, while there is none. Links of earlier runs end.
    pub async fn first_run<'a>(
        &self,
        environments: impl IntoIterator<Item = &'a EnvironmentName>,
        now: OffsetDateTime,
    ) -> Result<Vec<(EnvironmentName, Secret)>, StoreError> {
        one_time_link::clear(&self.store).await?;
        let mut links = Vec::new();
        for environment in environments {
            if self.is_empty(environment).await? {
                let made = one_time_link::make(&self.store, environment, Purpose::SetUp, now + SET_UP_WITHIN);
                links.push((environment.clone(), made.await?));
            }
        }
        Ok(links)
    }

    /// Which Environment's set-up this link is for, if it still works.
    pub async fn set_up_link(
        &self,
        secret: &Secret,
        now: OffsetDateTime,
    ) -> Result<Option<EnvironmentName>, StoreError> {
        match one_time_link::find(&self.store, secret, now).await? {
            Some(link) if link.value.purpose == Purpose::SetUp => {
                let environment = link.value.environment;
                Ok(self.is_empty(&environment).await?.then_some(environment))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Makes an Environment's first user, a Cloud Administrator, and signs in.
    pub async fn set_up(
        &self,
        secret: &Secret,
        name: Name,
        password: Password,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<SignedIn, PeopleError> {
        let link = one_time_link::find(&self.store, secret, now).await?;
        let link = link.filter(|link| link.value.purpose == Purpose::SetUp).ok_or(PeopleError::LinkGone)?;
        let environment = &link.value.environment;
        let new = NewUser { name, role: Role::CloudAdministrator, password: Some(password) };
        let user = self.prepared(new, now).await?;
        let (signed_in, writes) = self.beginning(&user, environment, browser, now).await?;
        let done = self.decide(environment, |users| {
            if !is_empty(users) {
                return Err(PeopleError::LinkGone);
            }
            // The user first: that is what it is about.
            let mut all = admitted(users, &user, environment)?;
            all.extend(writes.clone());
            all.push(one_time_link::redemption(&link));
            Ok((all, ()))
        });
        match done.await {
            Ok(()) => Ok(signed_in),
            // Somebody else redeemed it at the same moment.
            Err(PeopleError::Store(StoreError::Conflict(_))) => Err(PeopleError::LinkGone),
            Err(error) => Err(error),
        }
    }

    /// A link that signs in as the user `name`, who is made if there is none: dev's way into the UI. Nobody else may
    /// offer it, because whoever reads the link is in.
    pub async fn sign_in_link(
        &self,
        environment: &EnvironmentName,
        name: &Name,
        now: OffsetDateTime,
    ) -> Result<Secret, PeopleError> {
        if self.user(environment, name).await?.is_none() {
            let new = NewUser { name: name.clone(), role: Role::CloudAdministrator, password: None };
            self.create_user(environment, new, Role::CloudAdministrator, now).await?;
        }
        let purpose = Purpose::SignIn { user: name.clone() };
        Ok(one_time_link::make(&self.store, environment, purpose, now + SIGN_IN_WITHIN).await?)
    }

    /// Signs in with such a link.
    pub async fn sign_in_once(
        &self,
        secret: &Secret,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<SignedIn, PeopleError> {
        let link = one_time_link::find(&self.store, secret, now).await?.ok_or(PeopleError::LinkGone)?;
        let Purpose::SignIn { user: name } = &link.value.purpose else { return Err(PeopleError::LinkGone) };
        let environment = &link.value.environment;
        let user = self.user(environment, name).await?.filter(|user| !user.value.disabled);
        let user = user.ok_or(PeopleError::LinkGone)?;
        let (signed_in, writes) = self.beginning(&user.value, environment, browser, now).await?;
        match self.commit(writes.into_iter().chain([one_time_link::redemption(&link)])).await {
            Ok(()) => Ok(signed_in),
            Err(StoreError::Conflict(_)) => Err(PeopleError::LinkGone),
            Err(error) => Err(error.into()),
        }
    }

    /// The user with this name, if this is the password; counts the attempt.
    async fn proved(
        &self,
        environment: &EnvironmentName,
        name: &str,
        password: &Password,
        browser: &Browser,
    ) -> Result<Option<Versioned<User>>, PeopleError> {
        // What cannot be a name is nobody's; its length must not make a large key.
        let name: Option<Name> = name.trim().parse().ok();
        let typed = name.as_ref().map(|name| user_key(name.as_str())).unwrap_or_default();
        let known = self.sign_ins(environment, &typed_or_nobody(&typed)).await?;
        let peer = browser.from.map(network);
        let familiar = known.is_some_and(|known| peer.is_some_and(|peer| known.from.contains(&peer)));
        let attempt = Attempt { peer: browser.from, account: (environment.clone(), typed), familiar };
        self.attempts().admit(&attempt, Instant::now()).map_err(|wait| {
            // To the second, and never "0s".
            PeopleError::TooManyAttempts(std::time::Duration::from_secs(wait.as_secs() + 1))
        })?;
        let user = match &name {
            Some(name) => self.user(environment, name).await?,
            None => None,
        };
        let kept = user.as_ref().and_then(|user| user.value.password.clone());
        if !self.passwords.matches(password, kept).await? {
            return Ok(None);
        }
        self.attempts().succeeded(&attempt);
        Ok(user)
    }

    /// The session that `user` gets, and what is to be written for it.
    pub(super) async fn beginning(
        &self,
        user: &User,
        environment: &EnvironmentName,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<(SignedIn, Vec<Write>), StoreError> {
        let (secret, session, mut writes) =
            self.sessions.begin(environment, &user.name, browser, now).await?;
        let known = self.sign_ins(environment, user.name.as_str()).await?;
        let mut from = known.map(|known| known.from).unwrap_or_default();
        if let Some(peer) = browser.from.map(network) {
            from.retain(|known| *known != peer);
            from.insert(0, peer);
            from.truncate(FAMILIAR_MAX);
        }
        let sign_ins = SignIns { last: now, from };
        let key = user_key(user.name.as_str());
        writes.push(SIGN_INS.put(&Owner::from(environment), &key, Precondition::Any, &sign_ins)?);
        Ok((SignedIn { secret, session, role: user.role }, writes))
    }

    async fn commit(&self, writes: impl Iterator<Item = Write>) -> Result<(), StoreError> {
        self.store.commit(writes.fold(Transaction::new(), Transaction::with)).await.map(drop)
    }

    pub(super) fn attempts(&self) -> std::sync::MutexGuard<'_, super::Attempts> {
        // Nobody panics with the lock held.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is not empty; no user is called so.
fn typed_or_nobody(typed: &str) -> String {
    if typed.is_empty() { "-".to_owned() } else { typed.to_owned() }
}
