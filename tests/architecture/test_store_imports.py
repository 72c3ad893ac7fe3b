"""The store stays a light leaf: the command and the registry import it on machines without torch."""

import json
import subprocess
import sys

import pytest

_HEAVY = ("torch", "transformers", "vllm", "grpc", "peft", "safetensors", "datasets", "fastapi")
_LIST = "import json, sys, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


@pytest.mark.parametrize("module", ["adapter_store", "adapter_store.backends.s3"])
def test_the_library_pulls_in_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", _LIST.format(module=module)]
    loaded = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert "adapter_store" in loaded
    assert not set(loaded) & set(_HEAVY)


def test_users_of_the_file_store_do_not_pay_for_minio() -> None:
    command = [sys.executable, "-c", _LIST.format(module="adapter_store")]
    loaded = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert not set(loaded) & {"minio", "urllib3"}
