#!/bin/sh
# Checks the Go client: its format, go vet, that it requires no other module, and all tests, with
# the race detector if there is a C compiler. The scenarios need target/debug/tickstorm, or the
# program that TICKSTORM names. `test.sh -short` leaves them out.
set -eu
cd "$(dirname "$0")"
export GOFLAGS=-mod=mod GOTOOLCHAIN=local GOPROXY=off

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
    echo "gofmt would change these files:" >&2
    echo "$unformatted" >&2
    exit 1
fi
if [ "$(go list -m all)" != tickstorm.dev/client ]; then
    echo "the module must not require others:" >&2
    go list -m all >&2
    exit 1
fi
go vet ./...
# The code for other systems, and for 32 bits, at least compiles.
for system in windows/amd64 linux/386; do
    GOOS=${system%/*} GOARCH=${system#*/} CGO_ENABLED=0 go vet ./...
done
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$(go env CC)" >/dev/null; then
    race=-race
fi
# -count=1: the vectors and the program are not part of what go test caches results by.
# shellcheck disable=SC2086
go test $race -count=1 -timeout 15m "$@" ./...
