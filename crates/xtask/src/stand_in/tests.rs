//! What the stand-ins have to do with the files that name their images.

use super::*;

const DOCKERFILES: [&str; 2] = [
    include_str!("../../../../Dockerfile.clock"),
    include_str!("../../../../Dockerfile.edge"),
];

const STAND_INS: [&StandIn; 5] = [&NATS, &DEBIAN, &RUST, &DISTROLESS, &HAPROXY];

#[test]
fn every_image_that_ours_are_built_from_has_a_stand_in() {
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
        assert!(images >= 2, "a builder and a final stage");
    }
}

#[test]
fn a_stand_in_tells_whom_it_stands_in_for() {
    for stand_in in STAND_INS {
        assert!(
            stand_in.script.contains(stand_in.image),
            "{} does not name {}",
            stand_in.script_name,
            stand_in.image
        );
    }
}
