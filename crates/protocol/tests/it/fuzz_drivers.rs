//! The bodies of the fuzz targets in `fuzz/`, which includes these files; here the corpus is replayed through them.

pub(crate) mod frame_decoder;
pub(crate) mod server_session;
