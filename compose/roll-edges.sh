#!/bin/sh
# Replaces the edges one after the other by new ones, of the image and the settings that there are now: a rolling restart, and the way to an
# update. A new one is ready before an old one is drained, so that there are never fewer. Clients move and miss nothing.
#
#   ./roll-edges.sh                                 with docker-compose
#   COMPOSE="docker compose" ./roll-edges.sh        with Compose 2 as a plugin
set -eu
cd "$(dirname "$0")"
compose=${COMPOSE:-docker-compose}
# An edge is ready within seconds of its start; one that is not in a minute has another reason.
looks_max=120

old_edges=$($compose ps -q edge)
count=$(echo "$old_edges" | wc -l)
for old in $old_edges; do
    known=$($compose ps -q edge)
    $compose up -d --no-deps --no-recreate --scale "edge=$((count + 1))" edge
    for edge in $($compose ps -q edge); do
        case "$known" in *"$edge"*) ;; *) new=$edge ;; esac
    done
    looks=0
    until docker exec "$new" /tickstorm-edge healthcheck --ready >/dev/null 2>&1; do
        looks=$((looks + 1))
        if [ "$looks" -gt "$looks_max" ]; then
            echo "the new edge $new is not ready: docker logs $new; the old ones run on" >&2
            exit 1
        fi
        sleep 0.5
    done
    echo "draining $old"
    docker stop "$old" >/dev/null
    docker rm "$old" >/dev/null
done
