# Builds a local stand-in for rust:1.95-bookworm, which suffices for builds: this host's toolchain,
# which must be of that version, and gcc. The image also trusts the certificates that this host's
# administrator has added, since a proxy in front of the registries may use one of them.
# $1: the name of the image to build.
image=$1
version=${image#rust:}
version=${version%-bookworm}
case $(rustc --version) in
"rustc $version."*) ;;
*)
    echo "the stand-in for $image requires Rust $version, but this host has $(rustc --version)" >&2
    exit 1
    ;;
esac
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
mkdir "$parts/certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$parts/certificates" \;

cat >"$parts/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY certificates /usr/local/share/ca-certificates
RUN update-ca-certificates
COPY bin /usr/local/bin
COPY lib /usr/local/lib
ENV CARGO_HOME=/usr/local/cargo
CMD ["bash"]
DOCKERFILE
tar -c -C "$parts" Dockerfile certificates -C "$(rustc --print sysroot)" bin/cargo bin/rustc lib |
    docker build --tag "$image" -
