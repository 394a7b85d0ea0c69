//! Signing in by an identity provider's word: the user is made by the first sign-in and has, from each on, the role
//! that this one brought. A user that central has by itself is never taken over, nor one of another account.

use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    Account, Browser, People, PeopleError, Role, SignedIn, User,
    user::USERS,
    users::{admitted, user_key},
};

/// What a sign-in made of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// There was none of this name.
    Made,
    /// With another role than the last time; sessions with that one have ended.
    Changed {
        before: Role,
    },
    AsBefore,
}

impl People {
    /// Takes one attempt out of the budget of an address, before anybody is asked who it is.
    ///
    /// # Errors
    /// [`PeopleError::TooManyAttempts`].
    pub fn may_try(&self, browser: &Browser) -> Result<(), PeopleError> {
        self.attempts().admit_from(browser.from, Instant::now()).map_err(|wait| {
            // To the second, and never "0s".
            PeopleError::TooManyAttempts(std::time::Duration::from_secs(wait.as_secs() + 1))
        })
    }

    /// Signs in as `name`, who is `account` at the identity provider, with this role.
    ///
    /// # Errors
    /// [`PeopleError::Local`], [`PeopleError::OtherAccount`] and [`PeopleError::Disabled`] for a name that is not theirs
    /// to have; [`PeopleError::TooMany`].
    pub async fn sign_in_provided(
        &self,
        environment: &EnvironmentName,
        name: &Name,
        role: Role,
        account: &Account,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<(SignedIn, Arrival), PeopleError> {
        let known = self.user(environment, name).await?.map(|known| known.value);
        // By the name it has, however it was spelt today.
        let name = known.map_or_else(|| name.clone(), |known| known.name);
        let made = User {
            name,
            role,
            disabled: false,
            password: None,
            account: Some(account.clone()),
            created_at: now,
            sessions_since: now,
        };
        let (signed_in, writes) = self.beginning(&made, environment, browser, now).await?;
        let key = user_key(made.name.as_str());
        let arrival = self
            .decide(environment, |users| {
                let (mut all, arrival) = match users.iter().find(|user| user.key == key) {
                    None => (admitted(users, &made, environment)?, Arrival::Made),
                    Some(there) => {
                        let user = &there.value;
                        theirs(user, account)?;
                        if user.role == role {
                            (Vec::new(), Arrival::AsBefore)
                        } else {
                            let changed = User { role, sessions_since: now, ..user.clone() };
                            let put = USERS.put(&environment.into(), &key, there.unchanged(), &changed)?;
                            (vec![put], Arrival::Changed { before: user.role })
                        }
                    }
                };
                all.extend(writes.clone());
                Ok((all, arrival))
            })
            .await?;
        if matches!(arrival, Arrival::Changed { .. }) {
            self.clear_sessions_of(environment, &made.name, now).await;
        }
        self.attempts().succeeded_from(browser.from);
        Ok((signed_in, arrival))
    }
}

/// Whether the user is this account's, and may come in.
fn theirs(user: &User, account: &Account) -> Result<(), PeopleError> {
    match &user.account {
        None => Err(PeopleError::Local(user.name.clone())),
        Some(other) if other != account => Err(PeopleError::OtherAccount(user.name.clone())),
        Some(_) if user.disabled => Err(PeopleError::Disabled(user.name.clone())),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        people::{NewUser, Password, SessionLimits, UserChange},
        store::memory::MemoryStore,
    };

    const THEN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[tokio::test]
    async fn the_first_sign_in_makes_the_user_and_each_gives_the_role() {
        let people = people();
        let (first, arrival) = enter(&people, "anna", Role::Viewer, "1", THEN).await.unwrap();
        assert_eq!((first.role, arrival), (Role::Viewer, Arrival::Made));
        let later = THEN + time::Duration::MINUTE;
        let (second, arrival) = enter(&people, "Anna", Role::Operator, "1", later).await.unwrap();
        assert_eq!(arrival, Arrival::Changed { before: Role::Viewer });
        assert_eq!((second.session.user.as_str(), second.role), ("anna", Role::Operator));
        assert_eq!(people.session(&first.secret, later).await.unwrap(), None, "it had another role");
        let (_, user) = people.session(&second.secret, later).await.unwrap().unwrap();
        assert_eq!((user.role, user.has_password()), (Role::Operator, false));
        let (_, arrival) = enter(&people, "anna", Role::Operator, "1", later).await.unwrap();
        assert_eq!(arrival, Arrival::AsBefore);
        assert!(people.session(&second.secret, later).await.unwrap().is_some(), "nothing has changed");
    }

    #[tokio::test]
    async fn nobody_takes_over_a_local_user_or_another_accounts() {
        let people = people();
        make(&people, "boss", Role::CloudAdministrator).await;
        let over = enter(&people, "BOSS", Role::Viewer, "1", THEN).await.unwrap_err();
        assert!(matches!(over, PeopleError::Local(name) if name.as_str() == "boss"));
        enter(&people, "anna", Role::Viewer, "1", THEN).await.unwrap();
        let over = enter(&people, "anna", Role::CloudAdministrator, "2", THEN).await.unwrap_err();
        assert!(matches!(over, PeopleError::OtherAccount(_)));
        assert_eq!(user(&people, "anna").await.role, Role::Viewer);
    }

    #[tokio::test]
    async fn who_is_disabled_here_stays_out_and_who_has_no_password_gets_none() {
        let people = people();
        enter(&people, "anna", Role::Viewer, "1", THEN).await.unwrap();
        let change = |change| people.change_user(&ENVIRONMENT, &ANNA, change, Role::Operator, None, THEN);
        let password = UserChange {
            password: Some(Password::new("a password of many letters")),
            ..UserChange::default()
        };
        assert!(matches!(change(password).await, Err(PeopleError::NoPassword(_))));
        change(UserChange { disabled: Some(true), ..UserChange::default() }).await.unwrap();
        let refused = enter(&people, "anna", Role::CloudAdministrator, "1", THEN).await.unwrap_err();
        assert!(matches!(refused, PeopleError::Disabled(_)));
        let browser = Browser::default();
        let typed = people.sign_in(&ENVIRONMENT, "anna", &Password::new(""), &browser, THEN).await;
        assert!(matches!(typed, Err(PeopleError::WrongCredentials)));
    }

    #[tokio::test]
    async fn a_provider_neither_holds_nor_hides_the_last_cloud_administrator() {
        let people = people();
        enter(&people, "anna", Role::CloudAdministrator, "1", THEN).await.unwrap();
        assert!(people.is_empty(&ENVIRONMENT).await.unwrap(), "the set-up link works on");
        make(&people, "boss", Role::CloudAdministrator).await;
        let boss = "boss".parse().unwrap();
        let removed = people.remove_user(&ENVIRONMENT, &boss, Role::CloudAdministrator, THEN).await;
        assert!(matches!(removed, Err(PeopleError::LastCloudAdministrator(_))));
        let (_, arrival) = enter(&people, "anna", Role::Viewer, "1", THEN).await.unwrap();
        assert_eq!(arrival, Arrival::Changed { before: Role::CloudAdministrator });
    }

    static ENVIRONMENT: std::sync::LazyLock<EnvironmentName> =
        std::sync::LazyLock::new(|| "default".parse().unwrap());
    static ANNA: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| "anna".parse().unwrap());

    fn people() -> People {
        People::new(Arc::new(MemoryStore::default()), SessionLimits::default())
    }

    async fn enter(
        people: &People,
        name: &str,
        role: Role,
        subject: &str,
        now: OffsetDateTime,
    ) -> Result<(SignedIn, Arrival), PeopleError> {
        let account = Account { issuer: "https://login.example".into(), subject: subject.into() };
        let name = name.parse().unwrap();
        people.sign_in_provided(&ENVIRONMENT, &name, role, &account, &Browser::default(), now).await
    }

    async fn make(people: &People, name: &str, role: Role) {
        let password = Some(Password::new("a password of many letters"));
        let new = NewUser { name: name.parse().unwrap(), role, password };
        people.create_user(&ENVIRONMENT, new, Role::CloudAdministrator, THEN).await.unwrap();
    }

    async fn user(people: &People, name: &str) -> User {
        people.user(&ENVIRONMENT, &name.parse().unwrap()).await.unwrap().unwrap().value
    }
}
