//! Central's memory in a folder, opened as central opens it, and what the tests put into it.

use std::{path::Path, sync::Arc};

use central::{
    enrolment::{Ca, Enrolment, RedeemError, token},
    gateway::fence::{Admission, AppliedClaim, Circumstances, Fences},
    process_server::ProcessServers,
    store::{
        Owner, Record, SCAN_MAX, SharedStore,
        sled::{OpenStoreError, SledStore},
    },
};
use durable::{Durable, OpenError};
use proto::{
    AgentId, BootId, EnvironmentName, Epoch, Name, NodeId, SessionId,
    hello::{EnrollRequest, Enrolled, Seat, TunnelHello, Versions},
};
use rcgen::{CertificateParams, KeyPair};
use time::OffsetDateTime;

pub(crate) struct Memory {
    store: SharedStore,
    fences: Fences,
    enrolment: Enrolment,
    pub(crate) servers: ProcessServers,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Disk(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] OpenStoreError),
}

impl Memory {
    pub(crate) fn open(folder: &Path) -> Result<Self, Refused> {
        let disk = Durable::open(folder.join("db"))?;
        let store: SharedStore = Arc::new(SledStore::open(&disk, &folder.join("guard"))?);
        let ca = Ca::open(folder, &[], now()).unwrap();
        Ok(Self {
            fences: Fences::new(store.clone(), &environment()),
            enrolment: Enrolment::new(store.clone(), Arc::new(ca)),
            servers: ProcessServers::new(store.clone(), &environment()),
            store,
        })
    }

    /// Asks for the tunnel as the `n`th active that ever was.
    pub(crate) async fn admit(&self, n: u64) -> Admission {
        let epoch = epoch(n);
        let id = u128::from(n).to_be_bytes();
        let (node, boot) = (NodeId(n), BootId::from_bytes(id));
        let hello = TunnelHello {
            versions: Versions::OURS,
            node,
            epoch,
            boot,
            session: SessionId::from_bytes(id),
            resume: None,
        };
        let at = Circumstances {
            agent: AgentId::from_bytes(id),
            seat: Some(Seat { group: epoch.group, node }),
            claim: Some(AppliedClaim { epoch, node, boot }),
            drain_until: None,
            now: now(),
        };
        self.fences.admit(&hello, &at).await.unwrap()
    }

    /// Which active is the newest that was admitted; 0 before the first.
    pub(crate) async fn newest_active(&self) -> u64 {
        let Some(fence) = self.fences.current().await.unwrap() else { return 0 };
        assert_eq!(fence.epoch, epoch(fence.epoch.claim));
        fence.epoch.claim
    }

    /// A token for any name that is free.
    pub(crate) async fn make_token(&self) -> String {
        let made = self.enrolment.create_token(&environment(), None, token::TTL_DEFAULT, now()).await;
        made.unwrap().0.reveal().into()
    }

    pub(crate) async fn redeem(&self, token: &str, name: &Name) -> Result<Enrolled, RedeemError> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let request = EnrollRequest {
            token: token.into(),
            name: name.clone(),
            csr_pem: csr.pem().unwrap(),
            software: "1.0".into(),
            unix_ms: u64::try_from(now().unix_timestamp()).unwrap() * 1000,
        };
        self.enrolment.redeem(&request, now()).await
    }

    /// Every record these tests cause to be written, with its version.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let ours = Owner::from(&environment());
        let mut records = Vec::new();
        for (owner, collection) in [
            (&ours, "gateway_fence"),
            (&ours, "process_servers"),
            (&ours, "events"),
            (&ours, "events_head"),
            (&Owner::Central, "enrollment_tokens"),
        ] {
            let found = self.store.scan(owner, collection, None, SCAN_MAX).await.unwrap();
            assert!(!found.is_empty(), "no {collection}: a test that compares nothing");
            assert!(found.len() < SCAN_MAX, "more {collection} than one scan shows");
            records.extend(found);
        }
        records
    }
}

/// Of every group one hundred claims, so that epochs grow in both of their parts.
pub(crate) fn epoch(n: u64) -> Epoch {
    Epoch { group: 1 + n / 100, claim: n }
}

fn environment() -> EnvironmentName {
    "default".parse().unwrap()
}

/// The same moment for ever: no token expires while its redemption is looked for.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}
