//! Stentor: a broadcast server for chat. Tens of thousands of clients hold a WebSocket to one process; each
//! publication in a room reaches every member: in one order, once.
//!
//! The modules in the order of the data's path:
//!
//! ```text
//! bytes in ─ driver ─ conn ─ http / ws ─ app ─ chat ─ encoded once ─ base::log ─ shard::fanout ─ driver ─ bytes out
//! ```
//!
//! What other programs can embed: the codec [`ws`], and the log that many readers share, [`base::log`].
//!
//! Everything but `driver`, `server`, `edge`, `identity`, `token`, `config` and `logging` is free of I/O:
//! built without the feature `edges`, the crate is that core alone.

pub mod base;
pub mod metrics;

pub mod http;
pub mod ws;

pub mod options;

pub mod app;
pub mod chat;
pub mod conn;
pub mod engine;
pub mod page;
pub mod room;
pub mod session;
pub mod shard;

#[cfg(feature = "edges")]
pub mod config;
pub mod driver;
#[cfg(feature = "edges")]
pub mod edge;
#[cfg(feature = "edges")]
pub mod identity;
#[cfg(feature = "edges")]
pub mod logging;
#[cfg(feature = "edges")]
pub mod server;
#[cfg(feature = "edges")]
pub mod token;
