"""`python -m tests.chaos --minutes 10 --seed 7`: the whole system under load while everything goes wrong.

Prints one line for each invariant and ends with `N invariants held, M broken`, and the command that repeats it; exit 1
when any is broken, 2 when this machine has no S3 server to run against.
"""

import argparse
import random
import signal
import sys
from pathlib import Path

from tests.chaos.run import Options, run
from tests.contract.rgw import missing_programs

_SHOWN = 5


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.chaos")
    parser.add_argument("--minutes", type=float, default=10, help="of storm; starting and judging come on top")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="folder for the logs, when something broke")
    options = parser.parse_args(arguments)
    if missing := missing_programs():
        _say(f"no S3 server to run against: {', '.join(missing)} not installed (Debian: radosgw ceph-mon ceph-osd)")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    found = run(Options(options.minutes * 60, options.seed, _say, options.keep))
    for name, wrong in found.items():
        _say(f"{'BROKEN' if wrong else 'held  '}  {name}")
        for line in wrong[:_SHOWN]:
            _say(f"        {line}")
        if len(wrong) > _SHOWN:
            _say(f"        and {len(wrong) - _SHOWN} more")
    broken = sum(map(bool, found.values()))
    _say(f"repeat with: make chaos MINUTES={options.minutes:g} SEED={options.seed}")
    _say(f"{len(found) - broken} invariants held, {broken} broken")
    return 1 if broken else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt  # so that whatever was started ends, and the small disk goes


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
