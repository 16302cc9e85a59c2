//! The body of the fuzz target. The crate in `fuzz/` includes this file, and the tests replay the
//! corpus through it.

pub(crate) mod tls_records;
