//! Central: the cloud side of Postern. `main` is its table of contents.

pub mod admin;
pub mod alerts;
pub mod app;
pub mod audit;
pub mod budgets;
pub mod cidr;
pub mod config;
pub mod destination;
pub mod dev;
pub mod door;
pub mod drill;
pub mod enrolment;
pub mod events;
pub mod failovers;
pub mod gateway;
pub mod listener;
pub mod people;
pub mod process_server;
pub mod records;
pub mod series;
pub mod store;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod ui;
