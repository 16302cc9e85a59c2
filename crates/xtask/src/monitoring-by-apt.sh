# Downloads Debian's Prometheus and Alertmanager from the archives that apt is configured for, and
# unpacks their programs into a directory. It installs nothing, starts no service and needs no root:
# apt's package lists are kept in the same directory and removed at the end.
# $1: the absolute path of the directory.
rm -rf "$1"
mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/unpacked" "$1/usr"
cd "$1"
apt() {
    apt-get --quiet=2 --option Dir::State::Lists="$PWD/lists" --option Dir::Cache="$PWD/cache" \
        --option APT::Sandbox::User=root "$@"
}
apt update
apt download prometheus prometheus-alertmanager
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
# At the end, since the programs are looked for here.
mv unpacked/usr/bin usr/bin
rm -rf lists cache unpacked ./*.deb
