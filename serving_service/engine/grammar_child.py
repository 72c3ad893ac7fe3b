"""The process that tries out constraints: compiles each in a fork of itself that the kernel ends when it takes too long.

Compiling is native code that nobody can interrupt, so it happens where it can be killed. Owns the limits on CPU time and
memory. Runs as `python -m serving_service.engine.grammar_child`; `grammars` speaks to it in JSON lines.
"""

import json
import os
import re
import resource
import signal
import sys
from typing import Any

_MEMORY_BYTES = 1 << 30  # beyond what this process holds when it is ready
_TEXT_CHARS = 300


def main() -> None:
    """Reads one line with the tokenizer, then a line for each constraint; ends when its parent closes the pipe."""
    first = json.loads(sys.stdin.readline())
    import xgrammar

    compiler = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo.deserialize_json(first["tokenizer"]), max_threads=2, cache_enabled=False
    )
    _write({"ready": True})
    for line in sys.stdin:
        _write(_try(compiler, json.loads(line), first["seconds"]))


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _try(compiler: Any, job: dict[str, str], seconds: float) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        # CPU time of all threads, so that a busy machine refuses nobody; without a handler the signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MEMORY_BYTES, resource.RLIM_INFINITY))
        os.write(write, json.dumps(_compile(compiler, job)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        return {"error": f"takes more than {seconds:g} s or {_MEMORY_BYTES >> 30} GiB to prepare; make it simpler"}
    return dict(json.loads(said))


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _compile(compiler: Any, job: dict[str, str]) -> dict[str, Any]:
    try:
        match job["kind"]:
            case "json":
                compiler.compile_json_schema(job["text"], any_whitespace=False, separators=(",", ":"))
            case "regex":
                compiler.compile_regex(job["text"])
            case "structural_tag":
                compiler.compile_structural_tag(job["text"])
            case _:
                compiler.compile_grammar(job["text"])
    except MemoryError:
        return {"error": "takes too much memory to prepare; make it simpler"}
    except Exception as error:  # the library's errors share no base class
        # Without the place in the library's own source.
        return {
            "error": f"cannot be followed: {re.sub(r'[[][0-9:]+[]] [^ ]+: ', '', str(error)).strip()[:_TEXT_CHARS]}"
        }
    return {}


if __name__ == "__main__":
    main()
