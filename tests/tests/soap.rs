//! A web service at the site: SOAP 1.1 by spyne, called by zeep.

use std::time::Duration;

use postern_tests::servers::SoapService;
use postern_tests::{Route, needs, suite};
use tokio::process::Command;

const SUITE_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_soap_service_is_called_directly() {
    let service = SoapService::start().await;
    zeep(&Route::direct(service.addr())).await;
}

#[tokio::test]
async fn a_soap_service_is_called_through_the_gateway() {
    let service = SoapService::start().await;
    zeep(&Route::through_the_gateway("http", service.addr()).await).await;
}

/// The WSDL, calls, a fault, 200 calls on one connection, 10 MiB both ways, chunked bodies:
/// `tests/suites/soap/client.py`.
async fn zeep(route: &Route) {
    let mut client = Command::new(needs::python());
    client.arg(needs::suites().join("soap/client.py")).arg(route.addr().to_string());
    let steps = suite::steps("zeep", &mut client, SUITE_WITHIN).await;

    for step in ["wsdl", "calls", "fault", "keep_alive", "attachment", "chunked"] {
        assert!(suite::has(&steps, step), "the step {step} is missing in {steps:?}");
    }
}
