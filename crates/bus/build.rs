//! Generates the cluster protocol's messages from `proto/tickstorm/bus/v1/bus.proto`. From
//! `stream.proto`, which it imports, only `Mode` is kept: the messages for clients belong to the
//! protocol crate.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = protox::compile(["tickstorm/bus/v1/bus.proto"], ["../../proto"])?;
    for file in &mut files.file {
        if file.package() == "tickstorm.v1" {
            file.message_type.clear();
            file.enum_type
                .retain(|generated| generated.name() == "Mode");
        }
    }
    prost_build::Config::new()
        .include_file("proto.rs")
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=../../proto");
    Ok(())
}
