//! `[oidc]`: everything that a sign-in through a provider needs, or nothing at all.

use std::{fmt, path::Path};

use program::Authority;
use toml::Spanned;

use super::{
    Config,
    file::{File, Given, OidcTable, place},
    reading::Reading,
};
use crate::{
    oidc::{
        BUILT, Settings,
        settings::{
            CALLBACK, ClientSecret, DEFAULT_ROLE_CLAIM, DEFAULT_SCOPES, DEFAULT_USER_CLAIM, Issuer, NotBuilt,
            Roles, TEXT_BYTES_MAX, VALUES_MAX,
        },
    },
    people::Role,
};

impl Reading<'_, '_> {
    /// What `config` says otherwise decides where browsers come back to, and into which Environment.
    pub(super) fn oidc(&mut self, file: &File, config: &Config) -> Option<Settings> {
        let table = &file.oidc;
        let begins_at = table.begins_at()?;
        if !BUILT {
            return self.wrong(begins_at, NotBuilt);
        }
        let Some(given) = &table.issuer else {
            return self.wrong(begins_at, "[oidc] needs issuer, the identity provider's address");
        };
        let issuer = given.get_ref().parse::<Issuer>();
        let issuer = issuer.map_err(|error| self.mistakes.add(given.span(), error)).ok();
        let client_id = match &table.client_id {
            None => {
                self.wrong(given.span(), "[oidc] needs client_id, what central is called at the provider")
            }
            Some(given) => self.text(given, "client_id"),
        };
        let secret = self.path(&table.client_secret_file, "oidc.client_secret_file");
        let secret = match secret {
            Some(path) => self.read(&table.client_secret_file, &path, ClientSecret::read),
            None if table.client_secret_file.is_some() => None,
            None => self
                .wrong(given.span(), "[oidc] needs client_secret_file, which holds the secret of client_id"),
        };
        let authority = self.path(&table.ca_file, "oidc.ca_file");
        let authority = authority.and_then(|path| self.read(&table.ca_file, &path, Authority::read));
        let scopes = self.text_or(&table.scopes, "scopes", DEFAULT_SCOPES);
        if scopes.as_ref().is_some_and(|scopes| !scopes.split(' ').any(|scope| scope == "openid")) {
            self.mistakes.add(
                place(&table.scopes),
                "openid must be among oidc.scopes, which have blanks between them: it asks for an ID token",
            );
        }
        let user_claim = self.text_or(&table.user_claim, "user_claim", DEFAULT_USER_CLAIM);
        let role_claim = self.text_or(&table.role_claim, "role_claim", DEFAULT_ROLE_CLAIM);
        let roles = self.roles(table, given);
        let environment = match (&table.environment, &config.environments[..]) {
            (Some(named), all) => {
                let known = all.iter().find(|one| one.as_str() == named.get_ref()).cloned();
                let unknown = || format!("this central has no Environment named {:?}", named.get_ref());
                known.or_else(|| self.wrong(named.span(), unknown()))
            }
            (None, [only]) => Some(only.clone()),
            (None, _) => self.wrong(
                given.span(),
                "[oidc] needs environment: this central has several, and nobody may come into all of them by one word",
            ),
        };
        let Some(public_url) = &config.admin.public_url else {
            if file.admin.public_url.is_some() {
                // It was refused already.
                return None;
            }
            return self.wrong(
                given.span(),
                "[oidc] needs admin.public_url: the identity provider sends browsers back to it",
            );
        };
        // Printed with its port; browsers and providers leave the usual one away.
        let public_url = public_url.to_string();
        let redirect_uri = format!("{}{CALLBACK}", public_url.trim_end_matches(":443"));
        Some(Settings {
            issuer: issuer?,
            client_id: client_id?,
            client_secret: secret?,
            scopes: scopes?,
            user_claim: user_claim?,
            role_claim: role_claim?,
            roles,
            authority,
            environment: environment?,
            redirect_uri,
        })
    }

    fn text_or(&mut self, given: &Given<String>, what: &str, default: &str) -> Option<String> {
        match given {
            None => Some(default.to_owned()),
            Some(given) => self.text(given, what),
        }
    }

    fn text(&mut self, given: &Spanned<String>, what: &str) -> Option<String> {
        let text = given.get_ref();
        let printable = |c: char| !c.is_control();
        if text.trim() != text
            || text.is_empty()
            || text.len() > TEXT_BYTES_MAX
            || !text.chars().all(printable)
        {
            let why =
                format!("oidc.{what} has 1 to {TEXT_BYTES_MAX} printable characters and no blanks around");
            return self.wrong(given.span(), why);
        }
        Some(text.clone())
    }

    fn roles(&mut self, table: &OidcTable, issuer: &Spanned<String>) -> Roles {
        let given = [
            (&table.roles.viewer, Role::Viewer),
            (&table.roles.operator, Role::Operator),
            (&table.roles.administrator, Role::Administrator),
            (&table.roles.cloud_administrator, Role::CloudAdministrator),
        ];
        let mut all = Vec::new();
        let mut none = true;
        for (values, role) in given {
            none &= values.as_ref().is_none_or(|values| values.get_ref().is_empty());
            let value = |text: &str| match text.len() {
                1..=TEXT_BYTES_MAX => Ok(text.to_owned()),
                _ => Err(format!("a value of the claim has 1 to {TEXT_BYTES_MAX} bytes")),
            };
            all.extend(self.each(values, value).into_iter().map(|value| (value, role)));
        }
        if none {
            let why = "[oidc] needs roles, as in { operator = [\"night-shift\"] }: without one nobody could sign in";
            self.mistakes.add(issuer.span(), why);
        } else if all.len() > VALUES_MAX {
            self.mistakes.add(issuer.span(), format!("oidc.roles have at most {VALUES_MAX} values together"));
        }
        Roles::new(all)
    }

