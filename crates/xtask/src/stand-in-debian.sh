# Builds a local stand-in for debian:bookworm-slim: a minimal Debian 12, on which other stand-ins
# are based.
# $1: the name of the image to build.
image=$1
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT

if ! command -v debootstrap >/dev/null; then
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes debootstrap
fi
debootstrap --variant=minbase bookworm "$rootfs"
rm -rf "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/*

tar -C "$rootfs" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image"
