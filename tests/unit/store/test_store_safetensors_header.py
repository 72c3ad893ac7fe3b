"""A header that passes describes the file exactly; no bytes make the parser do anything but answer or refuse."""

import contextlib
import io
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from adapter_store.safetensors_header import MalformedHeader, Tensor, parse_header, read_header

SHAPES = st.lists(st.integers(0, 5), max_size=3)


def parse(data: bytes, **limits: Any) -> list[Tensor]:
    return parse_header(io.BytesIO(data), len(data), **limits)


def build(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), SHAPES, max_size=5))
def test_it_agrees_with_the_reference_writer(shapes: dict[str, list[int]]) -> None:
    tensors = {
        name: np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) for name, shape in shapes.items()
    }
    data = save(tensors, metadata={"format": "pt"})
    found = {tensor.name: tensor for tensor in parse(data)}
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.shape == tensors[name].shape
        assert data[tensor.start : tensor.start + tensor.size] == tensors[name].tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedHeader):
        parse(data)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)  # fmt: skip
ENTRIES = st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "BF16", "F4", "X"]) | JSON, "shape": SHAPES | JSON, "data_offsets": st.lists(st.integers(-2, 40), max_size=3) | JSON})  # fmt: skip


@given(st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3), st.binary(max_size=40))
def test_what_passes_covers_the_data_without_overlap(header: dict[str, Any], data: bytes) -> None:
    file = build(header, data)
    try:
        tensors = parse(file)
    except MalformedHeader:
        return
    position = len(file) - len(data)
    for tensor in tensors:
        assert tensor.start == position
        position += tensor.size
    assert position == len(file)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x04\x95", id="a pickle"),
        pytest.param(struct.pack("<Q", 2**63) + b"{}", id="a giant header"),
        pytest.param(struct.pack("<Q", 3) + b"{}", id="a header longer than the file"),
        pytest.param(build(b"[" * 100_000), id="nesting"),
        pytest.param(build(b"{}", b"x"), id="bytes of no tensor"),
        pytest.param(build({"a": entry()}, b"xyz"), id="beyond the end"),
        pytest.param(build({"a": entry(), "b": entry()}, b"wxyz"), id="overlap"),
        pytest.param(build({"a": entry(offsets=[4, 8])}, b"12345678"), id="hole at the start"),
        pytest.param(build({"a": entry(), "b": entry()}, b"12345678"), id="an overlap that makes up for a hole"),
        pytest.param(build({"a": entry(), "b": entry(offsets=[8, 12])}, b"x" * 12), id="hole"),
        pytest.param(build({"a": entry(shape=[2])}, b"wxyz"), id="shape says more"),
        pytest.param(build({"a": entry(shape=[-1], offsets=[0, 0])}), id="negative"),
        pytest.param(build({"a": entry(shape=[2**70, 0], offsets=[0, 0])}), id="overflow"),
        pytest.param(build({"a": entry(shape=[True])}, b"wxyz"), id="bool"),
        pytest.param(build({"a": entry(dtype="O")}, b"wxyz"), id="dtype"),
        pytest.param(build({"a": entry() | {"more": 1}}, b"wxyz"), id="unknown field"),
        pytest.param(build(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"wxyz"), id="twice"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse(data)


def test_the_callers_limit_on_the_header_holds(tmp_path: Path) -> None:
    data = build({"a": entry()}, b"wxyz")
    assert len(parse(data)) == 1
    with pytest.raises(MalformedHeader):
        parse(data, max_header=10)


def test_who_goes_through_the_entries_sees_each_and_changes_nothing(tmp_path: Path) -> None:
    entries = {f"t{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(3)}
    text, seen = json.dumps(entries).encode(), list[str]()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(text)) + text + b"abc")

    def through(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, entry in pairs:
            seen.append(name)
            yield name, entry

    assert read_header(tmp_path / "f", through=through) == read_header(tmp_path / "f")
    assert seen == list(entries)
