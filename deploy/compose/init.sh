#!/usr/bin/env bash
# Makes the keys and passwords of deploy/compose.yaml, once: what is there already stays.
#
# usage: deploy/compose/init.sh
# The folder is closed to others; the files in it can be read by the containers' users, who see single files only.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { # NAME: writes standard input, unless the file is there
  if [ ! -e "secrets/$1" ]; then
    cat >"secrets/.$1"
    chmod 0444 "secrets/.$1"
    mv "secrets/.$1" "secrets/$1"
    echo "made deploy/compose/secrets/$1"
  else
    cat >/dev/null
  fi
}
# The second line lets Prometheus look, and change nothing: a viewer's key, of which the file has the hash only.
random_key() { printf 'gwop_%s' "$(random)"; }
random_key | keep metrics.key
printf '%s operator\nsha256:%s viewer prometheus\n' "$(random_key)" "$(sha256sum <secrets/metrics.key | cut -d' ' -f1)" | keep operator.key
if [ ! -e secrets/s3-identities.json ] || [ ! -e secrets/s3-credentials.ini ]; then
  rm -f secrets/s3-identities.json secrets/s3-credentials.ini
  access=graft$(random | cut -c1-16) secret=$(random)
  printf '{"identities": [{"name": "graftwork", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' \
    "$access" "$secret" | keep s3-identities.json
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$access" "$secret" | keep s3-credentials.ini
fi
random | keep postgres-password
random | keep grafana-password
# Compose reads this file by itself where it lies beside compose.yaml.
[ -e ../.env ] || printf 'POSTGRES_PASSWORD=%s\n' "$(cat secrets/postgres-password)" >../.env
