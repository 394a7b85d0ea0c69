//! What `postern-central ca` does on the host of a central that may be running: it looks at the authority's file, or
//! replaces it. The running one notices within seconds ([`super::Ca::look`]).

use std::{fmt, path::Path};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, CaError, Place, exists};
use crate::enrolment::rfc3339;

/// How the present authority is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It vouches for the next: nobody has to do anything.
    Vouched,
    /// Its key is in wrong hands, so its word counts for nothing: every agent has to enrol anew.
    Disowned,
}

/// Why the authority was not followed by another. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("there is no authority in {0} yet: start central once")]
    None(String),
    #[error(
        "the authority was rotated at {since}; agents may hold certificates of the one before until {until}: rotate \
         again after that"
    )]
    TooSoon { since: String, until: String },
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// The authority of a data directory, as its operator wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub name: String,
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
    /// The one before, whose certificates count until then.
    pub beside: Option<(String, OffsetDateTime)>,
    /// The older ones whose agents find the way here all the same, youngest first.
    pub followed: Vec<String>,
}

/// Looks at the authority in `data_dir`.
///
/// # Errors
/// When there is none, or its file cannot be read or is damaged.
pub fn standing(data_dir: &Path, now: OffsetDateTime) -> Result<Standing, RotateError> {
    let authority = open(&Place::of(data_dir))?;
    Ok(describe(&authority, now))
}

/// Puts another authority in place of the one in `data_dir`, all or nothing.
///
/// # Errors
/// When there is none, when the last rotation is too young, or when the file cannot be read or written.
pub fn rotate(data_dir: &Path, manner: Manner, now: OffsetDateTime) -> Result<Standing, RotateError> {
    let place = Place::of(data_dir);
    let authority = open(&place)?;
    let next = match manner {
        Manner::Vouched if authority.trusted(now).len() > 1 => {
            let (since, until) = (rfc3339(authority.since()), rfc3339(authority.overlap_until()));
            return Err(RotateError::TooSoon { since, until });
        }
        Manner::Vouched => authority.succeed(now)?,
        Manner::Disowned => Authority::found(now)?,
    };
    next.write(&place.key)?;
    Ok(describe(&next, now))
}

fn open(place: &Place) -> Result<Authority, RotateError> {
    if !exists(&place.key)? {
        return Err(RotateError::None(place.key.display().to_string()));
    }
    Ok(Authority::read(&place.key)?)
}

fn describe(authority: &Authority, now: OffsetDateTime) -> Standing {
    let (name, until) = name_and_end(authority.certificate());
    let followed: Vec<String> = authority.followed().map(|certificate| name_and_end(certificate).0).collect();
    let overlaps = authority.trusted(now).len() > 1;
    let beside = followed.first().filter(|_| overlaps).map(|last| (last.clone(), authority.overlap_until()));
    Standing { name, since: authority.since(), until, beside, followed }
}

