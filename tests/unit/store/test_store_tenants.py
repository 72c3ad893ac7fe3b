"""Keys open exactly their tenant's door, only while they are good."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import InvalidKey, NotFound, StoreUnavailable, TenantDisabled
from adapter_store.tenants import FRESH_S, Tenants


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Flaky(FilesystemBackend):
    down = False
    lists = 0

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        self.lists += 1
        if self.down:
            raise StoreUnavailable("down")
        return super().children(prefix, after=after, limit=limit)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path)


@pytest.fixture
def tenants(backend: Flaky, clock: Clock) -> Tenants:
    tenants = Tenants(backend, clock)
    tenants.create("acme")
    tenants.create("acme-2")
    return tenants


def test_a_key_opens_its_own_tenant(tenants: Tenants) -> None:
    for tenant in ("acme", "acme-2"):
        assert tenants.authenticate(tenants.issue_key(tenant, "ci").secret).tenant == tenant


def test_only_hashes_are_kept(tenants: Tenants, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    issued = tenants.issue_key("acme", "ci")
    random = issued.secret.rsplit("_", 1)[1]
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert issued.record.sha256.encode() in stored
    assert random.encode() not in stored
    assert random not in repr(issued) + caplog.text


def test_everything_but_a_good_key_is_refused_alike(tenants: Tenants) -> None:
    secret = tenants.issue_key("acme", "ci").secret
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    texts = set()
    for text in (
        "",
        "x",
        wrong,
        secret + "\n",
        secret.upper(),
        secret.replace("acme", "acme-2"),
        "gw_nobody_" + "0" * 48,
    ):
        with pytest.raises(InvalidKey) as refused:
            tenants.authenticate(text)
        texts.add(str(refused.value))
    assert len(texts) == 1


def test_a_revoked_key_is_refused_and_others_stay(tenants: Tenants) -> None:
    one, two = tenants.issue_key("acme", "one"), tenants.issue_key("acme", "two")
    tenants.authenticate(one.secret)
    assert tenants.revoke_key("acme", one.record.id).revoked_at is not None
    with pytest.raises(InvalidKey):
        tenants.authenticate(one.secret)
    assert tenants.authenticate(two.secret).tenant == "acme"
    number = tenants.get("acme").number
    tenants.revoke_key("acme", one.record.id)
    assert tenants.get("acme").number == number, "revoking again writes nothing"
    with pytest.raises(NotFound):
        tenants.revoke_key("acme-2", two.record.id)


def test_a_disabled_tenant_is_refused_until_it_is_enabled(tenants: Tenants) -> None:
    secret = tenants.issue_key("acme", "ci").secret
    tenants.set_disabled("acme", True)
    with pytest.raises(TenantDisabled):
        tenants.authenticate(secret)
    tenants.set_disabled("acme", False)
    assert not tenants.authenticate(secret).disabled


def test_another_processs_changes_are_seen_in_time(tenants: Tenants, backend: Flaky, clock: Clock) -> None:
    elsewhere = Tenants(backend)
    issued = tenants.issue_key("acme", "ci")
    tenants.authenticate(issued.secret)
    elsewhere.revoke_key("acme", issued.record.id)
    clock.now += FRESH_S
    with pytest.raises(InvalidKey):
        tenants.authenticate(issued.secret)
    clock.now += 1
    assert tenants.authenticate(elsewhere.issue_key("acme", "new").secret).tenant == "acme"


def test_a_slow_answer_counts_from_when_it_was_asked_for(
    tenants: Tenants, backend: Flaky, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a key that was revoked behind a store's back would live on for the answer's time as well."""
    elsewhere = Tenants(backend)
    issued = tenants.issue_key("acme", "ci")
    clock.now += FRESH_S
    read = backend.read

    def slow(key: str, **part: int | None) -> Iterator[bytes]:
        data = b"".join(read(key, **part))  # type: ignore[arg-type]
        monkeypatch.setattr(backend, "read", read)
        elsewhere.revoke_key("acme", issued.record.id)
        clock.now += FRESH_S - 1
        yield data

    monkeypatch.setattr(backend, "read", slow)
    tenants.authenticate(issued.secret)
    clock.now += 1
    with pytest.raises(InvalidKey):
        tenants.authenticate(issued.secret)


def test_authentication_does_not_ask_the_store_each_time(tenants: Tenants, backend: Flaky) -> None:
    secret = tenants.issue_key("acme", "ci").secret
    tenants.authenticate(secret)
    before = backend.lists
    for _ in range(100):
        tenants.authenticate(secret)
    assert backend.lists == before


def test_known_keys_go_on_working_while_the_store_is_away(tenants: Tenants, backend: Flaky, clock: Clock) -> None:
    secret = tenants.issue_key("acme", "ci").secret
    backend.down = True
    clock.now += 3600
    assert tenants.authenticate(secret).tenant == "acme"
    with pytest.raises(StoreUnavailable):
        Tenants(backend).authenticate(secret)
