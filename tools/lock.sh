#!/bin/sh
# Write a file of pins from a clean environment: lock.sh TARGET FILE EXTRAS [PYTHON]
# TARGET is the make target that does so, EXTRAS are those of pyproject.toml, with commas.
# TORCH_INDEX in the environment adds an index for torch, as in the Makefile.
set -eu
target=$1 file=$2 extras=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tools/create_venv.sh "$folder/venv" "${4:-}"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check"
# shellcheck disable=SC2086  # the command's words
$pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$extras]" \
    async-timeout  # which redis needs up to Python 3.11.2, that is on Debian 12
{
    echo "# The versions that are installed and tested; \`make $target\` writes this file."
    # A local version (+cpu) names a build, not a release; CUDA's packages belong to other builds.
    # shellcheck disable=SC2086
    $pip freeze --exclude nightshift | sed 's/+cpu$//' | grep -v -E '^(nvidia-|cuda-|triton==)'
} > "$folder/pins"
cp "$folder/pins" "$file"
