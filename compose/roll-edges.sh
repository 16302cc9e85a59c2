#!/bin/sh
# Replaces all edges, one at a time, with edges of the current image and settings: use it for a
# rolling restart or an update. Each new edge is ready before an old one is drained, so that the
# number of edges never drops. Clients move to other edges and miss no tick.
#
#   ./roll-edges.sh                                 with docker-compose
#   COMPOSE="docker compose" ./roll-edges.sh        with the Compose 2 plugin
set -eu
cd "$(dirname "$0")"
compose=${COMPOSE:-docker-compose}
# 120 polls, 0.5 s apart. An edge is ready within seconds of its start: if it is not ready after a
# minute, something else is wrong.
polls_max=120

old_edges=$($compose ps -q edge)
count=$(echo "$old_edges" | wc -l)
for old in $old_edges; do
    known=$($compose ps -q edge)
    $compose up -d --no-deps --no-recreate --scale "edge=$((count + 1))" edge
    for edge in $($compose ps -q edge); do
        case "$known" in *"$edge"*) ;; *) new=$edge ;; esac
    done
    polls=0
    until docker exec "$new" /tickstorm-edge healthcheck --ready >/dev/null 2>&1; do
        polls=$((polls + 1))
        if [ "$polls" -gt "$polls_max" ]; then
            echo "the new edge $new is not ready (see: docker logs $new);" \
                "the remaining old edges keep running" >&2
            exit 1
        fi
        sleep 0.5
    done
    echo "draining $old"
    docker stop "$old" >/dev/null
    docker rm "$old" >/dev/null
done
