"""A reader who types a page's commands, in its order, into one shell, and looks at what they print.

Owns the reader's folder: a home of its own, and a fresh clone to type in. The first command that fails, or prints something
else than the page says, ends it with what was printed and the services' logs.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.checkout import clone
from tests.docs.pages import Command, Page

ROWS = 120
"""Of the demo's in the reader's `rows.jsonl`: enough to learn from."""
_LOG_CHARACTERS = 3000


@dataclass(frozen=True)
class Reader:
    """Types into bash.

    Attributes:
        folder: the reader's: `checkout` with the prompt in it, and `home`.
        origin: the repository that `checkout` is cloned from.
        model: a Hugging Face folder, in the checkout as `models/my-model`; `rows.jsonl` is there as well.
        variables: what a page says that the reader has to bring, such as an S3 server's address.
    """

    folder: Path
    origin: Path
    model: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "home").mkdir()
        clone(self.origin, self.checkout)
        rows = (self.checkout / "graftwork" / "demo" / "data" / "bloom-train.jsonl").read_text("utf-8")
        (self.checkout / "rows.jsonl").write_text("".join(rows.splitlines(keepends=True)[:ROWS]), "utf-8")
        if self.model is not None:
            (self.checkout / "models").mkdir()
            (self.checkout / "models" / "my-model").symlink_to(self.model)

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def read(self, page: Page, *, seconds: float) -> None:
        """Types all that the page has; raises AssertionError at the first surprise."""
        commands = [*_prepared(page), *page.runnable()]
        script = self.folder / "page.sh"
        script.write_text("\n".join(_typed(number, command) for number, command in enumerate(commands)))
        try:
            self._type(script, self._environment(page), seconds)
            for number, command in enumerate(commands):
                self._look(page, number, command)
        finally:
            self._clean_up()

    def _type(self, script: Path, environment: dict[str, str], seconds: float) -> None:
        """Runs the shell to its end, or ends it with all that it started when its time is over."""
        shell = subprocess.Popen(
            ["bash", str(script)],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            shell.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()

    def _look(self, page: Page, number: int, command: Command) -> None:
        at = f"{page.name}:{command.line}: $ {command.text}"
        code = self.folder / f"{number}.code"
        printed = (self.folder / f"{number}.out").read_text(errors="replace")
        assert code.exists(), f"{at}\nended the shell, or took too long\n{printed}{self._logs()}"
        assert code.read_text().strip() == "0", f"{at}\nfailed\n{printed}{self._logs()}"
        if (missing := differs(command.prints, printed)) is not None:
            raise AssertionError(f"{at}\ndoes not print: {missing}\nbut:\n{printed}")

    def _environment(self, page: Page) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "AWS_"))}
        environment |= {"HOME": str(self.folder / "home"), "OUT": str(self.folder), "COLUMNS": "120"}
        environment |= {"HF_HUB_OFFLINE": "1"}  # a model's name that is meant to be a folder asks nobody
        environment |= self.variables
        if not any("activate" in command.text for command in page.runnable()):
            environment["PATH"] = f"{self.checkout / '.venv' / 'bin'}:{environment['PATH']}"
        return environment

    def _clean_up(self) -> None:
        """Ends what a page that failed half-way left running; one that said `graft down` left nothing."""
        for lock in self.folder.rglob("run/up.lock"):
            home = lock.parent.parent
            graft = str(self.checkout / ".venv" / "bin" / "graft")
            subprocess.run([graft, "--home", str(home), "down"], capture_output=True, timeout=120, check=False)

    def _logs(self) -> str:
        logs = sorted((self.folder / "home").rglob("logs/*.log"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-_LOG_CHARACTERS:]}" for path in logs)


def differs(expected: tuple[str, ...], printed: str) -> str | None:
    """Returns the first line that is not printed after those before it, None if all are; `...` stands for anything.

    Runs of white space count as one, since tables adapt to what is in them.
    """
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        pieces = [re.escape(" ".join(piece.split())) for piece in line.split("...")]
        pattern = re.compile(r"\s*.*\s*".join(pieces))
        if line.strip() not in {"", "..."} and not any(pattern.fullmatch(each) for each in lines):
            return line
    return None


def _prepared(page: Page) -> list[Command]:
    """What a page takes for granted that begins with another command of `graft` than `up`: services, and a tenant."""
    first = next((command.text for command in page.runnable() if command.text.startswith("graft ")), "graft up")
    if first.startswith("graft up"):
        return []
    return [Command("graft up --detach", (), 0), Command("graft tenant create acme", (), 0)]


def _typed(number: int, command: Command) -> str:
    """One command in braces, so that it keeps the shell's variables; a failure ends the shell."""
    return f'{{ {command.text}\n}} >"$OUT/{number}.out" 2>&1; code=$?; echo $code >"$OUT/{number}.code"\n[ $code = 0 ] || exit $code'
