# The cluster that make-secrets.sh and rotate-nats.sh work on: its directory of secrets with its
# lock, and its running containers. These scripts source this file.

compose=${COMPOSE:-docker-compose}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Prints the file from which Compose reads its settings.
env_file() {
    file=.env
    set -- $compose
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --env-file) file=${2:-} ;;
            --env-file=*) file=${1#*=} ;;
        esac
        shift
    done
    echo "$file"
}

# Prints the value of SECRETS_DIR in Compose's file of settings; nothing if it is not set there.
# Compose also expands variables and removes comments. Such a value is refused, because it would be
# another one here.
secrets_dir_in_env_file() {
    file=$(env_file)
    [ -e "$file" ] || return 0
    assignment='^[[:space:]]*(export[[:space:]]+)?SECRETS_DIR[[:space:]]*=[[:space:]]*'
    value=$(sed -nE "s/$assignment(.*[^[:space:]])?[[:space:]]*\$/\\2/p" "$file" | tail -n 1)
    case "$value" in
        \"*\" | \'*\')
            value=${value#?}
            value=${value%?}
            ;;
    esac
    case "$value" in
        *[!A-Za-z0-9_./+@%,-]*)
            fail "SECRETS_DIR in $file is '$value'; scripts understand a path of letters," \
                "digits and _./+@%,- there. Any other path can be set in the environment"
            ;;
    esac
    echo "$value"
}

# Prints the directory of secrets, which is the one that Compose mounts.
secrets_dir() {
    if [ -n "${SECRETS_DIR+set}" ]; then
        value=$SECRETS_DIR
    elif [ -n "${COMPOSE_ENV_FILES:-}" ]; then
        fail "scripts do not read COMPOSE_ENV_FILES: set SECRETS_DIR in the environment"
    else
        value=$(secrets_dir_in_env_file) || exit 1
    fi
    value=${value:-./secrets}
    case "$value" in
        *:*) fail "SECRETS_DIR is '$value'; it must not contain a colon, where Compose splits it" ;;
        /* | ./* | ../*) echo "$value" ;;
        *)
            fail "SECRETS_DIR is '$value'; it must start with /, ./ or ../, because Compose takes" \
                "anything else for the name of a volume"
            ;;
    esac
}

# Waits until no other script works on the secrets. The lock lasts as long as this process.
lock_secrets() {
    command -v flock >/dev/null || fail "flock is not installed: it is part of util-linux"
    exec 9>"$secrets/private/lock"
    flock -w 60 9 || fail "another make-secrets.sh or rotate-nats.sh still works on $secrets"
}

# Prints the names of the running containers of the services $*. Compose 1 also lists the others.
running() {
    containers=$($compose ps -q "$@") || return
    for container in $containers; do
        name=$(docker inspect --format '{{if .State.Running}}{{.Name}}{{end}}' "$container") ||
            return
        echo "${name#/}"
    done
}
