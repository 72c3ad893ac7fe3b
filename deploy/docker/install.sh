#!/bin/sh
# Fills a virtual environment from a lock file, for an image: what runs, and none of what tests and lints.
#
# usage: deploy/docker/install.sh torch|cpu|cuda|build VENV    (reads deploy/locks and deploy/docker: code changes keep the layer)
# `torch` is the CPU build of it, which `cpu` needs and which changes seldom; `build` is what makes the project's own packages, and
# nothing else. deploy/setup.sh is the developers' side of this; it says why nothing is resolved.
set -eu
flavour=$1 venv=$2 lock=deploy/locks/cpu.lock only=
case "$flavour" in
  torch | cpu) ;;
  cuda) lock=deploy/locks/gpu.lock ;;
  build) only=setuptools ;;
  *) echo "install: torch, cpu, cuda or build, not $flavour" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A package's lines in the lock: `name==version \` and its hashes, indented.
awk -v drop="$(tr '\n' ' ' <deploy/docker/not-in-images.txt)" -v only="$only" '
  BEGIN { n = split(drop, names, " "); for (i = 1; i <= n; i++) unwanted[names[i]] = 1 }
  /^[A-Za-z0-9]/ { split($1, part, /==/); sub(/\[.*/, "", part[1]); skip = only ? part[1] != only : part[1] in unwanted }
  !skip' "$lock" >"$work/lock"

[ -x "$venv/bin/python" ] || python3.11 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
if [ "$flavour" = torch ]; then
  torch=$(sed -n 's/^# torch: //p' "$lock")
  pip install -q --no-deps "torch==$torch" 2>/dev/null ||
    pip install -q --no-deps "torch==$torch" --index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
  exit
fi
pip install -q --no-deps --require-hashes -r "$work/lock"
