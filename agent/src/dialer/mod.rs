//! Reaching destinations inside the network, and nothing the site has not allowed.

pub mod dial;
