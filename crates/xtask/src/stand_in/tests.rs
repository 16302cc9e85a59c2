//! Compares the stand-ins with the Dockerfiles and the scripts that name their images.

use super::*;

const DOCKERFILES: [&str; 2] = [
    include_str!("../../../../Dockerfile.clock"),
    include_str!("../../../../Dockerfile.edge"),
];

const COMPOSE_FILES: [&str; 2] = [
    include_str!("../../../../compose/docker-compose.yml"),
    include_str!("../../../../compose/monitoring.yml"),
];

const STAND_INS: [&StandIn; 9] = [
    &NATS,
    &DEBIAN,
    &RUST,
    &DISTROLESS,
    &HAPROXY,
    &PROMETHEUS,
    &ALERTMANAGER,
    &GRAFANA,
    &NATS_EXPORTER,
];

/// Returns the images that a Dockerfile starts from, each with the argument that names it.
fn bases(dockerfile: &str) -> Vec<(&str, &str)> {
    let stages = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "));
    let arguments = stages.map(|stage| {
        let image = stage.split_whitespace().next().unwrap();
        let argument = image
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'));
        argument.unwrap_or_else(|| panic!("{image} can't be replaced by a stand-in"))
    });
    arguments
        .map(|argument| {
            let default = format!("ARG {argument}=\\\n");
            let image = dockerfile.split_once(&default);
            let image = image.and_then(|(_, rest)| rest.lines().next());
            (argument, image.unwrap_or_else(|| panic!("no {default}")))
        })
        .collect()
}

#[test]
fn every_image_in_the_dockerfiles_has_a_digest_and_a_stand_in() {
    for dockerfile in DOCKERFILES {
        let bases = bases(dockerfile);
        assert!(
            bases.len() >= 2,
            "no builder or no final stage in {dockerfile}"
        );
        for (argument, image) in bases {
            let (tag, digest) = image.split_once("@sha256:").expect("a digest");
            let is_hex = digest
                .bytes()
                .all(|digit| b"0123456789abcdef".contains(&digit));
            assert!(digest.len() == 64 && is_hex, "{image}");
            let mut stand_ins = STAND_INS.iter();
            let stand_in = stand_ins.find(|stand_in| stand_in.argument == Some(argument));
            let stand_in = stand_in.unwrap_or_else(|| panic!("{image} has no stand-in"));
            assert_eq!((stand_in.image, stand_in.reference()), (tag, image));
        }
    }
}

#[test]
fn every_image_in_the_compose_files_that_is_not_ours_has_a_stand_in() {
    let lines = COMPOSE_FILES.iter().flat_map(|file| file.lines());
    let images = lines.filter_map(|line| line.trim().strip_prefix("image: "));
    let theirs: Vec<_> = images.filter(|image| !image.ends_with(":local")).collect();
    assert!(theirs.len() >= 6, "{theirs:?}");
    for image in theirs {
        let is_known = STAND_INS.iter().any(|stand_in| stand_in.image == image);
        assert!(is_known, "{image} has no stand-in");
    }
}

#[test]
fn an_image_without_a_digest_is_named_by_its_tag() {
    for stand_in in [&NATS, &DEBIAN, &HAPROXY, &PROMETHEUS] {
        assert_eq!(stand_in.reference(), stand_in.image);
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
