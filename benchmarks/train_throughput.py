"""Training beside the seed document's own pipeline: speed, memory and what was learned, on the same model and rows.

`speedup` and `peak_memory_ratio` are medians over pairs of runs, ours against the seed's, taken in turn, each in a process
of its own. Tokens are prompt and response tokens, padding not counted; time is that of the steps, without evaluations
(`speedup_with_evaluation` has them). `final_eval_loss_ratio` compares the two adapters' held-out loss per response
token, measured by code of neither side.

On a CPU: the shipped backbone widened to 23M parameters, rows of log-normal length (benchmarks/training says why). On
a GPU (--device cuda --bits 4 --shape llama-3.1-8b): random weights, on which only speed and memory mean something.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import Spread, parser, show, write
from benchmarks.training import backbones, limit
from benchmarks.training.judge import held_out_loss
from benchmarks.training.side import Spec, rows_of
from trainer_service.core.recipe_values import PASS_TOKENS

SIDES = ("seed", "ours")
GOALS = "goals: at least 2.0, at most 0.8, at most 1.02"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--shape", choices=backbones.SHAPES, default=backbones.MINI_WIDE)
    options.add_argument("--bits", type=int, choices=(4, 16), default=4, help="of the frozen backbone, on both sides")
    options.add_argument("--rows", type=int, default=96, help="to train on (default 96)")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--runs", type=int, default=3, help="of each side (default 3)")
    options.add_argument(
        "--learning-rate", type=float, default=5e-3, help="of both sides; the seed's 2e-4 is for larger models"
    )
    options.add_argument("--pass-tokens", type=int, help="ours: tokens of a pass; default: the service's")
    options.add_argument(
        "--work", type=Path, metavar="DIR", help="folder for backbone and adapters; default: a temporary one"
    )
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-", dir=asked.work) as folder:
        work = Path(folder)
        _say(f"building {asked.shape}")
        backbones.build(asked.shape, work / "backbone", device=asked.device)
        common = Spec(
            side="", backbone=str(work / "backbone"), adapter="", device=asked.device, bits=asked.bits,
            train_rows=asked.rows, held_out_rows=32, epochs=asked.epochs, rank=16, learning_rate=asked.learning_rate,
            pass_tokens=asked.pass_tokens or PASS_TOKENS[asked.device], threads=len(os.sched_getaffinity(0)),
        )  # fmt: skip
        runs = _runs(common, work, asked.runs)
        losses = _losses(common, work) if asked.shape == backbones.MINI_WIDE else {}
        limits = _limits(common, runs["ours"][0])
    figures = _figures(runs, losses) | {"limit": limits}
    _table(figures)
    write(asked.json, figures | {"setting": asdict(common) | {"shape": asked.shape, "runs": asked.runs}})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _runs(common: Spec, work: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """Runs each side `count` times; who is first alternates."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for run in range(count):
        for side in SIDES if run % 2 == 0 else SIDES[::-1]:
            spec = asdict(common) | {"side": side, "adapter": str(work / f"{side}-{run}")}
            runs[side].append(_run(spec, work / "spec.json"))
            peak = runs[side][-1]["peak_bytes"] / 1e6
            _say(f"{side} {run + 1}/{count}: {_speed(runs[side][-1]):.0f} tokens/s, {peak:.0f} MB")
    return runs


def _run(spec: dict[str, Any], file: Path) -> dict[str, Any]:
    file.write_text(json.dumps(spec))
    # The service's own setting for its workers: spinning threads slow down whoever else is on the cores.
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.side", str(file)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"the {spec['side']} side failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _losses(common: Spec, work: Path) -> dict[str, float]:
    _, held_out = rows_of(common)
    adapters = {"base": None} | {side: work / f"{side}-0" for side in SIDES}
    return {
        name: held_out_loss(work / "backbone", adapter, held_out, device=common.device, max_length=common.max_length)
        for name, adapter in adapters.items()
    }


def _limits(common: Spec, run: dict[str, Any]) -> dict[str, float]:
    """What the machine could do for our side; gradient checkpointing is on where the recipe has it on, on a GPU."""
    share = run["response_tokens"] / run["tokens"]
    on_gpu = common.device == "cuda"
    operations = limit.operations_per_token(Path(common.backbone), response_share=share, recomputed=on_gpu)
    rate = limit.operations_per_second(common.device, threads=common.threads)
    return {
        "operations_per_token": operations,
        "operations_per_second": rate,
        "tokens_per_second": rate / operations,
        "share_reached": _speed(run) * operations / rate,
    }


def _speed(run: dict[str, Any], seconds: str = "seconds") -> float:
    return float(run["tokens"] / run[seconds])


def _figures(runs: dict[str, list[dict[str, Any]]], losses: dict[str, float]) -> dict[str, Any]:
    pairs = list(zip(runs["ours"], runs["seed"], strict=True))
    whole = "seconds_with_evaluation"
    sides = {
        side: {
            "tokens_s": Spread.of([_speed(run) for run in made]),
            "peak_mb": Spread.of([run["peak_bytes"] / 1e6 for run in made]),
            "tokens": made[0]["tokens"],
            "held_out_loss": losses.get(side),
        }
        for side, made in runs.items()
    }
    ratios = {
        "speedup": Spread.of([_speed(one) / _speed(other) for one, other in pairs]),
        "speedup_with_evaluation": Spread.of([_speed(one, whole) / _speed(other, whole) for one, other in pairs]),
        "peak_memory_ratio": Spread.of([one["peak_bytes"] / other["peak_bytes"] for one, other in pairs]),
    }
    found: dict[str, Any] = {name: spread.median for name, spread in ratios.items()}
    if losses:
        found["final_eval_loss_ratio"] = losses["ours"] / losses["seed"]
        found["base_held_out_loss"] = losses["base"]
    return found | {"sides": sides, "spread": ratios}


def _table(figures: dict[str, Any]) -> None:
    rows = [
        [side, found["tokens"], found["tokens_s"], found["peak_mb"], found["held_out_loss"] or "-"]
        for side, found in figures["sides"].items()
    ]
    show("Training", ("", "tokens", "tokens/s", "peak MB above libraries", "held-out loss"), rows)
    ratio = figures.get("final_eval_loss_ratio", "-")
    show(
        f"Ours over the seed's ({GOALS})",
        ("speedup", "peak memory", "held-out loss"),
        [[figures["spread"]["speedup"], figures["spread"]["peak_memory_ratio"], ratio]],
    )
    limits = figures["limit"]
    print(
        f"limit: {limits['operations_per_token'] / 1e6:.0f} MFLOP a token at {limits['operations_per_second'] / 1e9:.0f} "
        f"GFLOP/s = {limits['tokens_per_second']:.0f} tokens/s; ours reaches {limits['share_reached']:.0%}"
    )


if __name__ == "__main__":
    main()
