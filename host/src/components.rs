//! Components by digest: a host offers builds to peers whose grants name them, and fetches builds that peers offer.
//!
//! A build travels in [`chunks`], each of which the digest vouches for before it is kept, from several peers at once ([`fetch`]), and goes on after a break where it stopped ([`part`]).
//! It ends as a file of the tenant's folder of fetched components, where every build waits until the operator accepts it. Nothing is offered ([`door`]) but live builds of files.

pub mod chunks;
pub mod door;
pub mod fetch;
pub mod message;
pub mod part;

/// The protocol by which components are fetched.
pub const PROTOCOL: &str = "/mcpp/component/1.0.0";
