#!/bin/sh
# Write constraints.txt from a clean environment: lock.sh [PYTHON]
# TORCH_INDEX in the environment adds an index for torch, as in the Makefile.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tools/create_venv.sh "$folder/venv" "${1:-}"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check"
# shellcheck disable=SC2086  # the command's words
$pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[worker,api,plot,dev,fuzz]' \
    async-timeout  # which redis needs up to Python 3.11.2, that is on Debian 12
{
    echo "# The versions that are installed and tested; \`make lock\` writes this file."
    # A local version (+cpu) names a build, not a release; CUDA's packages belong to other builds.
    # shellcheck disable=SC2086
    $pip freeze --exclude nightshift | sed 's/+cpu$//' | grep -v -E '^(nvidia-|cuda-|triton==)'
} > "$folder/constraints.txt"
cp "$folder/constraints.txt" constraints.txt
