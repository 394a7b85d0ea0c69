//! Becoming known: what a stranger asks of central, and what whoever sits at central's address answers.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use agent::identity::{central::CentralUrl, enroll, exchange};
use central::{
    enrolment::{AgentIdentity, Ca, Enrolment, RedeemError, token::TTL_DEFAULT},
    process_server::ProcessServers,
    store::{SharedStore, memory::MemoryStore},
};
use proto::{
    EnvironmentName,
    hello::{ENROLL_PATH, EnrollRequest, Enrolled},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::block_on;

/// A request with a good token, as JSON: it is refused and the token stays good, or what comes of it is one agent,
/// named by central's books, with the key that signed, and the token is gone. In the request `$` stands for the token;
/// an empty `csr_pem` for a good one; `unix_ms` 0 for now. Behind a NUL may follow a request in DER.
pub(crate) fn enrol_request(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (Some(json), der) = (parts.next(), parts.next()) else { return };
    let Ok(mut request) = serde_json::from_slice::<EnrollRequest>(json) else { return };
    let (ca, good_csr) = central_ca();
    let now = OffsetDateTime::now_utc();
    let environment: EnvironmentName = "default".parse().expect("a name");
    block_on(async {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let enrolment = Enrolment::new(store.clone(), ca.clone());
        let (token, _) = enrolment.create_token(&environment, None, TTL_DEFAULT, now).await.expect("a token");
        let token = token.reveal().to_owned();
        request.token = request.token.replace('$', &token);
        if let Some(der) = der {
            request.csr_pem = pem(der);
        } else if request.csr_pem.is_empty() {
            request.csr_pem.clone_from(good_csr);
        }
        let now_ms = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).expect("after 1970");
        if request.unix_ms == 0 {
            request.unix_ms = now_ms;
        }
        let servers = ProcessServers::new(store.clone(), &environment);
        match enrolment.redeem(&request, now).await {
            Ok(enrolled) => {
                assert_eq!(request.token, token, "another token did");
                let certificate =
                    CertificateDer::from_pem_slice(enrolled.certificate_pem.as_bytes()).expect("PEM");
                let named = AgentIdentity::read(&certificate).expect("an agent's certificate");
                assert_eq!(
                    (named.agent, &named.environment, &named.name),
                    (enrolled.agent, &environment, &request.name)
                );
                enrolment.admit(&named, now).await.expect("it is known from now on");
                assert_eq!(servers.list().await.expect("in memory").len(), 1);
                let again = enrolment.redeem(&request, now).await;
                assert!(matches!(again, Err(RedeemError::UsedAlready { .. })));
            }
            Err(error) => {
                assert!(error.refusal().message.len() < 4096);
                assert!(servers.list().await.expect("in memory").is_empty());
                let name = "gw-good".parse().expect("a name");
                let good =
                    EnrollRequest { token, name, csr_pem: good_csr.clone(), unix_ms: now_ms, ..request };
                enrolment.redeem(&good, now).await.expect("a refusal spares the token");
            }
        }
    });
}

/// Central's authority and a good request, made once: keys are dear.
fn central_ca() -> &'static (Arc<Ca>, String) {
    static CA: OnceLock<(Arc<Ca>, String)> = OnceLock::new();
    CA.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = Arc::new(Ca::open(folder.path(), &[], OffsetDateTime::now_utc()).expect("an authority"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let csr =
            CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
        (ca, csr)
    })
}

fn pem(der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    for three in der.chunks(3) {
        let byte = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE REQUEST-----\n"
}

/// What is answered over HTTP to an agent that asked for a certificate: it becomes this agent's identity only if it
/// names the agent, belongs to its key, and the authority it trusts signed it. `$c` stands for a good certificate, `$a`
/// for the authority's, `$o` for one of another key, `$x` for another authority's.
pub(crate) fn enrol_answer(data: &[u8]) {
    let town = town();
    let central: CentralUrl = "https://central.example".parse().expect("an address");
    let answer: Result<Enrolled, _> = block_on(async {
        let (near, mut far) = duplex(1024 * 1024);
        let asked = exchange::ask(near, &central, ENROLL_PATH, &"a request");
        let answering = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n\"a request\"") {
                match far.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = far.write_all(&town.told(data)).await;
            let _ = far.shutdown().await;
            far
        };
        let (answer, _far) = tokio::join!(asked, answering);
        answer
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return assert!(error.to_string().len() < 2000),
    };
    let key = KeyPair::from_pem(&town.key).expect("our own key");
    let pinned = [town.authority.clone()];
    if let Ok(identity) = enroll::accept(answer, key, central, &pinned, Path::new("ca.pem")) {
        assert_eq!(identity.agent.to_string(), AGENT);
        assert_eq!(identity.environment.as_str(), "default");
        assert_eq!(identity.chain.first(), town.certificate.as_ref(), "signed by nobody");
    }
}

const AGENT: &str = "00112233445566778899aabbccddeeff";

/// Who may certify whom.
struct Town {
    key: String,
    authority: CertificateDer<'static>,
    certificate: Option<CertificateDer<'static>>,
    words: [(u8, String); 4],
}

impl Town {
    /// The bytes with each word in its place, as a JSON string holds it.
    fn told(&self, data: &[u8]) -> Vec<u8> {
        let mut told = Vec::new();
        let mut rest = data;
        while let [byte, after @ ..] = rest {
            let word = self.words.iter().find(|(letter, _)| *byte == b'$' && after.first() == Some(letter));
            match word {
                Some((_, word)) => {
                    told.extend(word.bytes());
                    rest = &after[1..];
                }
                None => {
                    told.push(*byte);
                    rest = after;
                }
            }
        }
        told
    }
}

fn town() -> &'static Town {
    static TOWN: OnceLock<Town> = OnceLock::new();
    TOWN.get_or_init(|| {
        let [ours, theirs] = [1, 2].map(|_| authority());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let other_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let good = leaf(&key, &ours);
        let word = |letter: u8, pem: &str| (letter, pem.replace('\n', "\\n").replace('\r', ""));
        Town {
            key: key.serialize_pem(),
            authority: CertificateDer::from_pem_slice(ours.0.as_bytes()).expect("PEM"),
            certificate: CertificateDer::from_pem_slice(good.as_bytes()).ok(),
            words: [
                word(b'c', &good),
                word(b'a', &ours.0),
                word(b'o', &leaf(&other_key, &ours)),
                word(b'x', &theirs.0),
            ],
        }
    })
}

type Authority = (String, rcgen::Issuer<'static, KeyPair>);

fn authority() -> Authority {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (pem, rcgen::Issuer::new(params, key))
}

fn leaf(key: &KeyPair, (_, issuer): &Authority) -> String {
    let mut params = CertificateParams::default();
    let uri = format!("postern://default/agent/{AGENT}");
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("ASCII"))];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.signed_by(key, issuer).expect("a certificate").pem()
}
