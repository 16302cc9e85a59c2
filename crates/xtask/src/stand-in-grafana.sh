# Builds a local stand-in for grafana/grafana:12.4.0. It is no Grafana: it shows no dashboard and
# runs no query. It only starts if what compose/monitoring.yml provides is where Grafana reads it,
# and answers the health check.
# $1: the name of the image to build.
image=$1
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

cat >"$parts/grafana" <<'SCRIPT'
#!/usr/bin/python3
"""Checks the files that Grafana would read, and answers its health check."""
import json
import os
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROVISIONING = Path("/etc/grafana/provisioning")
DATA = Path("/var/lib/grafana")


def check():
    """Ends the program with the first thing that is wrong."""
    if not os.environ.get("GF_SECURITY_ADMIN_PASSWORD"):
        sys.exit("GF_SECURITY_ADMIN_PASSWORD is not set")
    if not os.access(DATA, os.W_OK):
        sys.exit(f"{DATA} is not writable")
    for kind in ("datasources", "dashboards"):
        files = sorted((PROVISIONING / kind).glob("*.yml"))
        if not files:
            sys.exit(f"there is no file in {PROVISIONING / kind}")
        for file in files:
            text = file.read_text()
            if "apiVersion: 1\n" not in text:
                sys.exit(f"{file} has no apiVersion")
            for path in re.findall(r"\bpath: *([^ ,}\n]+)", text):
                check_dashboards(Path(path))


def check_dashboards(directory):
    if not directory.is_dir():
        sys.exit(f"there is no directory {directory}")
    uids = [json.loads(file.read_text())["uid"] for file in sorted(directory.glob("*.json"))]
    if len(set(uids)) < len(uids):
        sys.exit(f"dashboards in {directory} share a uid: {uids}")
    print(f"dashboards in {directory}: {uids}", flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/api/health":
            self.send_error(404)
            return
        body = b'{"database": "ok", "version": "stand-in"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
check()
ThreadingHTTPServer(("", 3000), Handler).serve_forever()
SCRIPT
chmod 0755 "$parts/grafana"

# The first two instructions are those of stand-in-nats-exporter.sh, so that both share the layer.
cat >"$parts/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends busybox-static python3 \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s "$(command -v busybox)" /usr/bin/wget
RUN mkdir -p /var/lib/grafana && chown 472:472 /var/lib/grafana
COPY grafana /usr/local/bin/
USER 472:472
EXPOSE 3000
ENTRYPOINT ["/usr/local/bin/grafana"]
DOCKERFILE
docker build --tag "$image" "$parts"
