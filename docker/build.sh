#!/usr/bin/env bash
# Build a container image of this checkout.
#
#   docker/build.sh [cpu|cuda|gadgetron] [options] [-- options of the builder]
#
#   -b, --base IMAGE    base image, instead of that of the Dockerfile
#   -t, --tag NAME      name of the image (default: mri2qmap:cpu, ...)
#   -o, --output FOLDER where the lists of packages go (default: dist/image-cpu, ...)
#
# The builder is docker, podman or buildah, whichever is there; BUILDER names one. Behind "--" are
# its own options, such as --build-arg TORCH_INDEX=... or --volume. The lists, which are in the image
# too, are described in docker/package_lists.sh; the size of the image is in size.txt.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

fail() {
    echo "docker/build.sh: $*" >&2
    exit 2
}

kind=cpu
if [[ ${1:-} =~ ^[a-z]+$ ]]; then
    kind=$1
    shift
fi
dockerfile=docker/Dockerfile.$kind
[[ -f $dockerfile ]] || fail "there is no $dockerfile; cpu, cuda and gadgetron are known"
base='' tag=mri2qmap:$kind output=dist/image-$kind
while (($#)) && [[ $1 != -- ]]; do
    (($# > 1)) || fail "$1: a value is expected; the head of this file has the options"
    case $1 in
    -b | --base) base=$2 ;;
    -t | --tag) tag=$2 ;;
    -o | --output) [[ $2 == /* ]] && output=$2 || output=$here/$2 ;;
    *) fail "$1 is not known; the head of this file has the options" ;;
    esac
    shift 2
done
(($# == 0)) || shift

if [[ -z ${BUILDER:-} ]]; then
    for BUILDER in docker podman buildah ''; do
        ! command -v "$BUILDER" >/dev/null || break
    done
    [[ -n $BUILDER ]] || fail "docker, podman or buildah is needed"
fi

# The version as setuptools-scm has it: that of the tag, or of the next release with commits since.
version() {
    local described last rest
    if described=$(git describe --tags --long --match '*[0-9].[0-9]*' 2>/dev/null); then
        rest=${described%-*}
        last=${rest%-*} rest=${rest##*-}
        last=${last#v}
        [[ $rest != 0 ]] || { echo "$last" && return; }
        echo "${last%.*}.$((${last##*.} + 1)).dev$rest+${described##*-}"
    else
        echo "0.1.0.dev$(git rev-list --count HEAD)+g$(git rev-parse --short=8 HEAD)"
    fi
}

version=0.1.0.dev0 revision='' created=''
if git rev-parse --verify --quiet HEAD >/dev/null; then
    version=$(version)
    revision=$(git rev-parse HEAD)
    created=$(git log -1 --format=%cI)
    if [[ -n $(git status --porcelain) ]]; then
        echo "docker/build.sh: the image has changes that are not committed" >&2
        version+=$([[ $version == *+* ]] && echo . || echo +)changed
        revision+=-changed
    fi
fi
if [[ ! -f gadgets/mri2qmap/report/viewer.js ]]; then
    echo "docker/build.sh: without the viewer ('make viewer'), reports have fixed slices" >&2
fi

build=("$BUILDER" build)
[[ $BUILDER == docker ]] || build+=(--format docker) # that of OCI has no health check
[[ $BUILDER != *buildah ]] || build[1]=bud
"${build[@]}" --file "$dockerfile" --tag "$tag" --build-arg "VERSION=$version" \
    --build-arg "REVISION=$revision" --build-arg "CREATED=$created" \
    ${base:+--build-arg "BASE=$base"} "$@" .

mkdir -p "$output"
if [[ $BUILDER == *buildah ]]; then
    container=$("$BUILDER" from --pull-never "$tag")
    trap '"$BUILDER" rm "$container" >/dev/null' EXIT
    cp -r "$("$BUILDER" mount "$container")/opt/mri2qmap/packages/." "$output"
    size=$("$BUILDER" images --format '{{.Size}}' "$tag")
else
    container=$("$BUILDER" create "$tag")
    trap '"$BUILDER" rm "$container" >/dev/null' EXIT
    "$BUILDER" cp "$container:/opt/mri2qmap/packages/." "$output"
    size=$("$BUILDER" image inspect --format '{{.Size}}' "$tag" | numfmt --to=si --suffix=B)
fi
echo "$size" >"$output/size.txt"
audit="no audit, as the index of vulnerabilities did not answer ($output/audit.log)"
if [[ -f $output/audit.json ]]; then
    count() { { grep -o "\"$1\":" "$output/audit.json" || true; } | wc -l; }
    audit="$(count id) known vulnerabilities in $(count vulns) packages"
    audit+=", $(count skip_reason) packages that the index of vulnerabilities does not have"
fi
echo "$tag: version $version, $size; $audit; lists of packages in $output"
