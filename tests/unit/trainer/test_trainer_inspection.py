"""Looking through a data set in a process of its own: figures, preview, sampling, limits, and its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import running
from trainer_service.core.errors import InspectionFailed
from trainer_service.core.inspection import Inspection, InspectionRequest, Progress
from trainer_service.core.inspector import MODULE, Inspector
from trainer_service.engine.inspection import inspect

MANY = 100_000


def request(file: Path, backbone: Path | None, **more: object) -> InspectionRequest:
    return InspectionRequest(
        file=file, file_format="jsonl", digest="d", eval_fraction=0.1, backbone=backbone, **({"max_length": 64} | more)
    )


def write(file: Path, count: int, width: int = 1) -> Path:
    """Rows that get longer, so that the first ones are no sample of all."""
    with file.open("w") as out:
        for at in range(count):
            words = " ".join(["word"] * (width + at * 8 // count))
            out.write(json.dumps({"instruction": f"ask {at}", "input": words, "response": f"yes {at}"}) + "\n")
    return file


async def test_the_process_answers_what_the_function_answers(tmp_path: Path, miniature: Path) -> None:
    asked = request(write(tmp_path / "rows", 50), miniature, preview_rows=2)
    seen = await Inspector().inspect(asked)
    assert seen == inspect(asked, lambda done, total: None)
    assert (seen.rows, seen.wrong_rows, seen.findings, seen.template) == (50, 0, (), "tokenizer")


def test_the_preview_shows_what_is_supervised(tmp_path: Path, miniature: Path) -> None:
    file = tmp_path / "rows"
    chat = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d" * 80)]
    messages = [{"role": role, "content": content} for role, content in chat]
    file.write_text(json.dumps({"instruction": "say", "response": "hi"}) + "\n" + json.dumps({"messages": messages}))
    first, second = inspect(request(file, miniature, preview_rows=5), lambda done, total: None).preview
    assert [(it.text, it.supervised) for it in first.spans] == [
        ("<|user|>\nsay<|end|>\n<|assistant|>\n", False),
        ("hi<|end|>", True),
    ]
    assert [it.supervised for it in second.spans] == [False, True, False, True]
    assert (second.line, second.tokens) == (2, 64)
    assert second.full_tokens > 64
    assert second.spans[-1].text == "d" * len(second.spans[-1].text)


def test_figures_count_tokens_after_the_cut(tmp_path: Path, miniature: Path) -> None:
    seen = inspect(request(write(tmp_path / "rows", 40), miniature, max_length=40), lambda done, total: None)
    figures = seen.figures
    assert figures is not None
    assert (figures.rows, figures.sampled_rows, figures.longest, figures.tokens_error) == (40, 40, 40, 0)
    cut = [it for it in seen.findings if it.code in ("too_long", "nothing_supervised")]
    assert figures.cut_rows == sum(it.count for it in cut) > 0
    assert figures.tokens <= 40 * 40


def test_a_sample_says_how_far_off_it_may_be(tmp_path: Path, miniature: Path) -> None:
    file = write(tmp_path / "rows", 6000)
    exact = inspect(request(file, miniature, max_length=200), lambda done, total: None).figures
    drawn = inspect(request(file, miniature, max_length=200, sample_rows=200), lambda done, total: None).figures
    assert exact is not None
    assert drawn is not None
    assert 150 <= drawn.sampled_rows <= 400
    assert 0 < drawn.tokens_error < 0.1
    assert drawn.tokens == pytest.approx(exact.tokens, rel=2 * drawn.tokens_error)
    assert drawn.supervised_tokens == pytest.approx(exact.supervised_tokens, rel=0.1)


def reader_process() -> psutil.Process:
    """The process that looks through the rows."""
    (found,) = running(MODULE)
    return found


async def test_the_process_ends_with_its_reader(tmp_path: Path) -> None:
    steps = Inspector().follow(request(write(tmp_path / "rows", 300_000), None))
    first = await anext(steps)
    assert isinstance(first, Progress)
    assert 0 < first.done < first.total
    child = reader_process()
    await steps.aclose()
    assert not child.is_running()


async def test_a_process_that_is_killed_is_tried_once_more(tmp_path: Path) -> None:
    steps = Inspector().follow(request(write(tmp_path / "rows", 300_000), None))
    await anext(steps)
    reader_process().kill()
    assert isinstance([step async for step in steps][-1], Inspection)


async def test_a_process_that_is_killed_each_time_is_an_error_that_says_so(tmp_path: Path) -> None:
    killed = set[int]()

    async def kill_each() -> None:
        async for _ in Inspector().follow(request(write(tmp_path / "rows", 300_000), None)):
            for process in running(MODULE):
                killed.add(process.pid)
                process.kill()

    with pytest.raises(InspectionFailed, match="signal 9"):
        await kill_each()
    assert len(killed) == 2


def test_a_file_that_unpacks_to_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    """A column of one long text in a Parquet file: a few kilobytes on the disk, two gigabytes when it is unpacked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array(["x" * (1 << 20)]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), text.dictionary)
    pq.write_table(pa.table({"instruction": column, "response": column}), tmp_path / "bomb", compression="zstd")
    assert (tmp_path / "bomb").stat().st_size < 1 << 20
    asked = InspectionRequest(file=tmp_path / "bomb", file_format="parquet", digest="d", eval_fraction=0.1)
    assert [(it.code, it.count) for it in inspect(asked, lambda done, total: None).findings] == [
        ("row_too_long", 1_000)
    ]
    looking = f"""
from trainer_service.core.inspection import InspectionRequest
from trainer_service.engine.inspection import inspect
inspect(InspectionRequest.model_validate_json({asked.model_dump_json()!r}), lambda done, total: None)
"""
    assert peak_of(looking) < 500


