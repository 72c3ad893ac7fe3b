"""What we rely on inside vLLM and the standard library. A failure here means: an upgrade moved it, read the named file."""

import inspect
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_lora_requests_compare_by_name_and_the_prefix_cache_keys_by_name_and_path() -> None:
    """engine/vllm_engine.py: names carry the digest, ids are never used again."""
    from vllm.lora.request import LoRARequest
    from vllm.v1.core import kv_cache_utils

    assert LoRARequest("a", 1, "/x") == LoRARequest("a", 2, "/y")
    assert '("lora", lora_request.lora_name, lora_request.lora_path)' in inspect.getsource(
        kv_cache_utils._gen_lora_extra_hash_keys
    )


def test_signatures_of_the_calls_we_make() -> None:
    """engine/vllm_engine.py"""
    from vllm.inputs.engine import tokens_input
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"prompt", "sampling_params", "request_id", "lora_request"} <= set(
        inspect.signature(AsyncLLM.generate).parameters
    )
    assert list(inspect.signature(AsyncLLM.add_lora).parameters) == ["self", "lora_request"]
    assert list(inspect.signature(AsyncLLM.remove_lora).parameters) == ["self", "lora_id"]
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters
    assert tokens_input([1], cache_salt="t") == {"type": "token", "prompt_token_ids": [1], "cache_salt": "t"}


def test_the_ranks_are_those_of_vllm() -> None:
    """settings.py"""
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    from serving_service.settings import RANKS

    assert get_args(MaxLoRARanks) == RANKS


def test_spawned_children_start_with_our_prelude() -> None:
    """engine/lifeline.py: multiprocessing builds its command through `spawn.get_command_line`, with the program after -c."""
    import multiprocessing.popen_spawn_posix
    import multiprocessing.spawn

    from serving_service.engine.lifeline import children_die_with_us

    assert "spawn.get_command_line(" in inspect.getsource(multiprocessing.popen_spawn_posix)
    plain = multiprocessing.spawn.get_command_line
    with children_die_with_us():
        command = multiprocessing.spawn.get_command_line(pipe_handle=3)
    assert "prctl(1, 9)" in command[command.index("-c") + 1]
    assert multiprocessing.spawn.get_command_line is plain


def test_grouped_lora_leaves_the_base_alone_and_matches_the_formula() -> None:
    """vllm_plugin/grouped_punica.py, and that vLLM's own CPU path still has the fault that it replaces."""
    program = """
import torch
from vllm.lora.layers import LoRAMapping
import serving_service.vllm_plugin.worker
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
torch.manual_seed(0)
a = [torch.randn(3, 1, 8, 16) for _ in range(2)]
b = [torch.randn(3, 1, 12, 8), torch.randn(3, 1, 4, 8)]
b[0][:, :, :, 4:] = 0
x = torch.randn(9, 16)
ids = (0, 7, 7, 0, 9, 5, 5, 5, 0)
slots = [7, 9, 5]
def run(wrapper):
    mapping = LoRAMapping(ids, (7, 9), is_prefill=True)
    wrapper.update_metadata(mapping, slots, 4, 100)
    y = torch.zeros(9, 16)
    wrapper.add_lora_linear(y, x, tuple(a), tuple(b), 1.0, (12, 4))
    return y
ours = get_punica_wrapper(64, 8, "cpu")
assert type(ours).__name__ == "GroupedPunicaCPU", type(ours)
want = torch.zeros(9, 16)
for row, lora in enumerate(ids):
    if lora:
        s = slots.index(lora)
        want[row] = torch.cat([b[i][s, 0] @ (a[i][s, 0] @ x[row]) for i in range(2)])
assert torch.allclose(run(ours), want, atol=1e-4)
b[0][1] = torch.randn(1, 12, 8)
assert not torch.allclose(run(ours), want, atol=1e-4), "a rewritten slot was not noticed"
theirs = run(PunicaWrapperCPU(64, 8, "cpu"))
print("vllm-fixed" if theirs[0].abs().max() == 0 else "vllm-leaks")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    # When this says 'vllm-fixed', our wrapper is needed for speed only.
    assert done.stdout.strip().endswith("vllm-leaks"), done.stdout
