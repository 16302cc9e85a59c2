//! The test kit's own promises: a kit that misjudges makes every test that uses it worthless.

mod alloc;
mod peer;
mod process;
mod reserved_addr;
