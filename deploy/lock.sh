#!/usr/bin/env bash
# Rewrites deploy/locks/*.lock from the .in files. For whoever upgrades a dependency; nobody else needs it.
# The CPU lock is resolved by pip (its configuration may offer torch's CPU build), then hashed by uv; the GPU lock by uv.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
.venv/bin/python -m pip install -q uv
uv=.venv/bin/uv

.venv/bin/python -m pip install -q --dry-run --ignore-installed --report "$work/report.json" -r deploy/locks/cpu.in
.venv/bin/python - "$work" <<'P'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
# torch comes from elsewhere (deploy/setup.sh); torchvision, -audio and -codec break transformers beside a CPU torch;
# triton (200 MB) needs a GPU, and vLLM finds none.
leave_out = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
# Not resolved with the rest: it asks for an older protobuf than the run time has, and works with the newer one.
extra = ["grpcio-tools==1.76.0"]
found = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"] for i in json.loads((work / "report.json").read_text())["install"]}
(work / "flat.txt").write_text("\n".join(sorted([f"{n}=={v}" for n, v in found.items() if n not in leave_out] + extra)) + "\n")
(work / "torch").write_text(f"# torch: {found['torch']}\n")
P
"$uv" pip compile -q --no-deps --generate-hashes --python-version 3.11 --no-header --no-annotate "$work/flat.txt" -o "$work/cpu.lock"
{ echo "# Linux x86-64, Python 3.11. Written by deploy/lock.sh; install with deploy/setup.sh cpu (--no-deps)."; cat "$work/torch" "$work/cpu.lock"; } >deploy/locks/cpu.lock

"$uv" pip compile -q --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate deploy/locks/gpu.in -o "$work/gpu.lock"
{ echo "# Linux x86-64, Python 3.11, CUDA. Written by deploy/lock.sh; install with deploy/setup.sh gpu (--no-deps)."; cat "$work/gpu.lock"; } >deploy/locks/gpu.lock
