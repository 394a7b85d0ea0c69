//! Who there is, and changing that.

use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tracing::warn;

use super::{
    People, Role,
    user::{HEAD_KEY, HEADS, NewUser, PeopleError, SIGN_INS, SignIns, USERS, USERS_MAX, User, UserChange},
};
use crate::store::{Owner, Precondition, Revision, StoreError, Transaction, Versioned, Write};

/// As in [`crate::store::Collection::update`]: this many conflicts in a row are a fault.
const ATTEMPTS_MAX: usize = 64;

impl People {
    /// The users of an Environment, by name.
    pub async fn users(&self, environment: &EnvironmentName) -> Result<Vec<User>, StoreError> {
        let users = USERS.all(&*self.store, &environment.into()).await?;
        Ok(users.into_iter().map(|user| user.value).collect())
    }

    /// Whether nobody was made yet. Whom an identity provider lets in does not count: that can end.
    pub async fn is_empty(&self, environment: &EnvironmentName) -> Result<bool, StoreError> {
        Ok(is_empty(&USERS.all(&*self.store, &environment.into()).await?))
    }

    /// One user and the version of the record.
    pub async fn user(
        &self,
        environment: &EnvironmentName,
        name: &Name,
    ) -> Result<Option<Versioned<User>>, StoreError> {
        USERS.get(&*self.store, &environment.into(), &user_key(name.as_str())).await
    }

    /// When a user last signed in.
    pub async fn last_sign_in(
        &self,
        environment: &EnvironmentName,
        name: &Name,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        Ok(self.sign_ins(environment, name.as_str()).await?.map(|sign_ins| sign_ins.last))
    }

    /// Makes a user on behalf of somebody with the role `by`.
    pub async fn create_user(
        &self,
        environment: &EnvironmentName,
        new: NewUser,
        by: Role,
        now: OffsetDateTime,
    ) -> Result<User, PeopleError> {
        within(by, new.role)?;
        let user = self.prepared(new, now).await?;
        self.decide(environment, |users| {
            let writes = admitted(users, &user, environment)?;
            Ok((writes, user.clone()))
        })
        .await
    }

    /// Changes a user; a change of role, password or of being disabled ends the user's sessions. With `expected`
    /// only if the record still has that version.
    pub async fn change_user(
        &self,
        environment: &EnvironmentName,
        name: &Name,
        change: UserChange,
        by: Role,
        expected: Option<Revision>,
        now: OffsetDateTime,
    ) -> Result<Versioned<User>, PeopleError> {
        let password = match &change.password {
            Some(password) => {
                password.check(name.as_str())?;
                Some(self.passwords.hash(password).await?)
            }
            None => None,
        };
        let user = self
            .decide(environment, |users| {
                let before = find(users, name)?;
                within(by, before.value.role)?;
                if password.is_some() && before.value.account.is_some() {
                    return Err(PeopleError::NoPassword(name.clone()));
                }
                if expected.is_some_and(|expected| expected != before.version) {
                    return Err(PeopleError::Changed(name.clone()));
                }
                let mut user = before.value.clone();
                user.role = change.role.unwrap_or(user.role);
                user.disabled = change.disabled.unwrap_or(user.disabled);
                user.password = password.clone().or(user.password);
                within(by, user.role)?;
                if user == before.value {
                    return Ok((Vec::new(), user));
                }
                user.sessions_since = now;
                if !user.is_enabled_cloud_administrator() {
                    another_cloud_administrator(users, &before.value)?;
                }
                let put = USERS.put(&environment.into(), &before.key, before.unchanged(), &user)?;
                Ok((vec![put], user))
            })
            .await?;
        if user.sessions_since == now {
            self.clear_sessions_of(environment, name, now).await;
        }
        // Whoever changed it since then gets the newer one: that is what is there.
        self.user(environment, name).await?.ok_or_else(|| PeopleError::Unknown(name.clone()))
    }

    /// Removes a user and ends the sessions.
    pub async fn remove_user(
        &self,
        environment: &EnvironmentName,
        name: &Name,
        by: Role,
        now: OffsetDateTime,
    ) -> Result<(), PeopleError> {
        self.decide(environment, |users| {
            let user = find(users, name)?;
            within(by, user.value.role)?;
            another_cloud_administrator(users, &user.value)?;
            let owner = Owner::from(environment);
            let delete = USERS.delete(&owner, &user.key, user.unchanged());
            Ok((vec![delete, SIGN_INS.delete(&owner, &user.key, Precondition::Any)], ()))
        })
        .await?;
        self.clear_sessions_of(environment, name, now).await;
        Ok(())
    }

