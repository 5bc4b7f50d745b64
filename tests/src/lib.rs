//! What the tests of the whole share: the harnesses in which engines meet each other and the outer world.

pub mod fuzz;
pub mod handmoved;
pub mod host;
pub mod peer;
pub mod raw;
pub mod services;
pub mod sim;
pub mod transfer;
