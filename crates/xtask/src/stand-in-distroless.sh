# Builds a local stand-in for gcr.io/distroless/cc-debian12:nonroot, with everything that
# TickStorm's programs need from it: the C library, certificates, time zones, users, and no shell.
# $1: the name of the image to build.
image=$1
docker build --tag "$image" - <<'DOCKERFILE'
FROM debian:bookworm-slim AS parts
RUN mkdir /rootfs && cd "$(mktemp -d)" \
    && apt-get update --quiet=2 \
    && apt-get download --quiet=2 --option APT::Sandbox::User=root \
        base-files ca-certificates libc6 libgcc-s1 tzdata \
    && for part in *.deb; do dpkg-deb -x "$part" /rootfs || exit 1; done \
    && rm -rf /var/lib/apt/lists/* /rootfs/usr/share/doc \
    && mkdir -p /rootfs/etc/ssl/certs /rootfs/home/nonroot \
    && cat /rootfs/usr/share/ca-certificates/mozilla/*.crt \
        >/rootfs/etc/ssl/certs/ca-certificates.crt \
    && printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' \
        'nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin' \
        'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >/rootfs/etc/passwd \
    && printf '%s\n' 'root:x:0:' 'nobody:x:65534:' 'nonroot:x:65532:' >/rootfs/etc/group \
    && chown 65532:65532 /rootfs/home/nonroot

FROM scratch
COPY --from=parts /rootfs /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532
WORKDIR /home/nonroot
DOCKERFILE
