#!/bin/sh
# Replaces the passwords with which clocks, edges and NATS servers log in to NATS, while everything
# runs, in a cluster with tls.yml. No client is disconnected or misses a tick: clocks and edges
# reconnect to NATS within a second, and edges keep the time meanwhile.
#
#   ./rotate-nats.sh                                with docker-compose
#   COMPOSE="docker compose" ./rotate-nats.sh       with the Compose 2 plugin
#
# If it is interrupted or fails, run it again: it continues with the same new passwords. If clocks
# or edges do not connect with the new passwords, it makes the old ones valid again.
#
# SECRETS_DIR, in the environment or in .env, is the directory that make-secrets.sh has written to
# (./secrets). Needs flock.
set -eu
cd "$(dirname "$0")"
. ./cluster.sh
secrets=$(secrets_dir) || exit 1
. ./nats-logins.sh
# 120 polls, 0.5 s apart. Each step takes a few seconds, and at most 5 s longer if a clock or an
# edge has been refused and waits before it tries again.
polls_max=120
umask 022

# Polls until the command $2... succeeds; $1 says what that means.
wait_until() {
    what=$1
    shift
    polls=0
    until "$@"; do
        polls=$((polls + 1))
        if [ "$polls" -gt "$polls_max" ]; then
            fail "waited in vain until $what; run this script again when that is mended"
        fi
        sleep 0.5
    done
}

# Prints the answer of the monitoring port of the NATS server $1 to the path $2.
monitor() {
    docker exec "$1" busybox wget -qO- "http://127.0.0.1:8222/$2"
}

# Prints the time at which the NATS server $1 last read its configuration; fails if it is not known.
load_time() {
    monitor "$1" varz | grep '"config_load_time"'
}

has_reloaded() {
    loaded=$(load_time "$1") && [ "$loaded" != "$2" ]
}

# Makes the NATS servers $* read their configuration again, all at the same time.
reload() {
    for server in "$@"; do
        load_time "$server" >"$work/loaded.$server" ||
            fail "$server does not say when it last read its logins (see: docker logs $server)"
    done
    for server in "$@"; do
        docker kill -s HUP "$server" >/dev/null
    done
    for server in "$@"; do
        wait_until "$server has read its new logins (see: docker logs $server)" \
            has_reloaded "$server" "$(cat "$work/loaded.$server")"
    done
}

# Prints how many connections the NATS servers $1 have from all of the users $2 together; fails if
# one of the servers does not answer.
connections() {
    for server in $1; do
        monitor "$server" "connz?auth=1&limit=10000" || return
    done >"$work/connections"
    count=0
    for user in $2; do
        of_user=$(grep -c "\"authorized_user\": \"$user\"" "$work/connections" || true)
        count=$((count + of_user))
    done
    echo "$count"
}

are_connected() {
    count=$(connections "$servers" "$2") && [ "$count" -ge "$1" ]
}

have_left() {
    count=$(connections "$1" "$2") && [ "$count" -eq 0 ]
}

# Waits until every clock and every edge is connected, as one of the users $1 and $2.
await_connections() {
    wait_until "all $clocks clocks are connected to NATS" are_connected "$clocks" "$1"
    wait_until "all $edges edges are connected to NATS" are_connected "$edges" "$2"
}

# Returns whether the NATS server $1 is connected to all others.
has_routes() {
    others=$(monitor "$1" routez | grep -o '"remote_name": "[^"]*"' | sort -u | wc -l)
    [ "$others" -eq "$((servers_count - 1))" ]
}

is_ready() {
    docker exec "$1" "$2" healthcheck --ready >/dev/null 2>&1
}

[ -e "$secrets/nats-logins/routes.conf" ] ||
    fail "there are no logins in $secrets: run ./make-secrets.sh," \
        "and start the cluster with tls.yml"
lock_secrets
work=$(mktemp -d)
trap 'end' EXIT
trap 'exit 1' HUP INT TERM
# Whether NATS servers may have removed logins that clocks and edges still use.
removing=false

