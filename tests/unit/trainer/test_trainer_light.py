"""The service's process stays light: only a job's own process loads the training libraries."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "vllm", "pyarrow")


def loaded_after(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_service_loads_no_training_library() -> None:
    assert loaded_after("trainer_service.__main__") == set()


def test_the_worker_beats_its_heart_before_it_loads_them() -> None:
    assert loaded_after("trainer_service.engine.worker") == set()
