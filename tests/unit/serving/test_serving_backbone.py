"""A backbone that is not there is one clear error, whatever the library that fetches would raise."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from serving_service.engine.backbone import local_folder


def test_a_missing_folder_is_not_taken_for_an_id() -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere/model does not exist"):
        local_folder("/nowhere/model")


def test_a_revision_is_fetched_and_a_failure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repository: str, *, revision: str | None, **_: Any) -> str:
        asked.append((repository, revision))
        raise ValueError("no such thing")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(FileNotFoundError, match="org/name@v1 could not be fetched: ValueError"):
        local_folder("org/name@v1")
    assert asked == [("org/name", "v1")]
