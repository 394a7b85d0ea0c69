//! The rules of the gateway, tried in every order in which things can happen.
//!
//! ```text
//!   election   votes, claims, what a crash forgets      Raft as the rules need it, written anew
//!   gateway    claim ► fence ► tunnel ► drain           the real role machine, fence and proxy-processor
//!   silence    until when an old active may write       the real lease
//!   resume     a cut anywhere, and every byte           two real muxes
//! ```
//!
//! Each model explores every state within its bounds and asks the rules of it, safety and whether things can
//! still go well. Each [`mutant`] is a rule left out; a test proves that its model notices. What is between the
//! machines (sockets, tasks, disks, openraft) is not here: that is what the other tests are for.

pub mod check;
pub mod election;
pub mod gateway;
pub mod mutant;
pub mod resume;
pub mod silence;
