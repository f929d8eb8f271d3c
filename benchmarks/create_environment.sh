#!/bin/sh
# Create one peer's own environment from the package index: create_environment.sh NAME [PYTHON]
#
# NAME         vllm, openvino or llama_cpp: a file of pins in benchmarks/environments/
# TORCH_INDEX  an extra package index for torch, as for `make install` (default: none)
# An environment that was completed stays as it is; one that was cut short is made again.
set -eu
name=$1
here=$(cd "$(dirname "$0")" && pwd)
pins=$here/environments/$name.txt
target=$here/work/environments/$name
if [ ! -f "$pins" ]; then
    echo "There is no environment $name; choose one of:" >&2
    ls "$here/environments" | sed 's/\.txt$//' >&2
    exit 2
fi
if [ -f "$target/.complete" ] && cmp -s "$pins" "$target/.complete"; then
    exit 0
fi

"$here/../tools/create_venv.sh" "$target" ${2:+"$2"}
install() {
    nice "$target/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@"
}
# torch alone first: what comes after it shall find the CPU build and keep it.
torch=$(grep '^torch==' "$pins") || torch=
[ -z "$torch" ] || install "$torch"
install -r "$pins"
# Extensions of torch that a peer names as dependencies and that were built against another torch.
nice "$target/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
cp "$pins" "$target/.complete"
