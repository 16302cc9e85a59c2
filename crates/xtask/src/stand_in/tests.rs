//! Compares the stand-ins with the Dockerfiles and the scripts that name their images.

use super::*;

const DOCKERFILES: [&str; 2] = [
    include_str!("../../../../Dockerfile.clock"),
    include_str!("../../../../Dockerfile.edge"),
];

const STAND_INS: [&StandIn; 5] = [&NATS, &DEBIAN, &RUST, &DISTROLESS, &HAPROXY];

#[test]
fn every_image_in_the_dockerfiles_has_a_stand_in() {
    for dockerfile in DOCKERFILES {
        let mut images = 0;
        for line in dockerfile.lines() {
            let Some(from) = line.strip_prefix("FROM ") else {
                continue;
            };
            let image = from.split_whitespace().next().unwrap();
            images += 1;
            assert!(
                STAND_INS.iter().any(|stand_in| stand_in.image == image),
                "{image} has no stand-in"
            );
        }
        assert!(images >= 2, "no builder or no final stage in {dockerfile}");
    }
}

#[test]
fn every_script_names_the_image_that_it_replaces() {
    for stand_in in STAND_INS {
        assert!(
            stand_in.script.contains(stand_in.image),
            "{} does not name {}",
            stand_in.script_name,
            stand_in.image
        );
    }
}
