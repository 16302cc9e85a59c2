# Builds a local stand-in for natsio/prometheus-nats-exporter:0.20.2, which suffices for
# compose/monitoring.yml: a script with the same command line that derives the same metrics from
# /varz and /healthz of a NATS server. It knows no other page of the server.
# $1: the name of the image to build.
image=$1
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

cat >"$parts/prometheus-nats-exporter" <<'SCRIPT'
#!/usr/bin/python3
"""Metrics of a NATS server, with the names that the exporter of the NATS project gives them."""
import argparse
import json
import signal
import sys
import threading
import urllib.error
import urllib.request
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Numbers that the exporter leaves out, and texts that it shows.
SKIPPED = {
    "leaf", "trusted_operators_claim", "cluster_tls_timeout", "cluster_cluster_port",
    "cluster_auth_timeout", "gateway_port", "gateway_auth_timeout", "gateway_tls_timeout",
    "gateway_connect_retries",
}
SHOWN = {
    "server_id", "server_name", "version", "domain", "leader", "name", "start",
    "config_load_time",
}

parser = argparse.ArgumentParser()
parser.add_argument("-varz", action="store_true")
parser.add_argument("-healthz", action="store_true")
parser.add_argument("-ri", type=int, help="accepted and not used: each scrape asks the server")
parser.add_argument("-port", type=int, default=7777)
parser.add_argument("url")
options = parser.parse_args()
server = options.url.rstrip("/")
# The values of the last answer: while the server does not answer, they stay.
known = {}
lock = threading.Lock()


def ask(page):
    """Returns the object at `page`, or None. A server that is not healthy says so with 503."""
    try:
        with urllib.request.urlopen(f"{server}/{page}") as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read()
    except OSError:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def series(name, number, **labels):
    labels = {"server_id": server, **labels}
    text = ",".join(f"{key}={json.dumps(label)}" for key, label in labels.items())
    return f"{name}{{{text}}}", number


def seconds(text):
    """Returns a time in seconds since 1970, or None if `text` is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def flatten(answer, path=()):
    """Yields the series of all numbers, and of some texts."""
    for key, value in answer.items():
        name = "_".join((*path, key)).replace("/", "_").strip("_")
        while "__" in name:
            name = name.replace("__", "_")
        full = f"gnatsd_varz_{name}"
        if isinstance(value, dict):
            yield from flatten(value, (*path, key))
        elif name in SKIPPED or isinstance(value, bool):
            continue
        elif isinstance(value, (int, float)):
            yield series(full, float(value))
        elif isinstance(value, str) and key in SHOWN:
            time = seconds(value)
            yield series(full, 1.0, value=value) if time is None else series(full, time)


def health():
    """Yields `status`, which is 0 if all is well and missing if there is no answer."""
    answer = ask("healthz")
    value = "unreachable" if answer is None else answer.get("status", "")
    is_well = value == "ok"
    if answer is not None:
        yield series("gnatsd_healthz_status", 0.0 if is_well else 1.0)
    yield series("gnatsd_healthz_status_value", 1.0 if is_well else 0.0, value=value)


def metrics():
    with lock:
        if options.varz:
            known.update(flatten(ask("varz") or {}))
        found = {**known, **dict(health() if options.healthz else ())}
    lines, typed = [], set()
    for key, number in sorted(found.items()):
        name = key.split("{")[0]
        if name not in typed:
            lines.append(f"# TYPE {name} gauge")
            typed.add(name)
        lines.append(f"{key} {number}")
    return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/metrics":
            self.send_error(404)
            return
        body = metrics().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", options.port), Handler).serve_forever()
SCRIPT
chmod 0755 "$parts/prometheus-nats-exporter"

# The first two instructions are those of stand-in-grafana.sh, so that both share the layer.
cat >"$parts/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update --quiet=2 \
    && apt-get install --quiet=2 --yes --no-install-recommends busybox-static python3 \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s "$(command -v busybox)" /usr/bin/wget
COPY prometheus-nats-exporter /usr/local/bin/
EXPOSE 7777
ENTRYPOINT ["/usr/local/bin/prometheus-nats-exporter"]
DOCKERFILE
docker build --tag "$image" "$parts"