fn name_and_end(certificate: &CertificateDer<'_>) -> (String, OffsetDateTime) {
    // It was parsed when its file was read; one that cannot be would show as such, not stop anybody.
    X509Certificate::from_der(certificate).map_or_else(
        |_| ("unreadable".into(), OffsetDateTime::UNIX_EPOCH),
        |(_, read)| (read.subject().to_string(), read.validity().not_after.to_datetime()),
    )
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Authority    {}", self.name)?;
        writeln!(f, "Since        {}", rfc3339(self.since))?;
        writeln!(f, "Valid until  {}", rfc3339(self.until))?;
        if let Some((name, until)) = &self.beside {
            writeln!(f, "Beside it    {name}, whose certificates count until {}", rfc3339(*until))?;
        }
        match self.followed.as_slice() {
            [] => writeln!(f, "Follows      nobody"),
            followed => writeln!(f, "Follows      {}", followed.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::AgentId;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime, pem::PemObject},
        server::WebPkiClientVerifier,
    };
    use time::Duration;

    use super::{super::Ca, *};

    #[test]
    fn a_running_central_notices_the_rotation_and_both_authorities_count_for_a_day() {
        let world = World::new();
        let before = world.ca.trusted();
        assert_eq!(world.ca.look(now()).unwrap(), Default::default());

        world.rotate(now());

        let looked = world.ca.look(now()).unwrap();
        assert!(looked.followed && looked.server_renewed && !looked.overlap_over, "{looked:?}");
        let beside = world.ca.trusted();
        assert_eq!((beside.len(), &beside[1]), (2, &before[0]));
        assert_eq!(world.public(), world.ca.trusted_pem());

        let looked = world.ca.look(now() + Duration::hours(26)).unwrap();
        assert!(looked.overlap_over && !looked.followed, "{looked:?}");
        assert_eq!(world.ca.trusted(), [beside[0].clone()]);
        assert_eq!(world.public(), world.ca.trusted_pem());
    }

    #[test]
    fn who_was_away_for_four_rotations_still_knows_central_and_the_other_agents() {
        let world = World::new();
        let pinned = world.ca.trusted();
        for day in 0..4 {
            let at = now() + Duration::days(2 * day);
            world.rotate(at);
            world.ca.look(at).unwrap();
            assert!(world.server_is_known_to(&pinned, at), "after {} rotations", day + 1);
            assert!(knows(&pinned, &world.agent(at), at), "after {} rotations", day + 1);
        }
        let at = now() + Duration::days(8);
        world.rotate(at);
        world.ca.look(at).unwrap();
        assert!(!world.server_is_known_to(&pinned, at), "the chain of bridges is bounded");
    }

    #[test]
    fn an_agents_certificate_of_the_last_authority_counts_for_its_life_and_proves_it_for_ever() {
        let world = World::new();
        let agent = world.agent(now());
        world.rotate(now() + Duration::hours(1));
        world.ca.look(now() + Duration::hours(1)).unwrap();

        assert!(knows(&world.ca.trusted(), &agent, now() + Duration::hours(23)));
        world.ca.look(now() + Duration::days(30)).unwrap();
        let (_, expired) = world.ca.read_agent(&agent).expect("it may ask to come back");
        assert!(expired < now() + Duration::days(30));
    }

    #[test]
    fn a_second_rotation_waits_until_nobody_needs_the_authority_before_the_last() {
        let world = World::new();
        world.rotate(now());
        let refused = rotate(world.folder.path(), Manner::Vouched, now() + Duration::hours(24));
        assert!(matches!(refused, Err(RotateError::TooSoon { .. })), "{refused:?}");
        rotate(world.folder.path(), Manner::Vouched, now() + Duration::hours(26)).unwrap();
    }

    #[test]
    fn a_disowned_authority_vouches_for_nobody_and_its_certificates_count_no_more() {
        let world = World::new();
        let (pinned, agent) = (world.ca.trusted(), world.agent(now()));
        rotate(world.folder.path(), Manner::Disowned, now()).unwrap();
        world.ca.look(now()).unwrap();

        assert!(!world.server_is_known_to(&pinned, now()));
        assert!(!knows(&world.ca.trusted(), &agent, now()));
        assert!(world.ca.read_agent(&agent).is_none(), "nor may it ask to come back");
    }

    #[test]
    fn what_it_says_of_itself_holds_for_the_file() {
        let world = World::new();
        let first = standing(world.folder.path(), now()).unwrap();
        assert_eq!((first.since, &first.beside, first.followed.len()), (now(), &None, 0));
        let later = now() + Duration::days(3);
        world.rotate(later);
        let second = standing(world.folder.path(), later).unwrap();
        assert_eq!((second.since, &second.followed), (later, &vec![first.name.clone()]));
        assert!(second.beside.as_ref().is_some_and(|(name, _)| *name == first.name));
        assert!(second.to_string().contains(&first.name), "{second}");
    }

    struct World {
        ca: Ca,
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ca = Ca::open(folder.path(), &[], now()).unwrap();
            Self { ca, folder }
        }

        fn rotate(&self, at: OffsetDateTime) {
            rotate(self.folder.path(), Manner::Vouched, at).unwrap();
        }

        fn public(&self) -> String {
            std::fs::read_to_string(self.ca.trusted_path()).unwrap()
        }

        fn agent(&self, at: OffsetDateTime) -> String {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
            let (environment, name) = ("default".parse().unwrap(), "gw-a".parse().unwrap());
            self.ca.certify_agent(&csr, &environment, AgentId::random(), &name, at).unwrap().pem
        }

        fn server_is_known_to(&self, pinned: &[CertificateDer<'static>], at: OffsetDateTime) -> bool {
            let provider = crate::tls::provider();
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots(pinned), provider).build().unwrap();
            let chain = self.ca.server_key().cert.clone();
            let name = ServerName::try_from("localhost").unwrap();
            verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], unix(at)).is_ok()
        }
    }

    fn knows(pinned: &[CertificateDer<'static>], agent_pem: &str, at: OffsetDateTime) -> bool {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(agent_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let provider = crate::tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(pinned), provider).build().unwrap();
        verifier.verify_client_cert(&chain[0], &chain[1..], unix(at)).is_ok()
    }

    fn roots(pinned: &[CertificateDer<'static>]) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        pinned.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
        Arc::new(roots)
    }

    fn unix(at: OffsetDateTime) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().try_into().unwrap()))
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }
}