    fn read<T, E: fmt::Display>(
        &mut self,
        given: &Given<String>,
        path: &Path,
        read: impl Fn(&Path) -> Result<T, E>,
    ) -> Option<T> {
        match read(path) {
            Ok(read) => Some(read),
            Err(error) => self.wrong(place(given), error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ConfigError, *};

    #[test]
    fn a_table_with_nothing_in_it_is_no_provider() {
        assert_eq!(parse("[oidc]").unwrap().oidc, None);
    }

    #[cfg(not(feature = "oidc"))]
    #[test]
    fn a_program_without_the_feature_refuses_a_provider() {
        for (first, place) in
            [("issuer = \"https://login.example\"", "2:10"), ("client_id = \"postern\"", "2:13")]
        {
            let error = parse(&format!("[oidc]\n{first}")).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("central.toml:{place}: this program was built without")),
                "{error}"
            );
        }
    }

    #[cfg(feature = "oidc")]
    mod built {
        use super::*;
        use crate::enrolment::secret_file;

        #[test]
        fn every_setting_is_read_and_the_rest_has_defaults() {
            let whole = Whole::new();
            let oidc = parse(&whole.text(PUBLIC, "")).unwrap().oidc.unwrap();
            assert_eq!(oidc.issuer.as_str(), "https://login.example/realms/main");
            assert_eq!((oidc.client_id.as_str(), oidc.scopes.as_str()), ("postern", "openid profile email"));
            assert_eq!(
                (oidc.user_claim.as_str(), oidc.role_claim.as_str()),
                ("preferred_username", "groups")
            );
            assert_eq!(oidc.environment.as_str(), "default");
            assert_eq!(oidc.redirect_uri, "https://admin.example/sign-in/oidc/callback");
            assert_eq!(oidc.roles.highest(["ops", "staff"]), Some(Role::Operator));
            assert!(!format!("{oidc:?}").contains("hush"));
            let more = "scopes = \"openid groups\"\nuser_claim = \"email\"\nrole_claim = \"roles\"\nenvironment = \"b\"";
            let other = PUBLIC.replace("admin.example", "admin.example:7443");
            let text = format!("environments = [\"a\", \"b\"]\n{}", whole.text(&other, more));
            let oidc = parse(&text).unwrap().oidc.unwrap();
            assert_eq!((oidc.scopes.as_str(), oidc.environment.as_str()), ("openid groups", "b"));
            assert_eq!((oidc.user_claim.as_str(), oidc.role_claim.as_str()), ("email", "roles"));
            assert_eq!(oidc.redirect_uri, "https://admin.example:7443/sign-in/oidc/callback");
        }

        #[test]
        fn what_is_missing_or_wrong_is_named() {
            let whole = Whole::new();
            let text = whole.text(PUBLIC, "");
            for (text, why) in [
                ("[oidc]\nclient_id = \"postern\"".to_owned(), "central.toml:2:13: [oidc] needs issuer"),
                (whole.text("", ""), "needs admin.public_url"),
                (format!("environments = [\"a\", \"b\"]\n{text}"), "needs environment"),
                (whole.text(PUBLIC, "environment = \"moon\""), "no Environment named \"moon\""),
                (text.replace("https://login", "http://login"), "reached by https"),
                (
                    text.replace(
                        "https://login.example/realms/main",
                        "https://a/.well-known/openid-configuration",
                    ),
                    "leave out",
                ),
                (text.replace("\"staff\"", "").replace("\"ops\"", ""), "needs roles"),
                (text.replace("\"staff\"", "\"\"").replace("\"ops\"", ""), "a value of the claim has 1 to"),
                (whole.text("[admin]\npublic_url = \"http://admin.example\"", ""), "public_url is https"),
                (text.replace("/secret'", "'"), "cannot be read: "),
                (text.replace("client_id", "# client_id"), "central.toml:4:10: [oidc] needs client_id"),
                (text.replace("client_secret_file", "# "), "needs client_secret_file"),
                (text.replace("/secret'", "/nothing'"), "cannot be read"),
                (text.replace("roles", "# roles"), "needs roles"),
                (whole.text(PUBLIC, "scopes = \"profile\""), "openid must be among"),
                (whole.text(PUBLIC, "user_claim = \" \""), "oidc.user_claim has 1 to"),
                (whole.text(PUBLIC, "ca_file = \"/nowhere\""), "cannot be read"),
                (whole.text(PUBLIC, "moon = 1"), "unknown field 'moon'"),
                (text.replace("viewer", "viewers"), "unknown field 'viewers'"),
            ] {
                let error = parse(&text).unwrap_err();
                let ConfigError::Mistakes(mistakes) = &error else { panic!("not read") };
                assert!(mistakes.len() == 1 && error.to_string().contains(why), "{why}: {error}");
            }
        }

        const PUBLIC: &str = "[admin]\npublic_url = \"https://admin.example\"";

        /// A table with everything that must be there, and the secret's file.
        struct Whole(tempfile::TempDir);

        impl Whole {
            fn new() -> Self {
                let folder = tempfile::tempdir().unwrap();
                secret_file::write(&folder.path().join("secret"), b"hush\n").unwrap();
                Self(folder)
            }

            fn text(&self, before: &str, more: &str) -> String {
                let folder = self.0.path().display();
                format!(
                    "{before}\n[oidc]\nissuer = \"https://login.example/realms/main\"\nclient_id = \"postern\"\n\
                     client_secret_file = '{folder}/secret'\n\
                     roles = {{ viewer = [\"staff\"], operator = [\"ops\"] }}\n{more}\n"
                )
            }
        }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("central.toml"), text)
    }
}
