# Downloads Debian's pip from the archives that apt is configured for, and unpacks it into a
# directory. It installs nothing and needs no root: apt's package lists are kept in the same
# directory and removed at the end.
# $1: the absolute path of the directory.
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
