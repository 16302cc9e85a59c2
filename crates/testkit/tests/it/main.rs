//! Tests of the test utilities: if they misjudge, every test that uses them is worthless.

mod alloc;
mod peer;
mod process;
mod reserved_addr;
