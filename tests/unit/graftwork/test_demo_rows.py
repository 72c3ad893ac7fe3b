"""The demo's files and what makes them agree; no held-out row was seen in training."""

import json

import pytest

from graftwork.demo.tasks import DEMO_TASKS, DemoTask, rows


@pytest.mark.parametrize("task", DEMO_TASKS, ids=lambda task: task.tenant)
def test_shipped_files_are_what_the_module_makes(task: DemoTask) -> None:
    train, held_out = rows(task)
    assert [json.loads(line) for line in task.train_file.read_text().splitlines()] == train
    assert [json.loads(line) for line in task.held_out_file.read_text().splitlines()] == held_out


@pytest.mark.parametrize("task", DEMO_TASKS, ids=lambda task: task.tenant)
def test_held_out_inputs_were_never_trained_on(task: DemoTask) -> None:
    train, held_out = rows(task)
    assert not {row["input"] for row in train} & {row["input"] for row in held_out}
    assert not {row["response"] for row in train} & {row["response"] for row in held_out}


@pytest.mark.parametrize("task", DEMO_TASKS, ids=lambda task: task.tenant)
def test_a_layout_matches_its_own_answers_and_no_other_tenants(task: DemoTask) -> None:
    for other in DEMO_TASKS:
        matches = [other.layout.fullmatch(row["response"]) is not None for row in rows(task)[0]]
        assert all(matches) if other is task else not any(matches)
