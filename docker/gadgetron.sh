#!/bin/sh
# Start a Gadgetron server whose nodes run in the environment of MRI2Qmap:
#
#   gadgetron.sh [options of gadgetron]
#   gadgetron.sh --add-pipelines DEST    copy the pipelines to its configurations, and one more,
#                                        mri2qmap_connect_pacs, that sends the maps to DEST
set -eu
venv=/opt/venv
conda=/opt/conda/envs/gadgetron
[ ! -d "$conda" ] || PATH=$conda/bin:$PATH
home=${GADGETRON_HOME:-$(dirname "$(dirname "$(command -v gadgetron)")")}
export GADGETRON_HOME="$home" PATH="$venv/bin:$PATH"
if [ "${1:-}" = --add-pipelines ]; then
    cd "$("$venv/bin/python" -c 'import mri2qmap as m; print(*m.__path__)')/_pipelines"
    cp mri2qmap_connect.xml mri2qmap_execute.xml "$home/share/gadgetron/config/"
    "$venv/bin/mri2qmap" pipeline --for-server connect mri2qmap.xml \
        --set "parametric_maps.push=$2" -o "$home/share/gadgetron/config/mri2qmap_connect_pacs.xml"
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
