#!/bin/sh
# Create a virtual environment: create_venv.sh FOLDER [PYTHON]
# Says what to install when there is no Python 3.11 or no venv module; as root it installs that.
set -eu
venv=$1

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in "${1:-python3.11}" "${1:-python3}"; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "Nightshift needs Python 3.11 or newer: install it, or say where: make PYTHON=…" >&2
    return 1
}

python=$(find_python "${2:-}")
if [ -x "$venv/bin/python" ] && is_new_enough "$venv/bin/python"; then
    exit 0
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$python has no venv module: install it, on Debian with: apt-get install $package" >&2
        exit 1
    fi
    echo "Installing $package, which $python needs to create $venv."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$package" >/dev/null
fi
"$python" -m venv --clear "$venv"
