//! Tests of the homes.
