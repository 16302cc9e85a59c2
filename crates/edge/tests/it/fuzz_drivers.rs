//! The bodies of the fuzz targets. The crate in `fuzz/` includes these files, and the tests replay
//! the corpus through them.

pub(crate) mod cookies;
pub(crate) mod proxy_header;
pub(crate) mod settings;
mod text_file;
