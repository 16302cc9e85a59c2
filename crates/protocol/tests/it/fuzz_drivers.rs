//! The bodies of the fuzz targets. The crate in `fuzz/` includes these files, and the tests replay
//! the corpus through them.

pub(crate) mod frame_decoder;
pub(crate) mod server_session;
