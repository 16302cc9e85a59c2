//! What the two files of images must have in common.

const CLOCK: &str = include_str!("../../../../Dockerfile.clock");
const EDGE: &str = include_str!("../../../../Dockerfile.edge");

/// Begins the part that is each one's own.
const FINAL_STAGE: &str = "# The final stage";

#[test]
fn both_images_are_built_by_the_same_stages() {
    let clock = builder(CLOCK);
    assert!(clock.contains("FROM ") && clock.contains("cargo build"));
    assert_eq!(clock, builder(EDGE), "else everything is built twice");
}

#[test]
fn an_image_tells_the_version_of_what_is_in_it() {
    let label = format!(
        "org.opencontainers.image.version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    for dockerfile in [CLOCK, EDGE] {
        assert!(dockerfile.contains(&label), "no {label} in {dockerfile}");
    }
}

/// All before the final stage but the first line, which says whose image it is.
fn builder(dockerfile: &str) -> &str {
    let (_, rest) = dockerfile.split_once('\n').unwrap();
    let (builder, _) = rest.split_once(FINAL_STAGE).unwrap();
    builder
}
