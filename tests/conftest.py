"""Servers and a backbone that tests of several folders use, each made once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from graftwork.scratch import DisposableFolder
from tests.contract import postgres as postgres_server
from tests.contract.postgres import Postgres
from tests.contract.rgw import Rgw, missing_programs

# How long an example or its drawing takes says how busy the machine is, and nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def without(text: str) -> NoReturn:
    """Skips on a laptop and fails on CI, where a skip would hide that nothing was tested."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_files() -> Iterator[None]:
    """Of the run: what killed processes leave goes with it, or with the next run. A short path, because sockets lie in it."""
    system, folder = tempfile.gettempdir(), DisposableFolder("gt-")
    folder.path.chmod(0o711)  # database and object store may run as users of their own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder.path))
        patch.setattr(tempfile, "tempdir", str(folder.path))
        patch.setenv(
            "PYTEST_DEBUG_TEMPROOT", os.environ.get("PYTEST_DEBUG_TEMPROOT", system)
        )  # `tmp_path` is kept, to look at
        yield
    folder.close()


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """A Ceph RGW."""
    if missing := missing_programs():
        without(f"no S3 server: {', '.join(missing)} not installed (Debian: radosgw ceph-mon ceph-osd)")
    home = Path(tempfile.mkdtemp(prefix="rgw"))
    server = Rgw(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL; each test asks it for a database of its own."""
    bin_dir = postgres_server.programs()
    if bin_dir is None:
        without("no database server: postgres is not installed (Debian: postgresql)")
    home = Path(tempfile.mkdtemp(prefix="pg"))
    server = Postgres(home, bin_dir)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with random weights: the real architecture and tokenizer, small enough for every test."""
    import torch
    from transformers import LlamaForCausalLM

    from trainer_service.engine.pretrain.build import BackboneSpec, build_config, save

    torch.manual_seed(0)
    spec = BackboneSpec(layers=2, width=32, heads=2, max_positions=256)
    folder = tmp_path_factory.mktemp("backbone") / "miniature"
    save(LlamaForCausalLM(build_config(spec)), folder, spec, {})
    return folder
