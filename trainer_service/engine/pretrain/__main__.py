"""`python -m trainer_service.engine.pretrain`: the process behind `graft backbone build`."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer_service.engine.pretrain import build


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="graft backbone build", description=build.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or missing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in fields(build.BackboneSpec):
        kind = float if isinstance(field.default, float) else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--check-rows", type=int, default=500, help="held-out examples for the exact-match figure")
    return parser.parse_args()


def main() -> int:
    """Builds, checks, saves; prints the digest."""
    arguments = _arguments()
    console = Console(stderr=True)
    out: Path = arguments.out
    if out.exists() and any(out.iterdir()):
        console.print(f"{out} is not empty: give an empty or new folder with --out", soft_wrap=True)
        return 1
    spec = build.BackboneSpec(**{field.name: getattr(arguments, field.name) for field in fields(build.BackboneSpec)})
    device = torch.device(arguments.device)
    last = build.Progress(0, float("nan"), 0.0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=spec.steps)

        def report(progress: build.Progress) -> None:
            nonlocal last
            last = progress
            bar.update(task, completed=progress.step, description=f"loss {progress.loss:.4f}")

        model = build.train(spec, device, report)
    match = build.exact_match(model, arguments.check_rows, device)
    figures: dict[str, float | str] = {
        "final_loss": round(last.loss, 5),
        "exact_match": match,
        "seconds": round(last.seconds, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    digest = build.save(model, out, spec, figures)
    sys.stdout.write(f"{out}\nsha256 {digest}\nexact match {match:.3f}, loss {last.loss:.4f}, {last.seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
