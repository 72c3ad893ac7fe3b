"""The audit log in the store: newest first over days, whole pages, a tenant's own, and no damaged entry that hides the others."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_store import layout
from adapter_store.audit import DAMAGED, Audit, AuditEntry, FieldChange, new_id
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import InvalidName

START = datetime(2026, 11, 28, 23, 59, 0, 7, tzinfo=UTC)


def entry(number: int, tenant: str = "acme", action: str = "SetAlias") -> AuditEntry:
    """Half an hour after the one before: a day has 48 of them."""
    return AuditEntry(
        id=new_id(),
        at=START + timedelta(minutes=30 * number),
        service="RegistryService on here",
        actor="operator 0123456789abcdef",
        action=action,
        target=f"tenants/{tenant}/adapters/a{number}",
        tenant=tenant,
        outcome="ok",
        changes=(FieldChange(field="version", before="a", after="b"),),
    )


@pytest.fixture
def backend(tmp_path: Path) -> FilesystemBackend:
    return FilesystemBackend(tmp_path / "store")


@pytest.fixture
def audit(backend: FilesystemBackend) -> Audit:
    return Audit(backend)


def pages(audit: Audit, size: int, **filters: object) -> Iterator[list[AuditEntry]]:
    token = ""
    while True:
        page = audit.page(size, token, **filters)  # type: ignore[arg-type]
        yield page.items
        token = page.next_page_token
        if not token:
            return


@pytest.mark.parametrize("size", [1, 7, 48, 49, 500])
def test_pages_are_the_log_newest_first_over_days(audit: Audit, size: int) -> None:
    written = [entry(number) for number in range(100)]
    for one in written:
        audit.append(one)
    found = list(pages(audit, size))
    assert [one for page in found for one in page] == written[::-1]
    assert all(len(page) == size for page in found[:-1])


def test_an_empty_log_has_an_empty_page(audit: Audit) -> None:
    assert list(pages(audit, 10)) == [[]]


def test_a_page_goes_on_where_it_ended_though_entries_came_meanwhile(audit: Audit) -> None:
    written = [entry(number) for number in range(6)]
    for one in written[:4]:
        audit.append(one)
    first = audit.page(2)
    for one in written[4:]:
        audit.append(one)
    rest = audit.page(10, first.next_page_token)
    assert first.items + rest.items == written[3::-1]


def test_filters_are_the_tenants_own_the_time_and_what_one_asks(audit: Audit) -> None:
    written = [entry(number, "acme" if number % 3 else "acme-2", f"Call{number % 2}") for number in range(60)]
    for one in written:
        audit.append(one)
    for tenant in ("acme", "acme-2", "nobody"):
        found = [one for page in pages(audit, 5, tenant=tenant) for one in page]
        assert found == [one for one in reversed(written) if one.tenant == tenant]
    since = written[50].at
    assert [one for page in pages(audit, 4, since=since) for one in page] == written[:49:-1]
    asked = [one for page in pages(audit, 4, matches=lambda one: one.action == "Call1") for one in page]
    assert asked == [one for one in reversed(written) if one.action == "Call1"]


def test_the_same_entry_again_is_one_entry(audit: Audit) -> None:
    one = entry(1)
    audit.append(one)
    audit.append(one)
    assert audit.page().items == [one]


def test_a_damaged_entry_is_shown_as_such_and_hides_no_other(
    audit: Audit, backend: FilesystemBackend, tmp_path: Path
) -> None:
    written = [entry(number) for number in range(3)]
    for one in written:
        audit.append(one)
    key = layout.audit_entry(written[1].at, "acme", written[1].id)
    (file,) = (path for path in (tmp_path / "store").rglob("*") if path.is_file() and str(path).endswith(key))
    file.write_bytes(file.read_bytes().replace(b"ok", b"no"))
    newest, damaged, oldest = audit.page().items
    assert (newest, oldest) == (written[2], written[0])
    assert (damaged.outcome, damaged.id, damaged.at, damaged.tenant) == (
        DAMAGED,
        written[1].id,
        written[1].at,
        "acme",
    )


@pytest.mark.parametrize("token", ["x", "YXVkaXR8", "YXVkaXR8Li4vYQ==", "dmVyc2lvbnN8YS9i"])
def test_a_token_from_elsewhere_is_refused(audit: Audit, token: str) -> None:
    with pytest.raises(InvalidName):
        audit.page(10, token)
