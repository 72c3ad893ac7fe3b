"""What a tenant may call by name: each alias once, the default one under the adapter's own name, asked of the store seldom."""

from datetime import UTC, datetime

import pytest

from adapter_store.errors import NotFound
from adapter_store.manifest import AdapterRecord, AliasRecord
from adapter_store.paging import Page
from serving_service.core.catalogue import Catalogue

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """Two adapters of acme."""

    def __init__(self) -> None:
        self.asked = 0

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[AdapterRecord]:
        self.asked += 1
        if tenant != "acme":
            raise NotFound("no such tenant")
        names = {"bare": (), "support": ("canary", "prod")}
        return Page([self.record(adapter, aliases) for adapter, aliases in names.items()], "")

    def record(self, adapter: str, aliases: tuple[str, ...]) -> AdapterRecord:
        records = tuple(
            AliasRecord(
                number=1,
                tenant="acme",
                adapter=adapter,
                alias=alias,
                version="a" * 64,
                by="tests",
                reason="tests",
                at=WHEN,
            )
            for alias in aliases
        )
        return AdapterRecord(tenant="acme", adapter=adapter, aliases=records)


async def test_aliases_are_listed_and_remembered_for_a_moment() -> None:
    now = 0.0
    store = Store()
    catalogue = Catalogue(store, seconds=1.0, clock=lambda: now)
    models = await catalogue.of("acme")
    assert [model.name for model in models] == ["support", "support:canary"]
    assert models[0].since == WHEN
    await catalogue.of("acme")
    assert store.asked == 1
    now = 1.5
    await catalogue.of("acme")
    assert store.asked == 2


async def test_nobody_gets_anothers_list() -> None:
    catalogue = Catalogue(Store())
    await catalogue.of("acme")
    with pytest.raises(NotFound):
        await catalogue.of("globex")
