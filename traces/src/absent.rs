//! In the exporter's place where the feature `otlp` is off: there is none, and nobody can come by one.

use std::convert::Infallible;

use tokio_util::sync::CancellationToken;

use crate::{Service, Settings, Traces, settings::NotBuilt};

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
}

/// Nobody has one.
#[derive(Debug)]
pub struct Exporter(Infallible);

impl Exporter {
    /// `None` where no collector is named.
    ///
    /// # Errors
    /// Where one is.
    pub fn open(settings: &Settings, _: Service) -> Result<Option<(Traces, Self)>, OpenError> {
        if settings.endpoint.is_some() { Err(NotBuilt.into()) } else { Ok(None) }
    }

    pub async fn run(self, _: CancellationToken) {
        match self.0 {}
    }
}
