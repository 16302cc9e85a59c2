#!/bin/sh
# Makes everything that tls.yml needs: a certificate authority, certificates, the key of device
# cookies, and the logins for NATS, one for each clock and one for all edges. Run it again to renew
# the certificates: all else stays, edges use the new certificate for new connections within a
# second, and NATS servers that run are told to read theirs. No connection is closed.
#
#   ./make-secrets.sh                          the edges' certificate is valid for this machine
#   ./make-secrets.sh ticks.example 192.0.2.7  and for these names and addresses, which are
#                                              remembered
#
# Needs OpenSSL 1.1.1 or later, and flock. SECRETS_DIR, in the environment or in .env, is the
# directory to write to (./secrets). COMPOSE is as in roll-edges.sh.
set -eu
cd "$(dirname "$0")"
. ./cluster.sh
secrets=$(secrets_dir) || exit 1
. ./nats-logins.sh
authority_days=3650
# Renew certificates at two thirds of this time.
days=90

# Containers run as user 65532, and without root on this machine no file can be given to that user.
# So the files in mounted directories are readable for everybody, and the directory above them is
# closed to everybody else: a container gets in through its mount, and other users of this machine
# do not.
umask 022
mkdir -p "$secrets"
chmod 700 "$secrets"
mkdir -p "$secrets/private" "$secrets/nats-tls" "$secrets/nats-logins"
for login in $logins; do mkdir -p "$secrets/$login"; done
chmod 700 "$secrets/private"
lock_secrets
new=$(mktemp -d "$secrets/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
# Before the first run has ended, no server can use these files.
if [ -e "$secrets/nats-logins/routes.conf" ]; then renewing=true; else renewing=false; fi

# Runs openssl, and prints its messages only if it fails.
run_openssl() {
    if ! openssl "$@" >"$new/openssl.log" 2>&1; then
        cat "$new/openssl.log" >&2
        echo "openssl $1 failed" >&2
        exit 1
    fi
}

new_key() {
    run_openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

label='[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
octet='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'

# Prints the subject alternative name of the host name or IP address $1; fails if it is neither.
alternative_name() {
    case "$1" in
        "" | *[!A-Za-z0-9.:*-]*) return 1 ;;
        *:*)
            # Only OpenSSL knows all forms of an IPv6 address.
            openssl req -new -key "$new/trial.key" -subj /CN=trial \
                -addext "subjectAltName = IP:$1" >/dev/null 2>&1 || return 1
            echo "IP:$1"
            ;;
        # The last label of a host name has a letter, and no part of an IPv4 address has one.
        *[A-Za-z]*)
            echo "${1##*.}" | grep -q '[A-Za-z]' || return 1
            [ "${#1}" -le 253 ] || return 1
            echo "$1" | grep -Eq "^(\\*\\.)?($label\\.)*$label\$" || return 1
            echo "DNS:$1"
            ;;
        *)
            echo "$1" | grep -Eq "^($octet\\.){3}$octet\$" || return 1
            echo "IP:$1"
            ;;
    esac
}

if [ "$#" -gt 0 ]; then
    new_key "$new/trial.key"
    for name in "$@"; do
        if ! alternative_name "$name"; then
            echo "make-secrets.sh: '$name' is neither a host name nor an IP address" >&2
            exit 64
        fi
    done >"$new/names"
fi

if [ ! -e "$secrets/ca.crt" ]; then
    new_key "$new/ca.key"
    chmod 600 "$new/ca.key"
    cat >"$new/ca.cnf" <<CONFIG
[req]
distinguished_name = name
x509_extensions = extensions
[name]
[extensions]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONFIG
    run_openssl req -new -x509 -config "$new/ca.cnf" -key "$new/ca.key" -sha256 \
        -days "$authority_days" -subj "/CN=TickStorm authority" -out "$new/ca.crt"
    # The certificate comes last: if it exists, there has been a key.
    mv "$new/ca.key" "$secrets/private/ca.key"
    mv "$new/ca.crt" "$secrets/ca.crt"
elif [ ! -e "$secrets/private/ca.key" ]; then
    # A new authority would not be trusted by clients.
    echo "$secrets/private/ca.key is missing: put the key of $secrets/ca.crt back" >&2
    exit 1
