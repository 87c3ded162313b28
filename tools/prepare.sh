#!/bin/sh
# Install, with apt-get, what is missing to make a virtual environment and to build python-lzo in it. Does nothing, and
# says nothing, where nothing is missing.
set -eu
python=${PYTHON:-python3}

fail() {
    echo "npdump: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "$python: not found; install Python 3.11 or later, or name one: make PYTHON=…"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version; npdump needs 3.11 or later: install one and name it, as in make PYTHON=python3.12"

missing=
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python$version-venv"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$include/Python.h" ] || missing="$missing python$version-dev"
if command -v gcc >/dev/null; then
    echo '#include <limits.h>' | gcc -E - >/dev/null 2>&1 || missing="$missing libc6-dev"
    echo '#include <lzo/lzo1x.h>' | gcc -E - >/dev/null 2>&1 || missing="$missing liblzo2-dev"
else
    missing="$missing gcc libc6-dev liblzo2-dev"
fi
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || fail "missing, by their names in Debian:$missing; install them and try again"
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    fail "missing:$missing; install them as root (apt-get install$missing) and try again"
fi
echo "npdump: installing these Debian packages with apt-get:$missing"
$as_root apt-get -qq update
# shellcheck disable=SC2086  # one word for each package
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $missing >/dev/null
