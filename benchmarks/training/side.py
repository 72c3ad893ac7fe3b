"""One side of benchmarks.train_throughput in a process of its own: `python -m benchmarks.training.side SPEC.json`.

Trains, saves the adapter as a PEFT folder, and prints one JSON object. Both sides get the same backbone, rows, number of
epochs, rows a step, rank and learning rate, and count the same tokens: prompt and response as the seed renders them, cut at
max_length. Memory is what the process takes above what the libraries take; both sides load the same ones first.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import instructions


@dataclass(frozen=True)
class Spec:
    """What both sides are given."""

    side: str
    """seed or ours."""
    backbone: str
    adapter: str
    """Where to save it."""
    device: str
    bits: int
    train_rows: int
    held_out_rows: int
    epochs: int
    rank: int
    learning_rate: float
    pass_tokens: int
    """Ours: tokens of a forward pass (the service's GRAFT_TRAINER_MICRO_BATCH_TOKENS)."""
    threads: int
    seed: int = 1
    max_length: int = 512


def rows_of(spec: Spec) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns (train, held out)."""
    made = instructions.make(spec.train_rows + spec.held_out_rows, seed=spec.seed)
    return made[spec.held_out_rows :], made[: spec.held_out_rows]


class Meter:
    """The peak of the device's memory, and the time spent in steps and in all, from when this is made."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._in_steps = self._began = 0.0
        gc.collect()
        if self._cuda:
            torch.cuda.init()
            self._before = 0
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports (proc(5))
            self._before = _status("VmRSS")

    def begin(self) -> None:
        """Starts the clock of the whole training."""
        self._finish_kernels()
        self._began = time.perf_counter()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Counts what runs inside as part of a step."""
        self._finish_kernels()
        began = time.perf_counter()
        yield
        self._finish_kernels()
        self._in_steps += time.perf_counter() - began

    def end(self) -> dict[str, Any]:
        """Returns the figures."""
        self._finish_kernels()
        return {
            "seconds": self._in_steps,
            "seconds_with_evaluation": time.perf_counter() - self._began,
            "peak_bytes": torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM") - self._before,
        }

    def _finish_kernels(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _load_libraries() -> None:
    """Imports what either side uses, so that neither is charged for what the other does without."""
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    from transformers import LlamaForCausalLM, Trainer  # noqa: F401

    import trainer_service.engine.train  # noqa: F401


def seed(spec: Spec) -> dict[str, Any]:
    """The document's pipeline."""
    from transformers import TrainerCallback

    from benchmarks.training.seed_pipeline import AdapterTrainingPipeline

    train, held_out = rows_of(spec)
    meter = Meter(spec.device)
    pipeline = AdapterTrainingPipeline(spec.backbone, spec.rank, 2 * spec.rank, spec.bits)
    model = pipeline.inject_adapters(pipeline.load_frozen_backbone())
    dataset = pipeline.tokenize_dataset(pipeline.format_instruction_data(train), spec.max_length)
    held = pipeline.tokenize_dataset(pipeline.format_instruction_data(held_out), spec.max_length)

    class Clock(TrainerCallback):
        """Tells the meter where steps begin and end; a step is 4 passes and the optimizer."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._step = meter.step()
            self._step.__enter__()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self._step.__exit__(None, None, None)

    trainer = pipeline.build_trainer(
        model,
        dataset,
        held,
        output_dir=Path(spec.adapter) / "run",
        epochs=spec.epochs,
        learning_rate=spec.learning_rate,
    )
    trainer.add_callback(Clock())
    meter.begin()
    trainer.train()
    figures = meter.end()
    model.save_pretrained(spec.adapter)
    return figures


def ours(spec: Spec) -> dict[str, Any]:
    """What a job's worker does between fetching the data and publishing."""
    from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
    from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
    from trainer_service.engine.checkpoint import CheckpointFolder
    from trainer_service.engine.train import Limits, Training

    train, held_out = rows_of(spec)
    meter = Meter(spec.device)
    asked = RecipeRequest(
        preset="compact", bits=spec.bits, rank=spec.rank, learning_rate=spec.learning_rate, epochs=float(spec.epochs),
        max_length=spec.max_length, seed=spec.seed,
    )  # fmt: skip
    fleet = Fleet(device="cuda" if spec.device == "cuda" else "cpu")
    recipe = resolve(asked, rows=len(train) + len(held_out), fleet=fleet)[0]
    folder = Path(spec.backbone)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(recipe.seed)
    model = Grafted(load_backbone(folder, tokenizer, bits=recipe.bits, device=torch.device(spec.device)), recipe)
    Path(spec.adapter).mkdir(parents=True, exist_ok=True)
    examples, held = (_examples(rows, tokenizer, spec.max_length) for rows in (train, held_out))
    training = Training(
        model, examples, held, recipe=recipe, limits=Limits(spec.pass_tokens, 1e9),
        checkpoints=CheckpointFolder(Path(spec.adapter)), base_digest="benchmark", send=lambda _: None,
    )  # fmt: skip
    step = training._step

    def timed(at: int, rows: list[int]) -> None:
        with meter.step():
            step(at, rows)

    training._step = timed  # type: ignore[method-assign]
    meter.begin()
    outcome = training.run()
    figures = meter.end()
    model.load_adapter_state(outcome.best)
    model.model.save_pretrained(spec.adapter, save_embedding_layers=False)
    return figures | {"packed": model.decoder.packs}


def _examples(rows: list[dict[str, str]], tokenizer: Any, max_length: int) -> Any:
    """The rows as the worker renders them, in memory; the worker's own come from an Arrow file (`engine.data`)."""
    from trainer_service.core.rows import Row, Turn
    from trainer_service.engine.batches import Example, ExampleList
    from trainer_service.engine.rendering import render

    turns = [
        Row(at, (Turn("user", f"{row['instruction']}\n{row['input']}"), Turn("assistant", row["response"])))
        for at, row in enumerate(rows, start=1)
    ]
    made = ExampleList()
    for rendered in render(turns, tokenizer, max_length=max_length):
        supervised = torch.zeros(len(rendered.ids), dtype=torch.bool)
        for start, end in rendered.spans:
            supervised[start:end] = True
        made.append(Example(torch.tensor(rendered.ids), supervised))
    return made


def tokens_of(spec: Spec) -> tuple[int, int]:
    """Returns the (tokens, response tokens) that one epoch's rows have as the seed renders them, after the cut."""
    from transformers import AutoTokenizer

    from benchmarks.training.judge import tokenized

    tokenizer = AutoTokenizer.from_pretrained(spec.backbone)
    counted = [tokenized(row, tokenizer, spec.max_length) for row in rows_of(spec)[0]]
    return sum(len(ids) for ids, _ in counted), sum(len(ids) - prompt for ids, prompt in counted)


def main() -> None:
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(spec.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _load_libraries()
    tokens, response = tokens_of(spec)
    figures = (seed if spec.side == "seed" else ours)(spec)
    counted = {"tokens": tokens * spec.epochs, "response_tokens": response * spec.epochs}
    print(json.dumps(asdict(spec) | counted | figures), flush=True)


if __name__ == "__main__":
    main()
