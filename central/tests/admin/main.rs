//! The REST API and `posternctl`, against a store, a gateway that keeps its promises in a few
//! lines, and real TLS.

mod destinations;
mod gateway;
mod posternctl;
mod process_servers;
mod rights;
mod server;
mod stage;
mod tokens;