fi

# Makes $1.crt and $1.key for the extended key usages $2 and, if they are given, the subject
# alternative names $3.
new_certificate() {
    new_key "$new/$1.key"
    run_openssl req -new -key "$new/$1.key" -subj "/CN=$1" -out "$new/$1.csr"
    {
        echo "basicConstraints = critical, CA:FALSE"
        echo "keyUsage = critical, digitalSignature"
        echo "extendedKeyUsage = $2"
        if [ -n "${3:-}" ]; then echo "subjectAltName = $3"; fi
    } >"$new/$1.cnf"
    run_openssl x509 -req -in "$new/$1.csr" -CA "$secrets/ca.crt" \
        -CAkey "$secrets/private/ca.key" -set_serial "0x$(openssl rand -hex 16)" -sha256 \
        -days "$days" -extfile "$new/$1.cnf" -out "$new/$1.crt"
}

# Puts a certificate and its key in place: $1.crt and $1.key as $2.crt and $2.key.
install_certificate() {
    # OpenSSL makes keys that only their owner can read.
    chmod 644 "$new/$1.key"
    mv "$new/$1.key" "$2.key"
    mv "$new/$1.crt" "$2.crt"
}

install_authority() {
    cp "$secrets/ca.crt" "$new/copy.crt"
    mv "$new/copy.crt" "$1"
}

names="DNS:localhost,IP:127.0.0.1,IP:::1,DNS:haproxy,DNS:edge"
for file in "$new/names" "$secrets/names"; do
    if [ -e "$file" ]; then
        names="$names,$(paste -sd, "$file")"
        break
    fi
done

new_certificate edge serverAuth "$names"
install_certificate edge "$secrets/edge/tls"
# Remembered only now: a name that OpenSSL refuses would make every later run fail.
if [ -e "$new/names" ]; then mv "$new/names" "$secrets/names"; fi
# Servers also present their certificate to each other.
new_certificate nats serverAuth,clientAuth "DNS:nats-0,DNS:nats-1,DNS:nats-2,DNS:localhost"
install_authority "$secrets/nats-tls/ca.crt"
install_certificate nats "$secrets/nats-tls/tls"
for login in $logins; do
    new_certificate "$login" clientAuth
    install_authority "$secrets/$login/nats-ca.crt"
    install_certificate "$login" "$secrets/$login/nats"
done

# A new key would make every client unknown to the edges.
if [ ! -e "$secrets/edge/cookie-key" ]; then
    openssl rand -hex 32 | replace "$secrets/edge/cookie-key"
fi

# Each login is made once; rotate-nats.sh replaces them. The password comes last: if it exists, so
# does the user.
for login in $logins; do
    if [ ! -e "$secrets/$login/nats-password" ]; then
        echo "$login" | replace "$secrets/$login/nats-user"
        new_password | replace "$secrets/$login/nats-password"
    fi
done
# An interrupted rotation still needs the old logins and the new ones.
if [ ! -e "$secrets/private/rotation" ]; then
    for login in $logins; do
        echo "$login $(cat "$secrets/$login/nats-user") $(cat "$secrets/$login/nats-password")"
    done | write_users
fi
# routes.conf comes last: if it exists, so does everything else.
if [ ! -e "$secrets/nats-logins/routes.conf" ]; then
    new_password | replace "$secrets/private/route-password"
    write_routes "$(cat "$secrets/private/route-password")"
fi

# Why servers that run may still use their old certificate.
untold=
if [ "$renewing" = true ]; then
    if servers=$(running nats-0 nats-1 nats-2 2>"$new/running.log"); then
        for server in $servers; do
            docker kill -s HUP "$server" >/dev/null || untold="$untold $server"
        done
        untold=${untold:+"docker kill failed for$untold"}
    else
        untold="could not find out which of them run: $(cat "$new/running.log")"
    fi
fi

echo "The secrets are in $secrets. The certificates are valid for $days days; the edges' is for"
echo "$names."
echo "A client that trusts them: tickstorm tail --tls --tls-ca $secrets/ca.crt"
if [ -n "$untold" ]; then
    fail "NATS servers were not told to read their new certificate: $untold
When that is fixed, run this script again."
fi
