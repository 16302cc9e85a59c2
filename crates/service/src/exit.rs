//! Exit codes, those of sysexits.h where one fits.

/// All went as asked.
pub const OK: u8 = 0;
/// The answer is no: a probe's limit was passed, a health check failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The other side can't be reached.
pub const UNAVAILABLE: u8 = 69;
/// A defect of the program.
pub const SOFTWARE: u8 = 70;
/// The other side broke the protocol.
pub const PROTOCOL: u8 = 76;
/// The other side refused.
pub const NOPERM: u8 = 77;
/// Settings are wrong.
pub const CONFIG: u8 = 78;
