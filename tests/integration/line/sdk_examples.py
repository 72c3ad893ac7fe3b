"""The examples of the SDK, run as a reader runs them. `test_line` takes the test in, to share its services."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from graftwork import AsyncClient, Client
from tests.integration.line.conftest import Graft

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def example(graft: Graft, name: str, *arguments: str) -> str:
    """Runs an example; returns what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        env=clean | {"GRAFT_HOME": str(graft.home)},
        timeout=280,
    )
    assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}\n{graft.logs()}"
    return done.stdout


def test_the_sdks_examples_run(up: Graft, rows_file: Callable[[str], Path], tmp_path: Path) -> None:
    ran = set()

    def run(name: str, *arguments: str) -> str:
        ran.add(name)
        return example(up, name, *arguments)

    said = run("operate_tenants", "--tenant", "sdk")
    assert "sdk: weight 2, 600 requests a minute" in said
    assert "speaks for sdk: 0 adapters" in said
    assert "not for tenants" in said
    assert "revoked" in said

    about = ("--tenant", "sdk", "--adapter", "word", "--ask", "say", "--input", "item 7")
    said = run("train_and_generate", str(rows_file("jade")), *about, "--max-steps", "60", "--learning-rate", "0.02")
    assert "uploaded 60 rows" in said
    assert re.search(r"\d+ steps, about \d+ s and \d+ MiB on ", said), said
    assert re.search(r"step 20/\d+: loss \d", said), said
    assert "held-out loss" in said
    assert said.splitlines()[-1] == "word: jade", said

    said = run("stream_answers", "say\nitem 7", "--tenant", "sdk", "--model", "word")
    assert said.splitlines()[0].strip() == "jade"
    assert "[swapped, first text after" in said
    assert "as JSON: {'ok': " in said
    assert "stopped after" in said

    with Client(home=up.home, tenant="sdk") as client:
        trained = client.adapters.export("word", tmp_path / "elsewhere")
    settings = json.loads((tmp_path / "elsewhere/adapter_config.json").read_text())
    (tmp_path / "elsewhere/adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1}))
    said = run("canary_release", str(tmp_path / "elsewhere"), "--tenant", "sdk", "--adapter", "word", "--ask", "say")
    assert "registered" in said
    assert f"prod is {trained.digest[:12]} again" in said
    assert "requests went to the old version" in said

    said = run("many_at_once", "say\nitem 7", "say\nitem 9", "--tenant", "sdk", "--models", "word,,nothing")
    assert "24 requests, 16 answers" in said
    assert "word 'say\\nitem 9': 'jade'" in said
    assert "refused 8 times" in said
    assert ran == {path.stem for path in EXAMPLES.glob("*.py")}


async def test_the_asynchronous_client_watches_streams_and_cancels(up: Graft, rows_file: Callable[[str], Path]) -> None:
    async with AsyncClient(home=up.home, tenant="sdk-async") as client:
        await client.tenants.create("sdk-async")
        data = await client.datasets.upload(rows_file("amber"))
        assert [found.id async for found in client.datasets.list()] == [data.id]
        job = await client.jobs.create(data, "word")
        await job.cancel()
        events = [event async for event in job.watch(timeout=240)]
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        done = await job.wait()
        assert (done.state.value, done.tenant, done.recipe.preset != "") == ("cancelled", "sdk-async", True)
        assert [found.name async for found in client.jobs.list()] == [job.name]
        pieces = [piece.text async for piece in client.stream("say", max_tokens=8, temperature=0, ignore_eos=True)]
        answer = await client.generate(
            "say", max_tokens=8, temperature=0, ignore_eos=True, top_logprobs=2, prompt_logprobs=True
        )
        assert "".join(pieces) == answer.text
        (choice,) = answer.choices
        assert (answer.completion_tokens, len(choice.logprobs), answer.route) == (8, 8, "base")
        assert all(score.top[0] == (score.token_id, score.logprob) for score in choice.logprobs)
        assert len(answer.prompt_logprobs) == answer.prompt_tokens - 1
        several = await client.generate("say", n=3, temperature=1.0, seed=1, max_tokens=4, ignore_eos=True)
        assert (len(several.choices), several.completion_tokens) == (3, 12)
        assert (await client.serving.info()).ready
