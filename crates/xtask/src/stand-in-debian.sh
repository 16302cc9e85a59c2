# Makes a local image that does what debian:bookworm-slim does: a minimal Debian 12. The other stand-ins are made from it.
# $1: the image's name.
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
