#!/usr/bin/env bash
# Installs the units and, once, their settings and the operator's key. Run as root in the checkout at /opt/graftwork, after
# deploy/setup.sh. Settings that are there already stay as they are. Starts nothing.
#
# usage: deploy/systemd/install.sh [ROOT]     (ROOT: a folder to install into instead of /, to look at the result)
set -euo pipefail
root=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
install -d "$root/etc/systemd/system" "$root/usr/lib/sysusers.d"
install -m 0644 "$here"/*.service "$here"/*.timer "$here"/*.target "$root/etc/systemd/system/"
install -m 0644 "$here/graftwork.sysusers" "$root/usr/lib/sysusers.d/graftwork.conf"
systemd-sysusers ${root:+--root="$root"} graftwork.conf
install -d -m 0750 "$root/etc/graftwork"
for file in common serving trainer console; do
  [ -e "$root/etc/graftwork/$file.env" ] || install -m 0600 "$here/$file.env" "$root/etc/graftwork/$file.env"
done
key=$root/etc/graftwork/operator.key
if [ ! -e "$key" ]; then
  (umask 077 && printf 'gwop_%s\n' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$key")
fi
# By number: in another root the name is not this machine's.
group=$(awk -F: '$1 == "graftwork" { print $3 }' "$root/etc/group")
chown "0:$group" "$root/etc/graftwork" "$key"
chmod 0640 "$key"
[ -n "$root" ] || systemctl daemon-reload
echo "installed. Next: edit /etc/graftwork/common.env, then systemctl enable --now graftwork.target graftwork-{trainer,serving,console}.service graftwork-gc.timer"