# Removes temporary files, and makes the old logins valid again if the rotation has failed. Neither
# an error nor a signal keeps it from what is left to do.
end() {
    set +e
    trap '' HUP INT TERM
    rm -rf "$work"
    [ "$removing" = true ] || return 0
    echo "rotate-nats.sh: the old logins are made valid again" >&2
    cat "$rotation"/*.old "$rotation"/*.new | write_users ||
        echo "rotate-nats.sh: could not write $secrets/nats-logins/users.conf" >&2
    for server in $servers; do
        docker kill -s HUP "$server" >/dev/null ||
            echo "rotate-nats.sh: could not make $server read its logins again" >&2
    done
}

servers=$(running nats-0 nats-1 nats-2)
servers_count=$(echo "$servers" | wc -w)
clock_containers=$(running clock-0 clock-1 clock-2)
edge_containers=$(running edge)
clocks=$(echo "$clock_containers" | wc -w)
edges=$(echo "$edge_containers" | wc -w)
[ "$servers_count" -eq 3 ] || fail "only $servers_count of 3 NATS servers run: start the others"
for server in $servers; do
    docker exec "$server" cat /etc/nats-logins/users.conf |
        cmp -s - "$secrets/nats-logins/users.conf" ||
        fail "$server does not use the logins in $secrets: start the cluster with tls.yml"
done
for daemon in $clock_containers $edge_containers; do
    docker inspect --format '{{json .Config.Env}}' "$daemon" | grep -q '"NATS_PASSWORD_FILE=' ||
        fail "$daemon has no NATS_PASSWORD_FILE: start the cluster with tls.yml"
done

# The old and the new logins are on disk until the end, so that an interrupted rotation continues.
rotation=$secrets/private/rotation
if [ -e "$rotation" ]; then
    echo "continuing an interrupted rotation"
else
    rm -rf "$rotation.new" "$rotation.done"
    mkdir "$rotation.new"
    for login in $logins; do
        user=$(cat "$secrets/$login/nats-user")
        case "$user" in
            *-b) next=${user%-b} ;;
            *) next=$user-b ;;
        esac
        echo "$login $user $(cat "$secrets/$login/nats-password")" >"$rotation.new/$login.old"
        password=$(new_password)
        echo "$login $next $password" >"$rotation.new/$login.new"
    done
    new_password | replace "$rotation.new/route-password"
    mv "$rotation.new" "$rotation"
fi
# Prints the users of the files $*.
users_of() {
    cut -d ' ' -f 2 "$@" | paste -s -d ' ' -
}

old_clocks=$(users_of "$rotation"/clock-*.old)
new_clocks=$(users_of "$rotation"/clock-*.new)
old_edge=$(users_of "$rotation/edge.old")
new_edge=$(users_of "$rotation/edge.new")

echo "adding the users $new_clocks $new_edge beside $old_clocks $old_edge"
cat "$rotation"/*.old "$rotation"/*.new | write_users
reload $servers

echo "giving them to clocks and edges"
# Read at the next connection. The user comes last: both are new if the user is.
for login in $logins; do
    read -r _ user password <"$rotation/$login.new"
    echo "$password" | replace "$secrets/$login/nats-password"
    echo "$user" | replace "$secrets/$login/nats-user"
done

# Nothing is removed before all are connected, with the old logins or the new ones.
await_connections "$old_clocks $new_clocks" "$old_edge $new_edge"
removing=true
cat "$rotation"/*.new | write_users
for server in $servers; do
    echo "removing $old_clocks $old_edge from $server"
    # Disconnects those that use them. They reconnect with the new logins, to any server.
    reload "$server"
    wait_until "$server has disconnected $old_clocks $old_edge" \
        have_left "$server" "$old_clocks $old_edge"
    await_connections "$old_clocks $new_clocks" "$old_edge $new_edge"
done
removing=false

echo "changing the password of the NATS servers among each other"
# There is one for all, so servers are apart for the second or two until all have read it. Clocks
# and edges that are connected to the same server hear each other, and an edge that hears no clock
# keeps the time.
write_routes "$(cat "$rotation/route-password")"
reload $servers
for server in $servers; do
    wait_until "$server is connected to the others" has_routes "$server"
done

await_connections "$new_clocks" "$new_edge"
wait_until "no NATS server has a connection of $old_clocks $old_edge" \
    have_left "$servers" "$old_clocks $old_edge"
for clock in $clock_containers; do
    wait_until "$clock is ready" is_ready "$clock" /tickstorm-clock
done
for edge in $edge_containers; do
    wait_until "$edge is ready" is_ready "$edge" /tickstorm-edge
done
replace "$secrets/private/route-password" <"$rotation/route-password"
mv "$rotation" "$rotation.done"
rm -rf "$rotation.done"
echo "done: clocks log in as $new_clocks and edges as $new_edge; the old passwords are refused"
