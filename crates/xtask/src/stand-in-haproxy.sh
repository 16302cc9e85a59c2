# Builds a local stand-in for haproxy:3.2-alpine, which suffices for deploy/haproxy/haproxy.cfg:
# Debian's HAProxy, version 2.6, with busybox and the same user, paths, command line and stop
# signal.
# $1: the name of the image to build.
image=$1
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# Works like the original entrypoint: arguments that begin with a flag are arguments of haproxy,
# which runs in the foreground with a master process.
cat >"$parts/docker-entrypoint.sh" <<'SCRIPT'
#!/bin/sh
set -e
case "${1:-}" in -*) set -- haproxy "$@" ;; esac
if [ "${1:-}" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
SCRIPT
chmod 0755 "$parts/docker-entrypoint.sh"

cat >"$parts/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends busybox-static haproxy \
    && rm -rf /var/lib/apt/lists/* \
    && groupmod --gid 99 haproxy \
    && usermod --uid 99 --gid 99 haproxy \
    && ln -s /usr/sbin/haproxy /usr/local/sbin/haproxy \
    && mkdir -p /usr/local/etc/haproxy \
    && chown haproxy:haproxy /var/lib/haproxy
COPY docker-entrypoint.sh /usr/local/bin/
USER haproxy
WORKDIR /var/lib/haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
DOCKERFILE
docker build --tag "$image" "$parts"
