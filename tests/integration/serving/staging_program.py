"""Run by test_serving_staging.py in a process of its own, because the engine sets its environment: loads an adapter whose
configuration is a pipe that nobody has written yet, and decodes meanwhile.

usage: python staging_program.py BACKBONE ADAPTER WORK_FOLDER
"""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving_service.engine.protocol import AdapterRefused, EngineUnavailable, LoraRef, Rendered, Sampling, Tier
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.settings import ServingSettings


async def answer(engine: VllmEngine, name: str, lora: LoraRef | None) -> str:
    prompt = Rendered([40, 41, 42, 43])
    sampling = Sampling(temperature=0, max_tokens=24)
    return "".join([delta.text async for delta in engine.generate(name, prompt, sampling, lora=lora, tenant="t")])


async def main(backbone: str, adapter: Path, work: Path) -> None:
    settings = ServingSettings(
        store_url="file:///nowhere", operator_key_file=work / "key", cache_dir=work, max_loras=1, max_lora_rank=16,
        kv_cache_gib=0.1, max_num_seqs=8, lora_modules="q_proj, v_proj",
    )  # fmt: skip
    engine = VllmEngine(backbone, settings)
    await engine.start()
    plain = LoraRef("t/plain@1", adapter)
    size = await engine.load(plain)
    assert size > 0, size
    await engine.refresh()  # a load does not wait for the loop to have taken it; this is answered behind it
    assert engine.tier(plain.name) is Tier.DEVICE
    base, grafted = await answer(engine, "base", None), await answer(engine, "plain", plain)
    assert base != grafted

    piped = LoraRef("t/piped@1", work / "piped")
    shutil.copytree(adapter, piped.path)
    config = piped.path / "adapter_config.json"
    text = config.read_text()
    config.unlink()
    os.mkfifo(config)
    loading = asyncio.create_task(engine.load(piped))
    for number in range(3):  # were it read in the engine's loop, these would wait for ever
        assert await asyncio.wait_for(answer(engine, f"meanwhile-{number}", plain), 60) == grafted
    assert not loading.done()
    await asyncio.to_thread(config.write_text, text)
    assert await asyncio.wait_for(loading, 60) == size
    # The files may go at once: a request right behind a load finds what was staged, and its step reads nothing.
    shutil.rmtree(piped.path)
    assert await answer(engine, "piped", piped) == grafted
    assert (engine.tier(plain.name), engine.tier(piped.name)) == (Tier.HOST, Tier.DEVICE)
    assert (engine.slot(plain.name), engine.slot(piped.name)) == (None, 0), "the only slot, and who is in it"
    assert await answer(engine, "plain-again", plain) == grafted
    assert (engine.tier(plain.name), engine.tier(piped.name)) == (Tier.DEVICE, Tier.HOST)

    again = LoraRef("t/again@1", adapter)
    await engine.load(again)
    await engine.refresh()
    assert engine.tier(again.name) is Tier.DEVICE, "the only slot was idle"
    await engine.unload(again.name)

    held = engine._adapters
    assert held is not None
    held._beside = True  # as on a GPU, where requests wait until their adapter's slot is full
    await engine.load(again)
    assert (engine.tier(again.name), engine.tier(plain.name)) == (Tier.DEVICE, Tier.HOST)
    hold, told, giving, broken_method = held._hold, list[str](), asyncio.Event(), ""

    async def some(method: str, *args: object) -> None:
        told.append(method)
        if method == "graft_give":
            giving.set()
        if method == broken_method:
            raise RuntimeError("no memory")
        await hold(method, *args)

    held._hold = some  # type: ignore[method-assign]
    broken_method = "graft_give"
    with pytest.raises(EngineUnavailable, match=f"could not bring {plain.name} into a slot"):
        await answer(engine, "not-brought", plain)
    broken_method = ""
    told.clear()
    assert await asyncio.gather(*(answer(engine, f"brought-{number}", plain) for number in range(3))) == [grafted] * 3
    assert told == ["graft_give"], "once for all that want it, and before their steps, which find it in its slot"
    assert (engine.tier(again.name), engine.tier(plain.name)) == (Tier.HOST, Tier.DEVICE)
    fill, filled = held._staging.fill, list[int]()

    async def fill_later(lora_id: int) -> bool:
        filled.append(lora_id)
        if len(filled) == 1:
            raise EngineUnavailable("the device is busy")
        assert not await fill(lora_id), "this engine's loop has written it"
        return True

    held._staging.fill = fill_later  # type: ignore[method-assign]
    times = list[float]()
    engine.watch_slots(times.append)
    with pytest.raises(EngineUnavailable, match=f"could not bring {again.name} into a slot"):
        await answer(engine, "not-filled", again)
    (by_the_loop,) = times
    assert engine.device_ms(again.name) == by_the_loop > 0
    assert await answer(engine, "filled", again) == grafted
    assert engine.device_ms(again.name) == times[-1] > 0
    assert len(times) == 2, "what was filled beside the loop is told, too"
    assert len(set(filled)) == 1
    assert len(filled) == 2, "tried again before the step that would die of it"
    del held._staging.fill
    giving.clear()
    leaving = asyncio.create_task(answer(engine, "leaving", plain))
    await giving.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await answer(engine, "staying", plain) == grafted
    assert not held._bringing
    await engine.unload(again.name)
    broken_method = "graft_take"
    with pytest.raises(EngineUnavailable, match=f"could not take {again.name}"):
        await engine.load(again)
    assert engine.tier(again.name) is None
    del held._hold
    held._beside = False

    broken = LoraRef("t/broken@1", work / "broken")
    shutil.copytree(adapter, broken.path)
    (broken.path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterRefused, match=broken.name):
        await engine.load(broken)
    assert engine.tier(broken.name) is None

    # Found beside the loop too: in it, the copy into a slot would fail half-way.
    misfit = LoraRef("t/misfit@1", work / "misfit")
    shutil.copytree(adapter, misfit.path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {
            name: np.ascontiguousarray(tensor[:, :-1]) if "lora_A" in name else tensor
            for name, tensor in tensors.items()
        },
        misfit.path / "adapter_model.safetensors",
    )
    with pytest.raises(AdapterRefused, match="lora_a has the shape"):
        await engine.load(misfit)

    # Finite in the file, and infinite where B is multiplied by alpha / r: it would make NaN of others' rows.
    huge = LoraRef("t/huge@1", work / "huge")
    shutil.copytree(adapter, huge.path)
    one = next(name for name in tensors if "lora_B" in name)
    save_file(
        tensors | {one: np.full_like(tensors[one], np.finfo(np.float32).max / 16)},
        huge.path / "adapter_model.safetensors",
    )
    made = json.loads((adapter / "adapter_config.json").read_text())
    (huge.path / "adapter_config.json").write_text(json.dumps(made | {"lora_alpha": 32 * made["r"]}))
    with pytest.raises(AdapterRefused, match="too large for"):
        await engine.load(huge)

    foreign = LoraRef("t/foreign@1", work / "foreign")
    shutil.copytree(adapter, foreign.path)
    save_file(
        {name.replace("v_proj", "k_proj"): tensor for name, tensor in tensors.items()},
        foreign.path / "adapter_model.safetensors",
    )
    asked = json.loads((adapter / "adapter_config.json").read_text()) | {"target_modules": ["q_proj", "k_proj"]}
    (foreign.path / "adapter_config.json").write_text(json.dumps(asked))
    with pytest.raises(AdapterRefused, match="changes k_proj; this service has slots for q_proj, v_proj only"):
        await engine.load(foreign)
    assert await answer(engine, "after-misfit", plain) == grafted
    await engine.unload(plain.name)
    await engine.unload(piped.name)
    await engine.refresh()
    assert engine.tier(plain.name) is None
    assert engine.tier(piped.name) is None
    assert await answer(engine, "base-again", None) == base
    await engine.stop()
    print("ok")  # noqa: T201  what the test waits for


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
