//! Generates the message types from `proto/tickstorm/v1/stream.proto`. protox parses the schema, so
//! that the build needs no `protoc`.

use std::error::Error;

const SCHEMA: &str = "../../proto/tickstorm/v1/stream.proto";
const INCLUDES: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SCHEMA}");
    let schema = protox::compile([SCHEMA], [INCLUDES])?;
    prost_build::Config::new()
        // `Auth` holds secrets: message.rs implements a `Debug` that masks them.
        .skip_debug(["tickstorm.v1.Auth"])
        .compile_fds(schema)?;
    Ok(())
}
