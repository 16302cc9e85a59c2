# Builds a local stand-in for prom/prometheus:v3.14.0, which suffices for compose/monitoring.yml:
# Debian's Prometheus, version 2.42, with busybox and the same user, paths and command line.
# $1: the name of the image to build.
image=$1
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# Prometheus 3 expands environment variables in external labels without this flag, and refuses it.
cat >"$parts/entrypoint" <<'SCRIPT'
#!/bin/sh
exec /usr/local/lib/prometheus --enable-feature=expand-external-labels "$@"
SCRIPT
chmod 0755 "$parts/entrypoint"

# The package is only unpacked: its installation would add a service and a user of its own.
cat >"$parts/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends busybox-static \
    && cd "$(mktemp -d)" \
    && apt-get download --quiet=2 --option APT::Sandbox::User=root prometheus \
    && dpkg-deb --extract prometheus_*.deb . \
    && mv usr/bin/prometheus /usr/local/lib/ \
    && rm -rf /var/lib/apt/lists/* "$PWD" \
    && ln -s "$(command -v busybox)" /usr/bin/wget \
    && mkdir -p /prometheus \
    && chown 65534:65534 /prometheus
COPY entrypoint /usr/local/bin/prometheus
USER 65534:65534
WORKDIR /prometheus
EXPOSE 9090
VOLUME ["/prometheus"]
ENTRYPOINT ["/usr/local/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
docker build --tag "$image" "$parts"
