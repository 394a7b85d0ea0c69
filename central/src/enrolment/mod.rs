//! How an agent becomes known: one-time tokens, certificates, renewal.
