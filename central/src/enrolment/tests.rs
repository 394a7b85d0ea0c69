use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;

use super::*;
use crate::{
    process_server::ProcessServers,
    store::{memory::MemoryStore, sled::SledStore},
};

#[tokio::test]
async fn a_token_and_a_request_become_a_process_server_with_a_certificate() {
    let world = World::new();
    let token = world.token(None).await;
    let enrolled = world.redeem(&token, "gw-a").await.unwrap();
    let identity = identity(&enrolled);
    assert_eq!((identity.agent, &identity.environment), (enrolled.agent, &world.environment));
    let server = world.enrolment.admit(&identity, now()).await.unwrap();
    assert_eq!((server.name.as_str(), server.candidate), ("gw-a", false));
    assert_eq!(enrolled.ca_pem, world.enrolment.ca().trusted_pem());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_that_come_with_one_token_exactly_one_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let disk = durable::Durable::open(folder.path().join("db")).unwrap();
    let store = Arc::new(SledStore::open(&disk, &folder.path().join("guard")).unwrap());
    let world = World::with(store);
    let token = world.token(None).await;
    let csr = csr();
    let comers = (0..64).map(|n| {
        let request = EnrollRequest { csr_pem: csr.clone(), ..request(&token, &format!("gw-{n}")) };
        let enrolment = world.enrolment.clone();
        tokio::spawn(async move { enrolment.redeem(&request, now()).await })
    });
    let mut inside = 0;
    for comer in comers.collect::<Vec<_>>() {
        match comer.await.unwrap() {
            Ok(_) => inside += 1,
            Err(RedeemError::UsedAlready { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(inside, 1);
    assert_eq!(world.servers().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_refusal_says_what_is_wrong_and_spares_the_token() {
    let world = World::new();
    let bound = world.token(Some("gw-a")).await;
    let error = world.redeem(&bound, "gw-b").await.unwrap_err();
    assert!(error.to_string().contains("--name gw-a"), "{error}");

    let unknown = format!("postern_enroll_{}", "A".repeat(43));
    assert!(matches!(world.redeem(&unknown, "gw-a").await, Err(RedeemError::UnknownToken)));
    assert!(matches!(world.redeem("postern_enroll_", "gw-a").await, Err(RedeemError::UnknownToken)));

    let late = now() + token::TTL_DEFAULT;
    let mut request = request(&bound, "gw-a");
    request.unix_ms += u64::try_from(token::TTL_DEFAULT.as_millis()).unwrap();
    let error = world.enrolment.redeem(&request, late).await.unwrap_err();
    assert!(matches!(error, RedeemError::Expired(_)), "{error}");

    let forged = EnrollRequest { csr_pem: "x".into(), ..self::request(&bound, "gw-a") };
    let error = world.enrolment.redeem(&forged, now()).await.unwrap_err();
    assert!(error.refusal().message.contains("possession"), "{error}");

    world.redeem(&bound, "gw-a").await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_told_by_how_much() {
    let world = World::new();
    let token = world.token(None).await;
    let mut request = request(&token, "gw-a");
    request.unix_ms += 5 * 60 * 1000 + 1000;
    let refusal = world.enrolment.redeem(&request, now()).await.unwrap_err().refusal();
    assert_eq!(refusal.code, RefusalCode::Clock);
    assert!(refusal.message.contains("5m 1s ahead of central's"), "{}", refusal.message);
    request.unix_ms -= 1000;
    world.enrolment.redeem(&request, now()).await.unwrap();
}

#[tokio::test]
async fn a_second_use_is_refused_and_somebody_is_told() {
    let world = World::new();
    let token = world.token(None).await;
    world.redeem(&token, "gw-a").await.unwrap();
    let error = world.redeem(&token, "gw-evil").await.unwrap_err();
    assert!(error.to_string().contains("used already, by gw-a"), "{error}");
    let events = Events::new(world.store.clone(), &world.environment).list(0, 10).await.unwrap();
    let codes: Vec<_> = events.iter().map(|event| event.code.as_str()).collect();
    assert_eq!(codes, ["process_server_enrolled", "enrollment_token_reused"]);
    assert!(events[1].text.contains("gw-evil") && !events[1].text.contains(&token));
}

#[tokio::test]
async fn a_token_for_nobody_in_particular_replaces_nobody() {
    let world = World::new();
    let first = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    let error = world.redeem(&world.token(None).await, "gw-a").await.unwrap_err();
    assert!(matches!(error, RedeemError::NameTaken(_)), "{error}");
    world.enrolment.admit(&identity(&first), now()).await.unwrap();
}

#[tokio::test]
async fn a_token_for_its_name_lets_a_wiped_agent_back_in_and_ends_the_old_certificate() {
    let world = World::new();
    let first = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    world.servers().mark(&name("gw-a"), true).await.unwrap();
    let second = world.redeem(&world.token(Some("gw-a")).await, "gw-a").await.unwrap();
    assert_ne!(first.agent, second.agent);
    let server = world.enrolment.admit(&identity(&second), now()).await.unwrap();
    assert!(server.candidate);
    let error = world.enrolment.admit(&identity(&first), now()).await.unwrap_err();
    assert!(matches!(error, AdmitError::Replaced(_)), "{error}");
    let renewed = world.enrolment.renew(&identity(&first), &csr(), now()).await;
    assert!(matches!(renewed, Err(AdmitError::Replaced(_))));
}

#[tokio::test]
async fn a_removed_process_server_is_not_admitted() {
    let world = World::new();
    let enrolled = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    world.servers().remove(&name("gw-a")).await.unwrap();
    let error = world.enrolment.admit(&identity(&enrolled), now()).await.unwrap_err();
    assert_eq!(error.refusal().code, RefusalCode::Unknown);
}

#[tokio::test]
async fn an_environments_certificate_is_worth_nothing_in_another() {
    let world = World::new();
    let enrolled = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    let elsewhere = AgentIdentity { environment: name("other"), ..identity(&enrolled) };
    assert!(matches!(world.enrolment.admit(&elsewhere, now()).await, Err(AdmitError::Removed(_))));
}

#[tokio::test]
async fn after_a_renewal_both_keys_count_until_the_old_certificate_ends() {
    let world = World::new();
    let first = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    let at = now() + time::Duration::hours(16);
    let second = world.enrolment.renew(&identity(&first), &csr(), at).await.unwrap();
    assert_eq!(first.agent, second.agent);
    world.enrolment.admit(&identity(&first), at).await.unwrap();
    world.enrolment.admit(&identity(&second), at).await.unwrap();
    let later = at + time::Duration::hours(24);
    assert!(world.enrolment.admit(&identity(&first), later).await.is_err());
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_made_again_with_the_old_key() {
    let world = World::new();
    let first = world.redeem(&world.token(None).await, "gw-a").await.unwrap();
    let lost = world.enrolment.renew(&identity(&first), &csr(), now()).await.unwrap();
    let again = world.enrolment.renew(&identity(&first), &csr(), now()).await.unwrap();
    world.enrolment.admit(&identity(&first), now()).await.unwrap();
    world.enrolment.admit(&identity(&again), now()).await.unwrap();
    // Nobody holds the key whose certificate was lost.
    assert!(world.enrolment.admit(&identity(&lost), now()).await.is_err());
}

struct World {
    enrolment: Enrolment,
    store: SharedStore,
    environment: EnvironmentName,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(Arc::new(MemoryStore::default()))
    }

    fn with(store: SharedStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(Ca::open(folder.path(), &[], now()).unwrap());
        let enrolment = Enrolment::new(store.clone(), ca);
        Self { enrolment, store, environment: name("default"), _folder: folder }
    }

    fn servers(&self) -> ProcessServers {
        ProcessServers::new(self.store.clone(), &self.environment)
    }

    async fn token(&self, bound: Option<&str>) -> String {
        let bound = bound.map(name);
        let made = self.enrolment.create_token(&self.environment, bound, token::TTL_DEFAULT, now()).await;
        made.unwrap().0.reveal().into()
    }

    async fn redeem(&self, token: &str, name: &str) -> Result<Enrolled, RedeemError> {
        self.enrolment.redeem(&request(token, name), now()).await
    }
}

fn request(token: &str, text: &str) -> EnrollRequest {
    EnrollRequest {
        token: token.into(),
        name: name(text),
        csr_pem: csr(),
        software: "1.0".into(),
        unix_ms: u64::try_from(now().unix_timestamp()).unwrap() * 1000,
    }
}

#[test]
fn a_certificate_with_a_sixth_of_its_life_left_is_expiring() {
    let hours = |hours| now() + time::Duration::hours(hours);
    let validity = Validity { not_before: hours(0), not_after: hours(24) };
    assert_eq!(validity.expiring_from(), hours(20));
}

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

fn identity(enrolled: &Enrolled) -> AgentIdentity {
    let certificate = CertificateDer::from_pem_slice(enrolled.certificate_pem.as_bytes()).unwrap();
    AgentIdentity::read(&certificate).unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}
