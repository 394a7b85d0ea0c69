//! `/settings`: what is in force here, and how central itself is: its store, its certificates, its age.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Json as Answer, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::{task::spawn_blocking, time::timeout};
use utoipa::ToSchema;

use super::{AppState, problem::Problem, rights::Caller};
use crate::{config::Setting, process_server::PROCESS_SERVERS, store::Owner};

/// A store that takes longer for one read is told as one that does not answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Folders within folders that are looked into for the store's size.
const DEPTH_MAX: usize = 4;

/// What is decided before central starts, and does not change while it runs.
#[derive(Debug, Clone)]
pub struct Installation {
    pub settings: Vec<Setting>,
    pub started_at: OffsetDateTime,
    /// Where the store's files lie.
    pub store_path: PathBuf,
}

/// The answer of `GET /settings`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Settings)]
pub(super) struct SettingsAnswer {
    settings: Vec<Setting>,
    health: Health,
}

/// How central itself is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CentralHealth)]
pub(super) struct Health {
    version: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    storage: Storage,
    certificates: Vec<CertificateAnswer>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Storage {
    /// `sled`: in central's own data directory.
    kind: &'static str,
    path: String,
    /// On disk; nothing where that could not be found out.
    bytes: Option<u64>,
    /// One read of it, milliseconds; nothing where it did not answer.
    read_ms: Option<u64>,
    /// Why it does not answer.
    problem: Option<String>,
}

/// One of central's own certificates.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Certificate)]
pub(super) struct CertificateAnswer {
    /// `authority`: signs everybody's. `server`: renewed by itself at two thirds of its life.
    purpose: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

pub(super) async fn show(
    State(state): State<AppState>,
    _: Caller,
) -> Result<Answer<SettingsAnswer>, Problem> {
    let installation = &state.installation;
    let ca = state.enrolment.ca();
    let certificates = ca.expiries().into_iter();
    Ok(Answer(SettingsAnswer {
        settings: installation.settings.clone(),
        health: Health {
            version: env!("CARGO_PKG_VERSION"),
            started_at: installation.started_at,
            storage: storage(&state).await,
            certificates: certificates
                .map(|(purpose, expires_at)| CertificateAnswer { purpose, expires_at })
                .collect(),
        },
    }))
}

async fn storage(state: &AppState) -> Storage {
    let path = state.installation.store_path.clone();
    let began = tokio::time::Instant::now();
    let read = PROCESS_SERVERS.page(&*state.store, &Owner::Central, None, 1);
    let problem = match timeout(STORE_TIMEOUT, read).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("it did not answer within {STORE_TIMEOUT:?}")),
    };
    let read_ms = u64::try_from(began.elapsed().as_millis()).ok().filter(|_| problem.is_none());
    let folder = path.clone();
    let bytes = spawn_blocking(move || bytes_in(&folder, DEPTH_MAX)).await.ok().flatten();
    Storage { kind: "sled", path: path.display().to_string(), bytes, read_ms, problem }
}

/// All files in a folder together. A few: the store's own.
fn bytes_in(folder: &Path, depth: usize) -> Option<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        // A file that goes away meanwhile has no bytes.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() && depth > 0 {
            bytes += bytes_in(&entry.path(), depth - 1).unwrap_or(0);
        } else if about.is_file() {
            bytes += about.len();
        }
    }
    Some(bytes)
}