# Not ru_maxrss: that of a fresh process begins with what the process that started it had.
RSS = """
import sys
from pathlib import Path
status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
sys.stderr.write(status.split()[0])
"""


def peak_of(code: str, *arguments: object) -> int:
    """Runs code in a process of its own; returns the most memory that it held, in MiB."""
    command = [sys.executable, "-c", f"{code}\n{RSS}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=500)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) >> 10


@pytest.mark.slow
@pytest.mark.thorough
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, miniature: Path) -> None:
    """Looking through and encoding 100,000 rows takes little more than 2,000; lists of rows and tensors would take 150 MB more."""
    looking = """
import sys
from pathlib import Path
sys.modules["torch"] = None
from trainer_service.core.inspection import InspectionRequest
from trainer_service.engine.inspection import inspect
asked = InspectionRequest(file=Path(sys.argv[1]), file_format="jsonl", digest="d", eval_fraction=0.1,
                          backbone=Path(sys.argv[2]), max_length=64)
assert inspect(asked, lambda done, total: None).figures.sampled_rows == int(sys.argv[4])
"""
    encoding = """
import sys
from pathlib import Path
from trainer_service.core.split import split
from trainer_service.engine import data
from trainer_service.engine.backbone import load_tokenizer
folder = Path(sys.argv[2])
source = data.Source(Path(sys.argv[1]), "jsonl", "d", folder)
examples = data.encode_file(source, load_tokenizer(folder), max_length=64, folder=Path(sys.argv[3])).examples
train, held = split(examples.prompts, int(sys.argv[4]) // 10, "d")
assert len(examples.select(train)) + len(examples.select(held)) == int(sys.argv[4])
"""
    few, many = write(tmp_path / "few", 2_000), write(tmp_path / "many", MANY)
    for name, code in (("looking", looking), ("encoding", encoding)):
        small = peak_of(code, few, miniature, tmp_path / f"{name}-few", 2_000)
        large = peak_of(code, many, miniature, tmp_path / f"{name}-many", MANY)
        # 28 bytes a row and what sorting them takes; the encoded file's own pages are counted too, while they are mapped.
        sys.stdout.write(f"{name}: {small} MiB for 2,000 rows, {large} MiB for {MANY:,}\n")
        assert large - small < 60, f"{name}: {small} MiB for 2,000 rows, {large} MiB for {MANY}"
