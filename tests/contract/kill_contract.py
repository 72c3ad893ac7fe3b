"""A publisher killed at every step, from the first byte to the alias, on every backend; inherited, not run by itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, VersionManifest
from adapter_store.errors import NotFound
from graftwork.signing import SigningKey
from tests.contract.store_contract import StoreFixtures
from tests.store_samples import make_adapter

Publish = Callable[[str, str, int], int]
"""Way, tenant and the step to be killed at (0: none) to the process's exit code."""


@pytest.mark.slow
class KillContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> SigningKey:
        return SigningKey.create(tmp_path / "key")

    @pytest.fixture
    def publish(
        self, url: str, store: AdapterStore, base: BaseInfo, key: SigningKey, tmp_path: Path
    ) -> Iterator[Publish]:
        """Publishes the same folder in a fresh process each time."""
        folder = make_adapter(tmp_path / "adapter")
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.contract.killed_publisher",
                url,
                *map(str, (tmp_path / "base", folder, tmp_path / "key")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        ) as forks:
            assert forks.stdin
            assert forks.stdout

            def run(way: str, tenant: str, at: int) -> int:
                print(way, tenant, at, file=forks.stdin, flush=True)
                return int(forks.stdout.readline())  # type: ignore[union-attr]

            yield run
            forks.stdin.close()

    @pytest.mark.parametrize("way", ["registration", "trainer"])
    def test_a_publisher_killed_at_each_step_leaves_nothing_half_done(
        self, store: AdapterStore, publish: Publish, key: SigningKey, tmp_path: Path, way: str
    ) -> None:
        stages: list[str] = []
        at = lived = 0
        while lived < 3:  # blobs go up side by side, so that a run's steps are a few more or less
            at += 1
            tenant = f"t{at}"
            store.tenants.create(tenant)
            ended = publish(way, tenant, at)
            assert ended in (0, -signal.SIGKILL)
            lived = 0 if ended else lived + 1
            stages.append(self.stage(store, tenant, tmp_path / f"{tenant}-left"))
            assert publish(way, tenant, 0) == 0
            assert self.stage(store, tenant, tmp_path / f"{tenant}-again") == "aliased"
            self.check_whole(store, tenant, key)
        # There were kills in each: before anything is visible, then the version, then its signature, then the alias.
        assert set(stages) == {"nothing", "visible", "signed", "aliased"}, stages

    def stage(self, store: AdapterStore, tenant: str, out: Path) -> str:
        """How far a publisher came; whatever is visible is whole."""
        versions = store.versions.list(tenant, "greeter").items
        try:
            alias = store.aliases.get(tenant, "greeter", "prod")
        except NotFound:
            alias = None
        if not versions:
            assert alias is None
            assert store.adapters.list(tenant).items == []
            return "nothing"
        (version,) = versions
        store.versions.fetch(version, out)
        if alias:
            assert alias.version == version.version
            assert self.problems(store, version) == [""]
            return "aliased"
        return "signed" if self.problems(store, version) else "visible"

    def problems(self, store: AdapterStore, version: VersionManifest) -> list[str]:
        return [kept.problem for kept in store.signatures.list(version)]

    def check_whole(self, store: AdapterStore, tenant: str, key: SigningKey) -> None:
        """One version, one record of its alias, one signature: a repeat adds nothing, and nothing was lost."""
        (version,) = store.versions.list(tenant, "greeter").items
        (record,) = store.aliases.history(tenant, "greeter", "prod")
        assert (record.number, record.version) == (1, version.version)
        assert store.signatures.signer(version, {key.public.id: key.public}) == key.public.id
        assert [item.adapter for item in store.adapters.list(tenant).items] == ["greeter"]
