# Builds a local stand-in for nats:2.15-alpine, which suffices for tests: the same server, a shell,
# and the same command line.
# $1: the name of the image to build.
# $BINARY: the path of the NATS server's binary.
image=$1
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs" "$rootfs.parts"' EXIT
mkdir -p "$rootfs.parts" "$rootfs/bin" "$rootfs/usr/local/bin" "$rootfs/tmp"

cp "$BINARY" "$rootfs/usr/local/bin/nats-server"

(
    cd "$rootfs.parts"
    apt-get download --quiet busybox-static
    dpkg-deb -x busybox-static_*.deb busybox
)
find "$rootfs.parts/busybox" -name busybox -type f -exec cp {} "$rootfs/bin/busybox" \;
for applet in sh cat ls sleep; do ln -s busybox "$rootfs/bin/$applet"; done

# Works like the original entrypoint: arguments that begin with a flag are arguments of the server.
cat >"$rootfs/entrypoint" <<'SCRIPT'
#!/bin/sh
case "${1:-}" in -*) set -- nats-server "$@" ;; esac
exec "$@"
SCRIPT
chmod 0755 "$rootfs" "$rootfs/entrypoint" "$rootfs/bin/busybox" \
    "$rootfs/usr/local/bin/nats-server"

tar -C "$rootfs" --owner=0 --group=0 --numeric-owner -c . | docker import \
    --change 'ENV PATH=/usr/local/bin:/bin' \
    --change 'EXPOSE 4222 6222 8222' \
    --change 'ENTRYPOINT ["/entrypoint"]' \
    --change 'CMD ["nats-server"]' \
    - "$image"
