# Unpacks Debian's pip, from the archives that this machine's apt knows. It installs nothing, and takes nobody's rights: apt's lists go
# into the same directory, and away at the end.
# $1: the directory, by an absolute path.
mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
cd "$1"
apt() {
    apt-get --quiet=2 --option Dir::State::Lists="$PWD/lists" --option Dir::Cache="$PWD/cache" \
        --option APT::Sandbox::User=root "$@"
}
apt update
apt download python3-pip-whl
dpkg-deb -x python3-pip-whl_*.deb .
rm -rf lists cache python3-pip-whl_*.deb
