#!/bin/sh
# List what an image has: package_lists.sh TOOLS VENV OUT
#
# OUT/sbom.cdx.json     packages of the environment, their licences and hashes (CycloneDX)
# OUT/audit.json        known vulnerabilities of them (pip-audit), and packages that its index does not
#                       have; absent if that did not answer
# OUT/audit.log         what pip-audit said at its end
# OUT/requirements.txt  packages and versions
# OUT/system.txt        Debian's packages of the base image
set -eu
tools=$1 venv=$2 out=$3
mkdir -p "$out"
"$tools/cyclonedx-py" environment --output-reproducible --output-format JSON \
    --output-file "$out/sbom.cdx.json" "$venv/bin/python"
"$tools/pip" --python "$venv/bin/python" list --format freeze >"$out/requirements.txt"
# Vulnerabilities are listed by release, not by build ("+cpu"); this package is not in an index.
sed -e 's/+.*//' -e '/^mri2qmap==/d' "$out/requirements.txt" >"$out/releases.txt"
# The authorities that the system trusts, which may be those of the site.
system=/etc/ssl/certs/ca-certificates.crt
[ ! -r "$system" ] || export REQUESTS_CA_BUNDLE="$system"
"$tools/pip-audit" --no-deps --disable-pip --progress-spinner off --format json \
    --requirement "$out/releases.txt" --output "$out/audit.json" 2>"$out/audit.all" || true
tail -n 1 "$out/audit.all" >"$out/audit.log"
rm "$out/releases.txt" "$out/audit.all"
[ -s "$out/audit.json" ] || rm -f "$out/audit.json"
dpkg-query --show >"$out/system.txt"
