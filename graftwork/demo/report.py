"""The demo's figures, its claims, and the check of one against the other."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

MAX_BASE_MATCH = 0.2
MIN_ADAPTER_MATCH = 0.8


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One tenant's part.

    Attributes:
        base_exact_match, adapter_exact_match: share of held-out rows answered right to the last character, 0 to 1.
        train_seconds: from the job's start to its end.
        cold_first_token_ms: first request ever for the version: store, disk, engine. Seen by the client.
        warm_first_token_ms: median of the requests after it.
    """

    tenant: str
    adapter: str
    version: str
    base_exact_match: float
    adapter_exact_match: float
    train_seconds: float
    cold_first_token_ms: float
    warm_first_token_ms: float


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """The concurrent traffic of all tenants and of the base.

    Attributes:
        requests: how many ran.
        wrong_tenant_outputs: answers in another tenant's layout, or from another tenant's version.
    """

    requests: int
    wrong_tenant_outputs: int


@dataclass(frozen=True, slots=True)
class Report:
    """All figures; `seconds` has one entry per step of the demo."""

    tenants: tuple[TenantFigures, ...]
    mixed_batch: MixedBatch
    foreign_adapter_refused: bool
    seconds: dict[str, float] = field(default_factory=dict)

    def broken_claims(self) -> list[str]:
        """Returns what did not hold, one sentence each; empty when the demo shows what it claims."""
        broken = []
        for tenant in self.tenants:
            if tenant.base_exact_match > MAX_BASE_MATCH:
                broken.append(f"{tenant.tenant}: the base already answers {tenant.base_exact_match:.0%} right")
            if tenant.adapter_exact_match < MIN_ADAPTER_MATCH:
                broken.append(f"{tenant.tenant}: the adapter answers only {tenant.adapter_exact_match:.0%} right")
        if self.mixed_batch.wrong_tenant_outputs:
            broken.append(f"{self.mixed_batch.wrong_tenant_outputs} answers came from the wrong tenant's adapter")
        if not self.foreign_adapter_refused:
            broken.append("a tenant's key reached another tenant's adapter")
        return broken

    def to_json(self) -> dict[str, object]:
        return {"ok": not self.broken_claims(), **asdict(self)}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")
