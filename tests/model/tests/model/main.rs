//! Every model holds, and notices every seeded bug. With `-- --nocapture` each says how many states it saw, or
//! the way to the bug.

mod election;
mod gateway;
mod histories;
mod resume;
mod silence;
