"""Broken adapters through the real command: exit code 1, one line that says why, and nothing to be seen afterwards."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapter_store.manifest import CONFIG_FILE, WEIGHTS_FILE
from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import ADAPTER_CONFIG, HIDDEN, lora_tensors, make_adapter

pytestmark = pytest.mark.slow


def settings(**changes: object) -> Callable[[Path], object]:
    return lambda folder: make_adapter(folder, **changes)


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        made = lora_tensors()
        change(made)
        make_adapter(folder, tensors=made)

    return make


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        file = make_adapter(folder) / WEIGHTS_FILE
        file.write_bytes(change(file.read_bytes()))

    return make


def header(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edit(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + length])
        change(found)
        text = json.dumps(found).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return weights(edit)


def after(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        change(make_adapter(folder))

    return make


def one(suffix: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    def change(made: dict[str, np.ndarray]) -> None:
        name = next(name for name in made if name.endswith(suffix))
        made[name][0, 0] = value

    return change


def zero(made: dict[str, np.ndarray]) -> None:
    for name in made:
        if "lora_B" in name:
            made[name][:] = 0


def overlap(found: dict[str, object]) -> None:
    first, second = [entry for name, entry in found.items() if name != "__metadata__"][:2]
    second["data_offsets"] = first["data_offsets"]  # type: ignore[index]
    second["shape"] = first["shape"]  # type: ignore[index]


def rename(old: str, new: str) -> Callable[[dict[str, np.ndarray]], object]:
    def change(made: dict[str, np.ndarray]) -> None:
        for name in list(made):
            made[name.replace(old, new)] = made.pop(name)

    return change


def widen(made: dict[str, np.ndarray]) -> None:
    for name in made:
        if "lora_A" in name:
            made[name] = np.ones((made[name].shape[0], 2 * HIDDEN), np.float32)


def pickled(name: str, also: bool) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(b"\x80\x04.")
        if not also:
            (folder / WEIGHTS_FILE).unlink()

    return after(change)


def link(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        real = folder.with_name("real-" + name)
        (folder / name).rename(real) if (folder / name).exists() else real.write_text("x")
        (folder / name).symlink_to(real)

    return after(change)


def fifo(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    os.mkfifo(folder / CONFIG_FILE)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (pickled("adapter_model.bin", also=False), "pickled"),
    "pickled weights beside sound ones": (pickled("adapter_model.pt", also=True), "pickled"),
    "weights that are a pickle by content": (weights(lambda _: b"\x80\x04}q\x00." * 40), "safetensors"),
    "no weights": (after(lambda folder: (folder / WEIGHTS_FILE).unlink()), WEIGHTS_FILE),
    "no config": (after(lambda folder: (folder / CONFIG_FILE).unlink()), CONFIG_FILE),
    "empty weights": (weights(lambda _: b""), "shorter than 8"),
    "truncated": (weights(lambda data: data[:-100]), "safetensors"),
    "bytes behind the end": (weights(lambda data: data + b"x" * 64), "ends? at byte"),
    "header longer than the file": (weights(lambda data: struct.pack("<Q", 1 << 40) + data[8:]), "claims"),
    "header that takes all memory": (weights(lambda data: struct.pack("<Q", 2**63 - 1) + data[8:]), "claims"),
    "header of nested lists": (
        weights(lambda _: struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000),
        "not JSON",
    ),
    "a tensor named twice": (
        weights(lambda _: struct.pack("<Q", 15) + b'{"a":{},"a":{}}'),
        "names a tensor twice",
    ),
    "overlapping tensors": (header(overlap), "overlaps|contradict"),
    "shape that contradicts its bytes": (
        header(lambda found: next(v for k, v in found.items() if k != "__metadata__").update(shape=[1, 1])),  # type: ignore[attr-defined]
        "contradict",
    ),
    "unknown dtype": (
        header(lambda found: next(v for k, v in found.items() if k != "__metadata__").update(dtype="OBJECT")),  # type: ignore[attr-defined]
        "unknown dtype",
    ),
    "NaN": (tensors(one("lora_A.weight", float("nan"))), "NaN"),
    "infinity": (tensors(one("lora_B.weight", float("-inf"))), "infinity"),
    "no effect": (tensors(zero), "no effect"),
    "no tensors": (lambda folder: make_adapter(folder, tensors={}), "no tensors"),
    "half a pair": (tensors(lambda made: made.pop(next(iter(made)))), "only"),
    "shapes of another base": (tensors(widen), r"16, 32|32, 32"),
    "modules that the base lacks": (tensors(rename("self_attn", "cross_attn")), "has no linear module"),
    "layers that the base lacks": (tensors(rename("layers.1.", "layers.77.")), "layers.77"),
    "full weights as tensors": (tensors(rename("lora_A", "full")), "only LoRA"),
    "integer weights": (
        lambda folder: make_adapter(
            folder, tensors={name: value.astype(np.int32) for name, value in lora_tensors().items()}
        ),
        "I32",
    ),
    "rank above the maximum": (
        lambda folder: make_adapter(folder, tensors=lora_tensors(rank=128), r=128),
        "rank 128 is above",
    ),
    "rank unlike the config": (settings(r=8), "rank"),
    "rank that is none": (settings(r=-1), "rank is an integer"),
    "alpha that is none": (settings(lora_alpha="NaN"), "alpha"),
    "DoRA": (settings(use_dora=True), "DoRA"),
    "modules_to_save": (settings(modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (settings(bias="all"), "bias"),
    "another method": (settings(peft_type="PREFIX_TUNING"), "only LORA"),
    "PiSSA": (settings(init_lora_weights="pissa"), "pissa"),
    "regular expression": (settings(rank_pattern={"(a+)+$": 4}), "regular expressions"),
    "unknown setting": (settings(run_this="rm -rf /"), "run_this"),
    "config that is no JSON": (after(lambda folder: (folder / CONFIG_FILE).write_text("{")), CONFIG_FILE),
    "config that is a list": (after(lambda folder: (folder / CONFIG_FILE).write_text("[1]")), CONFIG_FILE),
    "config of 2 MiB": (
        after(
            lambda folder: (folder / CONFIG_FILE).write_text(
                json.dumps(ADAPTER_CONFIG | {"task_type": "x" * (2 << 20)})
            )
        ),
        "larger than",
    ),
    "template of 1 MiB": (
        after(lambda folder: (folder / "chat_template.jinja").write_text("x" * (1 << 20))),
        "larger than",
    ),
    "template that is no text": (
        after(lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")),
        "UTF-8",
    ),
    "weights behind a symbolic link": (link(WEIGHTS_FILE), "symbolic link"),
    "config behind a symbolic link": (link(CONFIG_FILE), "symbolic link"),
    "a symbolic link beside them": (link("README.md"), "symbolic link"),
    "a dangling symbolic link": (after(lambda folder: (folder / "x").symlink_to("/nowhere")), "symbolic link"),
    "a pipe": (after(fifo), "no plain file"),
    "a folder in the weights' place": (
        after(lambda folder: ((folder / WEIGHTS_FILE).unlink(), (folder / WEIGHTS_FILE).mkdir())),
        "plain file|directory",
    ),
    "no folder": (lambda _: None, "no folder"),
    "a file in the folder's place": (lambda folder: folder.write_text("x"), "no folder"),
}


def assert_refused(registry: RegistryProcess, name: str, folder: Path, reason: str, *options: str) -> None:
    done = registry.graft("adapter", "register", "--tenant", "acme", *options, "--", name, str(folder))
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("graft: ")
    assert "Traceback" not in done.stderr
    assert re.search(reason, done.stderr), done.stderr
    with registry.client() as client:
        assert list(client.list_adapters("acme")) == []
    assert list(registry.staging.glob("*")) == []


@pytest.mark.parametrize(("make", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_adapter_is_refused_and_leaves_nothing(
    registry: RegistryProcess, folder: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(folder)
    assert_refused(registry, "broken", folder, reason, "--alias", "prod")


NAMES = {
    "parent folder": "..",
    "slash": "a/b",
    "absolute": "/etc/passwd",
    "climbing": "../../bloom/adapters/x",
    "backslash": "a\\b",
    "newline": "greeter\n",
    "upper case": "Greeter",
    "empty": "",
    "blank": " ",
    "cyrillic look-alike": "gr\u0435eter",
    "full-width look-alike": "\uff47reeter",
    "invisible": "gree\u200bter",
    "300 characters": "a" * 300,
    "leading minus": "-greeter",
    "percent": "a%2e%2e",
    "not text": "a\udcff",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_bad_name_is_refused_and_leaves_nothing(registry: RegistryProcess, folder: Path, name: str) -> None:
    assert_refused(registry, name, make_adapter(folder), "adapter id|not text")


def test_a_bad_alias_is_refused_before_anything_is_stored(registry: RegistryProcess, folder: Path) -> None:
    assert_refused(registry, "greeter", make_adapter(folder), "alias id", "--alias", "../prod")


def test_the_list_shows_nothing_of_them(registry: RegistryProcess) -> None:
    """After all of the above, on the same registry."""
    listed = registry.graft("adapter", "list", "--json", "--tenant", "acme")
    assert json.loads(listed.stdout) == []
