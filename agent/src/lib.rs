//! The Platform Agent: runs on a customer's host, joins the gateway group, and carries the
//! tunnel when it is active. `main` is its table of contents.

pub mod alerts;
pub mod app;
pub mod central;
pub mod cluster;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod dialer;
pub mod doctor;
pub mod identity;
pub mod leave;
pub mod peer;
pub mod probing;
pub mod proxy;
pub mod role;
pub mod status;
pub mod tunnel;
