# The files of NATS logins, for make-secrets.sh and rotate-nats.sh, which source this file. They are
# described in deploy/nats-logins. $secrets is the directory of secrets.

new_password() {
    openssl rand -hex 24
}

# Writes standard input to the file $1 at once, so that no process reads a part of it. Nothing is
# written if it is empty, because the command before the pipe has failed.
replace() {
    cat >"$1.new"
    if [ ! -s "$1.new" ]; then
        rm "$1.new"
        echo "there is nothing to write to $1" >&2
        return 1
    fi
    mv "$1.new" "$1"
}

# The logins, by the names of the directories that have them: one for each clock, and one for all
# edges.
logins="clock-0 clock-1 clock-2 edge"

# Writes the users that may log in to NATS. Each line of standard input has one: which of $logins
# it is for, the user's name, and the password.
write_users() {
    {
        echo 'include "../nats/permissions.conf"'
        echo "users: ["
        while read -r login user password; do
            # NATS would let a user with an empty password log in without one.
            if [ -z "$password" ]; then
                # Without a user, $user is the password.
                echo "the login $login has no user or no password" >&2
                return 1
            fi
            # The names of the blocks in permissions.conf.
            case "$login" in
                clock-*) permissions="\$CLOCK_${login#clock-}" ;;
                edge) permissions='$EDGE' ;;
                *)
                    echo "there are no permissions for $login" >&2
                    return 1
                    ;;
            esac
            echo "  { user: \"$user\", password: \"$password\", permissions: $permissions }"
        done
        echo "]"
    } >"$secrets/nats-logins/users.conf.new"
    mv "$secrets/nats-logins/users.conf.new" "$secrets/nats-logins/users.conf"
}

# Writes the login of the NATS servers among each other, with the password $1.
write_routes() {
    replace "$secrets/nats-logins/routes.conf" <<CONFIG
authorization { user: route, password: "$1", timeout: 2 }
routes: [
  "nats://route:$1@nats-0:6222"
  "nats://route:$1@nats-1:6222"
  "nats://route:$1@nats-2:6222"
]
CONFIG
}
