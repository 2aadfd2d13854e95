#!/usr/bin/env bash
# Pin what the images install, with hashes: docker/lock.sh [--upgrade]
#
# Run it with the Python release of the base image, after a change of pyproject.toml and when
# packages are to be updated. It needs pip-tools on the PATH. PyTorch is not in the lock files, nor
# are the CUDA libraries that some of its builds ask for: each image has its own build, which TORCH
# in its Dockerfile pins. Its build for CPUs has to be found here: name an index that has it in
# PIP_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
    local file=$1
    shift
    pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
        --no-emit-trusted-host --no-emit-options --no-header --no-annotate \
        --output-file "$file" "$@"
    sed -i -e '/^#/d' -e '1i # Made by docker/lock.sh.' "$file"
}

upgrade=("$@")
torch=$(sed -n 's/^ARG TORCH=//p' docker/Dockerfile.cpu)
for image in cpu:pacs cuda:pacs,gpu; do
    compile "docker/lock/${image%:*}.txt" "${upgrade[@]}" --extra "${image#*:}" \
        --unsafe-package torch --constraint <(echo "$torch") pyproject.toml
done
compile docker/lock/build.txt "${upgrade[@]}" --allow-unsafe docker/lock/build.in
if grep -E '^(nvidia-|triton)' docker/lock/cpu.txt; then
    echo "docker/lock.sh: this is for a build of PyTorch for CUDA; name an index of one for CPUs" >&2
    exit 1
fi
