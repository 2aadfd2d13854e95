#!/bin/sh
# Make the Python environment of an image, /opt/venv, in the folder /build of its first stage.
#
#   environment.sh packages LOCK    PyTorch and what lock/LOCK.txt pins
#   environment.sh project          this project, from source/, and the lists of package_lists.sh
#
# TORCH and TORCH_INDEX name the build of PyTorch and an index that has it (empty: the one that pip
# is set up with). TORCH_PACKAGES=yes installs the CUDA libraries that it asks for, too.
set -eux
venv=/opt/venv

into_venv() {
    tools/bin/pip --python "$venv/bin/python" install --no-cache-dir --no-compile "$@"
}

case $1 in
packages)
    python="${PYTHON:-python3}"
    "$python" -m venv tools
    tools/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes -r lock/build.txt
    "$python" -m venv --without-pip "$venv"
    set -- "$2" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
    lock=$1
    shift
    [ "${TORCH_PACKAGES:-no}" = yes ] || set -- "$@" --no-deps
    into_venv "$@" "$TORCH"
    into_venv --no-deps --require-hashes -r "lock/$lock.txt"
    [ "$lock" = cuda ] || "$venv/bin/python" -c \
        'import sys, torch; sys.exit(torch.version.cuda and "this PyTorch is for CUDA")'
    ;;
project)
    tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./source
    into_venv --no-deps --no-index wheels/*.whl
    tools/bin/pip --python "$venv/bin/python" check
    sh package_lists.sh tools/bin "$venv" packages
    # The tests and C++ headers of PyTorch are not used.
    torch=$(echo "$venv"/lib/python3*/site-packages/torch)
    rm -rf "$torch"/test "$torch"/include "$torch"/bin/*est* "$torch"/bin/protoc*
    # Numba knows a source by the time of its file, which has to be the same in all later images.
    find "$venv" -exec touch --no-dereference --date=@1000000000 {} +
    "$venv/bin/python" -m compileall -q -j 0 -x /_internal/py312_ "$venv/lib"
    ;;
*)
    echo "environment.sh: packages and project are known, not $1" >&2
    exit 2
    ;;
esac
