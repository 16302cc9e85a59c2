//! Checks what the two Dockerfiles must have in common.

const CLOCK: &str = include_str!("../../../../Dockerfile.clock");
const EDGE: &str = include_str!("../../../../Dockerfile.edge");

/// The comment at which the Dockerfiles begin to differ.
const FINAL_STAGE: &str = "# The final stage";

#[test]
fn both_images_are_built_by_the_same_stages() {
    let clock = builder(CLOCK);
    assert!(clock.contains("FROM ") && clock.contains("cargo build"));
    assert_eq!(clock, builder(EDGE), "everything would be built twice");
}

#[test]
fn an_image_is_labelled_with_the_version_of_its_program() {
    let label = format!(
        "org.opencontainers.image.version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    for dockerfile in [CLOCK, EDGE] {
        assert!(dockerfile.contains(&label), "no {label} in {dockerfile}");
    }
}

/// Returns everything up to the final stage except the first line, which names the image.
fn builder(dockerfile: &str) -> &str {
    let (_, rest) = dockerfile.split_once('\n').unwrap();
    let (builder, _) = rest.split_once(FINAL_STAGE).unwrap();
    builder
}
