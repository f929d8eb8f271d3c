#!/bin/sh
# See that the programs exist from which the tests start their own servers and a browser; as root on
# Debian, install those that are missing. The tests never use a server that already runs.
set -eu
packages=
if ! command -v redis-server >/dev/null; then
    packages="redis-server"
fi
if ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    packages="$packages postgresql"
fi
if ! command -v chromium >/dev/null; then
    packages="$packages chromium"
fi
if [ -z "$packages" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need the programs of Redis, PostgreSQL and Chromium, and some are missing." >&2
    echo "Install them, on Debian with: apt-get install $packages" >&2
    exit 1
fi
echo "Installing for the tests: $packages"
apt-get update -qq
# shellcheck disable=SC2086  # one word per package
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages >/dev/null
