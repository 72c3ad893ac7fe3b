#!/usr/bin/env bash
# Regenerates graftwork/v1 from the protos. The output is checked in; tests/architecture fails when it differs.
# grpcio-tools 1.76.0 on purpose: what it writes loads on protobuf 6.33 and 7.x, newer output does not load on older ones.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-.}
"$python" -m grpc_tools.protoc -I proto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/graftwork/v1/*.proto
