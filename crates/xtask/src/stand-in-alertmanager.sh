# Builds a local stand-in for prom/alertmanager:v0.28.1, which suffices for compose/monitoring.yml:
# Debian's Alertmanager, version 0.25, with busybox and the same user, paths and command line. It
# has no page, only the API.
# $1: the name of the image to build.
image=$1

# The package is only unpacked: its installation would add a service and a user of its own. Besides
# the program, it contains the default template, without which Alertmanager does not start.
docker build --tag "$image" - <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends busybox-static \
    && cd "$(mktemp -d)" \
    && apt-get download --quiet=2 --option APT::Sandbox::User=root prometheus-alertmanager \
    && dpkg-deb --extract prometheus-alertmanager_*.deb . \
    && mv usr/bin/prometheus-alertmanager /bin/alertmanager \
    && mv usr/share/prometheus /usr/share/ \
    && rm -rf /var/lib/apt/lists/* "$PWD" \
    && ln -s "$(command -v busybox)" /usr/bin/wget \
    && mkdir -p /alertmanager \
    && chown 65534:65534 /alertmanager
USER 65534:65534
WORKDIR /alertmanager
EXPOSE 9093
VOLUME ["/alertmanager"]
ENTRYPOINT ["/bin/alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
DOCKERFILE
