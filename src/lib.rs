//! Stentor: a broadcast server for chat.
