//! Exit codes, taken from sysexits.h if it has one that fits.

/// Success.
pub const OK: u8 = 0;
/// A negative result: a probe's limit was exceeded, or a health check failed.
pub const FAILED: u8 = 1;
/// The command line is invalid.
pub const USAGE: u8 = 64;
/// The peer can't be reached, or an address can't be listened on.
pub const UNAVAILABLE: u8 = 69;
/// An internal error: a bug in the program.
pub const SOFTWARE: u8 = 70;
/// The peer violated the protocol.
pub const PROTOCOL: u8 = 76;
/// The peer refused the request.
pub const NOPERM: u8 = 77;
/// The settings are invalid.
pub const CONFIG: u8 = 78;
