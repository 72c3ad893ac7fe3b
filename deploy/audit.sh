#!/usr/bin/env bash
# Looks up every package of a lock file in the advisories of PyPI (or OSV), with pip-audit in a venv of its own. Installs none of them.
#
# usage: deploy/audit.sh [cpu|gpu] [list]      AUDIT_SERVICE=osv asks osv.dev; AUDIT_ONLY='grpcio|jinja2' looks at some packages only
# `list` shows what would be looked up. Needs the network: https://pypi.org/pypi/NAME/VERSION/json. Exit 0: nothing known; 1: advisories, or they could not be asked for; 2: wrong usage.
# What has been looked at and does not concern us is in deploy/audit-accepted.txt, each with a reason and a day on which to look again.
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=${1:-cpu}
lock=deploy/locks/$flavour.lock
accepted=deploy/audit-accepted.txt
[ -f "$lock" ] || { echo "audit: no lock file $lock: give cpu or gpu" >&2; exit 2; }

ignored=()
while read -r id until reason; do
  case $id in '' | '#'*) continue ;; esac
  [ -n "$reason" ] || { echo "audit: $accepted: $id has no reason" >&2; exit 2; }
  if [[ $until < $(date -u +%F) ]]; then
    echo "audit: $id was accepted until $until: look at it again" >&2
  else
    ignored+=(--ignore-vuln "$id")
  fi
done <"$accepted"

# Names and versions only. Torch is named in a comment, for its build comes from another index; advisories know it without "+cpu".
packages() {
  {
    sed -n 's/^\([A-Za-z0-9._-]*==[^ ;\\]*\).*/\1/p' "$lock"
    sed -n 's/^# torch: \([0-9.]*\).*/torch==\1/p' "$lock"
  } | grep -E "^(${AUDIT_ONLY:-.*})=="
}
if [ "${2:-}" = list ]; then
  packages
  exit
fi

venv=.audit
if [ ! -x "$venv/bin/pip-audit" ]; then
  echo "audit: installing pip-audit into $venv" >&2
  .venv/bin/python -m venv "$venv"
  "$venv/bin/pip" --disable-pip-version-check install -qq 'pip-audit==2.10.1'
fi
list=$(mktemp)
trap 'rm -f "$list"' EXIT
packages >"$list"
echo "audit: $(wc -l <"$list") packages of $lock" >&2
# What pip-audit cannot look up it must not pass over in silence.
"$venv/bin/pip-audit" --strict --no-deps --disable-pip --progress-spinner off \
  --vulnerability-service "${AUDIT_SERVICE:-pypi}" "${ignored[@]}" -r "$list"
