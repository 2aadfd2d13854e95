#!/usr/bin/env bash
# Builds the OpenRecon package, a zip file with the saved image and its PDF, by docker, podman or buildah.
set -euo pipefail

usage() {
    cat <<'END'
usage: docker/build_openrecon.sh [options]
  -b IMAGE    image that has mri2qmap (default: mri2qmap:cpu, see docker/Dockerfile.cpu)
  -t TARGET   package, root or cuda118 (default: package), see docker/openrecon/Dockerfile
  -p TOML     what differs in the label (default: none; with cuda118 docker/openrecon/cuda118.toml)
  -o FOLDER   where the package is written to (default: the working folder)
  -i TAR      pack this saved image, and build none
  -n          say what would be done, and do nothing
environment:
  MRI2QMAP       command that makes label, PDF and zip; of the version that IMAGE has (default: mri2qmap)
  ENGINE         docker, podman or buildah (default: the first one that works)
  BUILD_OPTIONS  more options of its build, for example "--isolation chroot"
END
}

fail() {
    echo "$0: $*" >&2
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=mri2qmap:cpu target=package description='' output=. saved='' dry=''
while getopts b:t:p:o:i:nh option; do
    case $option in
        b) base=$OPTARG ;;
        t) target=$OPTARG ;;
        p) description=$OPTARG ;;
        o) output=$OPTARG ;;
        i) saved=$OPTARG ;;
        n) dry=1 ;;
        h) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
done
[[ $OPTIND -gt $# ]] || fail "unknown argument ${*:OPTIND:1}; -h lists the options"
case $target in
    package | root) ;;
    cuda118) description=${description:-$here/openrecon/cuda118.toml} ;;
    *) fail "target $target: package, root or cuda118 is expected" ;;
esac

mri2qmap=${MRI2QMAP:-mri2qmap}
command -v "$mri2qmap" >/dev/null || fail "$mri2qmap is not found: install this checkout, or set MRI2QMAP"
part() {
    "$mri2qmap" openrecon ${description:+--package "$description"} "$@"
}

engine_that_works() {
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        echo docker
    elif command -v podman >/dev/null; then
        echo podman
    elif command -v buildah >/dev/null; then
        echo buildah
    fi
}

# The public build of packages refuses Docker 25 and later, whose saved images have another layout.
warn_of_new_docker() {
    local version
    version=$(docker version --format '{{.Server.Version}}')
    [[ ${version%%.*} -lt 25 ]] || echo "$0: hosts may expect an image saved by Docker before 25, and this is $version" >&2
}

run() {
    if [[ -n $dry ]]; then
        printf '%.200s\n' "$*"
    else
        "$@"
    fi
}

engine=''
if [[ -z $saved ]]; then
    engine=${ENGINE:-$(engine_that_works)}
    case $engine in
        docker | podman | buildah) ;;
        '') fail "neither docker, podman nor buildah works here; -i TAR packs an image built elsewhere" ;;
        *) fail "ENGINE=$engine: docker, podman or buildah is expected" ;;
    esac
fi
made=$(part build) || exit
{ read -r name && read -r image && read -r label; } <<<"$made"
echo "package $name.zip"
[[ ! -e $output/$name.zip ]] || fail "$output/$name.zip exists already; remove it, or give another folder"
if [[ -n $engine ]]; then
    scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/openrecon.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    saved=$scratch/$name.tar
    read -ra more <<<"${BUILD_OPTIONS:-}"
    if [[ $engine == docker ]]; then warn_of_new_docker; else more+=(--format docker); fi
    case $engine in
        docker) save=(save -o "$saved" "$image") ;;
        podman) save=(save --format docker-archive -o "$saved" "$image") ;;
        buildah) save=(push "$image" "docker-archive:$saved:$image") ;;
    esac
    run "$engine" build --target "$target" --tag "$image" "${more[@]}" --build-arg "BASE=$base" \
        --build-arg "LABEL=$label" --file "$here/openrecon/Dockerfile" "$here/openrecon"
    run "$engine" "${save[@]}"
fi
if [[ -n $dry ]]; then
    echo "$mri2qmap openrecon zip --image $saved -o $output"
else
    part zip --image "$saved" -o "$output"
fi
