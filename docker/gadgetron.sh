#!/bin/sh
# Start a Gadgetron server whose nodes run in the environment of MRI2Qmap:
#
#   gadgetron.sh [options of gadgetron]
#   gadgetron.sh --add-pipelines DEST WORKER
#       write the pipelines to its configurations, with the worker on the host WORKER, and one more,
#       mri2qmap_connect_pacs, that sends the maps to DEST
set -eu
venv=/opt/venv
conda=/opt/conda/envs/gadgetron
[ ! -d "$conda" ] || PATH=$conda/bin:$PATH
home=${GADGETRON_HOME:-$(dirname "$(dirname "$(command -v gadgetron)")")}
export GADGETRON_HOME="$home" PATH="$venv/bin:$PATH"
if [ "${1:-}" = --add-pipelines ]; then
    add() { # name, execute or connect, options
        file=$home/share/gadgetron/config/$1.xml
        shift
        "$venv/bin/mri2qmap" pipeline mri2qmap --for-server "$@" >"$file"
    }
    add mri2qmap_execute execute
    add mri2qmap_connect connect --address "$3"
    add mri2qmap_connect_pacs connect --address "$3" --set "parametric_maps.push=$2"
    exit
fi

# As the first process of a container, gadgetron would not hear SIGTERM.
told=''
trap 'told=yes; kill "$server" 2>/dev/null || true' TERM INT HUP
gadgetron "$@" &
server=$!
code=0
wait "$server" || code=$?
[ -z "$told" ] || exit 0
exit "$code"
