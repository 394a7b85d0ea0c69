//! Reaching destinations inside the network, and nothing the site has not allowed.

pub mod address;
pub mod allow_list;
pub mod dial;
pub mod own_address;
pub mod resolve;
