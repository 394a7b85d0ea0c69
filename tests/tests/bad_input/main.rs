//! What somebody is told who made a mistake, by the real programs: the error names what, where and
//! what to do, and nothing that worked before is lost.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

mod destinations;
mod enrolment;
mod settings;
mod strangers;
mod twins;