    /// The record of a user to be, its password checked and hashed.
    pub(super) async fn prepared(&self, new: NewUser, now: OffsetDateTime) -> Result<User, PeopleError> {
        let password = match &new.password {
            Some(password) => {
                password.check(new.name.as_str())?;
                Some(self.passwords.hash(password).await?)
            }
            None => None,
        };
        let NewUser { name, role, .. } = new;
        Ok(User {
            name,
            role,
            disabled: false,
            password,
            account: None,
            created_at: now,
            sessions_since: now,
        })
    }

    /// Decides on all users at once and writes, if none of them was changed meanwhile; else decides again. No
    /// writes, no commit.
    pub(super) async fn decide<T>(
        &self,
        environment: &EnvironmentName,
        mut decide: impl FnMut(&[Versioned<User>]) -> Result<(Vec<Write>, T), PeopleError>,
    ) -> Result<T, PeopleError> {
        let owner = Owner::from(environment);
        let head_key = HEADS.key(&owner, HEAD_KEY);
        for _ in 0..ATTEMPTS_MAX {
            // Read first: a change between the two readings fails the commit.
            let head = HEADS.get(&*self.store, &owner, HEAD_KEY).await?;
            let users = USERS.all(&*self.store, &owner).await?;
            let (writes, decided) = decide(&users)?;
            if writes.is_empty() {
                return Ok(decided);
            }
            let unchanged = head.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            let mut next = head.map(|head| head.value).unwrap_or_default();
            next.changes += 1;
            let head = HEADS.put(&owner, HEAD_KEY, unchanged, &next)?;
            let transaction = writes.into_iter().fold(Transaction::new(), Transaction::with).with(head);
            match self.store.commit(transaction).await {
                Ok(_) => return Ok(decided),
                Err(StoreError::Conflict(key)) if key == head_key => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict(head_key).into())
    }

    pub(super) async fn sign_ins(
        &self,
        environment: &EnvironmentName,
        name: &str,
    ) -> Result<Option<SignIns>, StoreError> {
        let record = SIGN_INS.get(&*self.store, &environment.into(), &user_key(name)).await?;
        Ok(record.map(|record| record.value))
    }

    /// They are over already, by `sessions_since`; this makes them go.
    pub(super) async fn clear_sessions_of(
        &self,
        environment: &EnvironmentName,
        name: &Name,
        now: OffsetDateTime,
    ) {
        let older = |session: &super::Session| session.created_at < now;
        if let Err(error) = self.sessions.end(environment, name, older).await {
            warn!(%error, %name, "Sessions that are over could not be cleared away");
        }
    }
}

/// Whether none of them is one that central has by itself.
pub(super) fn is_empty(users: &[Versioned<User>]) -> bool {
    users.iter().all(|user| user.value.account.is_some())
}

/// The writes that make `user` one of `users`.
pub(super) fn admitted(
    users: &[Versioned<User>],
    user: &User,
    environment: &EnvironmentName,
) -> Result<Vec<Write>, PeopleError> {
    let key = user_key(user.name.as_str());
    if let Some(there) = users.iter().find(|there| there.key == key) {
        return Err(PeopleError::Exists(there.value.name.clone()));
    }
    if users.len() >= USERS_MAX {
        return Err(PeopleError::TooMany);
    }
    Ok(vec![USERS.put(&environment.into(), &key, Precondition::Absent, user)?])
}

/// Under which key a user is, whatever the case it was typed in.
pub(super) fn user_key(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn find<'a>(users: &'a [Versioned<User>], name: &Name) -> Result<&'a Versioned<User>, PeopleError> {
    let key = user_key(name.as_str());
    users.iter().find(|user| user.key == key).ok_or_else(|| PeopleError::Unknown(name.clone()))
}

fn within(by: Role, needed: Role) -> Result<(), PeopleError> {
    if needed > by { Err(PeopleError::Above { needed, has: by }) } else { Ok(()) }
}

/// Whether one remains once `user` is none any more.
fn another_cloud_administrator(users: &[Versioned<User>], user: &User) -> Result<(), PeopleError> {
    let mut others = users.iter().filter(|other| other.value.name != user.name);
    if user.is_enabled_cloud_administrator()
        && !others.any(|other| other.value.is_enabled_cloud_administrator())
    {
        return Err(PeopleError::LastCloudAdministrator(user.name.clone()));
    }
    Ok(())
}
