"""What a developer's client or the command imports stays light."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "peft",
    "datasets",
    "bitsandbytes",
    "sqlalchemy",
    "numpy",
    "fastapi",
    "uvicorn",
)


@pytest.mark.parametrize(
    "module", ["graftwork.client", "graftwork.cli.main", "graftwork.rpc.server", "graftwork.demo.run"]
)
def test_light_module_imports_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize(
    "module", ["trainer_service.__main__", "trainer_service.api.servicer", "serving_service.api.servicer"]
)
def test_service_process_imports_no_torch_before_it_trains_or_loads(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded.intersection({"torch", "vllm", "transformers", "peft"})
