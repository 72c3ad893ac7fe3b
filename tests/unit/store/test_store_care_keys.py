"""Reading keys is the way back from the layout, and knows nothing else."""

import inspect
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_store import layout
from adapter_store.care import keys
from adapter_store.care.keys import Key, Kind
from adapter_store.care.reading import MODELS
from adapter_store.numbered_log import _name

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
NUMBERS = st.integers(1, 9_999_999_999)
OBJECTS = {"blob": Kind.BLOB, "version": Kind.VERSION, "dataset": Kind.DATASET, "signature": Kind.SIGNATURE}
LOGS = {
    "tenant_log": Kind.TENANT,
    "alias_log": Kind.ALIAS,
    "deletion_log": Kind.VERSION_DELETION,
    "dataset_deletion_log": Kind.DATASET_DELETION,
    "hold_log": Kind.HOLD,
}
PREFIXES = {"tenant", "blobs", "adapters", "versions", "adapter_signatures", "signatures", "aliases", "deletions"}
PREFIXES |= {"dataset_deletions", "datasets", "holds", "sweeps"}
AUDIT = {"audit_day", "audit_entry", "of_audit_entry"}
MERGED = {"merged", "merged_manifest", "merged_file"}


@given(st.data())
@pytest.mark.parametrize("function", sorted(OBJECTS | LOGS))
def test_what_the_layout_makes_is_recognised(function: str, data: st.DataObject) -> None:
    make = getattr(layout, function)
    given = {
        name: data.draw(DIGESTS if name == "digest" else IDS, label=name) for name in inspect.signature(make).parameters
    }
    number = data.draw(NUMBERS) if function in LOGS else None
    text = make(**given) + (_name(number) if number else "")
    key = keys.parse(text)
    assert (key.text, key.kind, key.number) == (text, (OBJECTS | LOGS)[function], number)
    assert key.tenant == given["tenant_id"]
    assert key.adapter == given.get("adapter_id", "")
    rest = [value for name, value in given.items() if name not in ("tenant_id", "adapter_id", "key_id")]
    assert [key.name] == (rest or [""])
    if number:
        assert key.log == make(**given)


def test_every_function_of_the_layout_is_thought_of() -> None:
    """Somebody who adds a kind of object has to say here what garbage collection does with it."""
    functions = {
        name
        for name, value in vars(layout).items()
        if inspect.isfunction(value) and value.__module__ == layout.__name__
    }
    assert functions == OBJECTS.keys() | LOGS.keys() | PREFIXES | MERGED | AUDIT | {"probe_object", "new_sweep"}
    assert keys.parse(layout.probe_object()).kind is Kind.PROBE
    assert keys.parse(layout.new_sweep("acme")).kind is Kind.SWEEP
    assert MODELS.keys() == set(Kind) - {Kind.BLOB, Kind.PROBE, Kind.MERGED, Kind.UNKNOWN}


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(3000, 1, 1)), IDS | st.just(""), DIGESTS)
def test_audit_entries_are_recognised_and_belong_to_no_tenant(at: datetime, tenant: str, digest: str) -> None:
    text = layout.audit_entry(at.replace(tzinfo=UTC), tenant, digest[:16])
    assert keys.parse(text) == Key(text, Kind.AUDIT, name=digest[:16])
    assert layout.of_audit_entry(text) == {"at": at.replace(tzinfo=UTC), "id": digest[:16], "tenant": tenant}
    for strange in (f"{text}/x", text.removesuffix(".json"), text.replace("v1/audit/", "v1/audit/x")):
        assert keys.parse(strange).kind is Kind.UNKNOWN


@given(DIGESTS, DIGESTS, DIGESTS)
def test_merged_weights_are_recognised(base: str, version: str, file: str) -> None:
    prefix = layout.merged(base, version)
    weights, manifest = layout.merged_file(base, version, file), layout.merged_manifest(base, version)
    assert keys.parse(weights) == Key(weights, Kind.MERGED, name=version, base=base, file=file)
    assert keys.parse(manifest) == Key(manifest, Kind.MERGED_MANIFEST, name=version, base=base)
    assert weights.startswith(prefix)
    assert prefix < manifest < weights, "garbage collection and removal go in this order"
    for strange in (
        prefix,
        f"{prefix}{file}",
        f"{prefix}sha256/x",
        f"{manifest}/x",
        f"{layout.MERGED}{base}/x/manifest.json",
    ):
        assert keys.parse(strange).kind is Kind.UNKNOWN


@given(
    st.text(string.printable + "é\x00", max_size=120),
    st.sampled_from(["", "v1/", "v1/tenants/", "v1/tenants/a/adapters/b/"]),
)
def test_anything_can_be_read(text: str, prefix: str) -> None:
    key = keys.parse(prefix + text)
    assert key.text == prefix + text


@pytest.mark.parametrize(
    "text",
    [
        "v1/tenants/Acme/record/9999999998-1.json",
        f"v1/tenants/acme/blobs/sha256/{'A' * 64}",
        f"v1/tenants/acme/blobs/md5/{'0' * 64}",
        f"v1/tenants/acme/adapters/g/versions/{'0' * 64}",
        "v1/tenants/acme/adapters/g/versions/x/y.json",
        "v2/tenants/acme/record/9999999998-1.json",
        "v1/tenants/acme/datasets/a.b.json",
        "v1/tenants/acme",
    ],
)
def test_what_is_almost_right_is_unknown(text: str) -> None:
    assert keys.parse(text).kind is Kind.UNKNOWN
