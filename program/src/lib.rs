//! What every Postern program does the same way: it logs, stops when asked, exits with a code that
//! means something, ends itself where it hangs, takes the file descriptors it is allowed, reads what its configuration
//! names, and says where that is wrong.

pub mod authority;
pub mod descriptors;
pub mod exit;
pub mod explain;
pub mod logging;
pub mod mistake;
pub mod shutdown;
pub mod watchdog;

pub use authority::{Authority, AuthorityError, read_small};
pub use explain::explain;
pub use mistake::Mistake;
