"""Only ids become ids."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapter_store import layout, names
from adapter_store.errors import InvalidName

IDS = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")
DIGESTS = st.from_regex(r"\A[0-9a-f]{64}\Z")


@given(IDS)
def test_every_id_is_accepted_as_it_is(text: str) -> None:
    assert names.parse_id("tenant", text) == text


@given(st.text())
@example("")
@example("..")
@example("a/b")
@example("a\n")
@example("A")
@example("-a")
@example("a" * 64)
@example("a_b")
@example("\u0430cme")  # Cyrillic a
@example("\u0661")  # a digit to str.isdigit
def test_no_other_text_is_an_id_or_reaches_a_key(text: str) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):
        return
    for use in (
        lambda: names.parse_id("tenant", text),
        lambda: names.TenantName.parse(f"tenants/{text}"),
        lambda: layout.tenant_log(text),
        lambda: layout.version("acme", text, "0" * 64),
        lambda: layout.alias_log("acme", "greeter", text),
        lambda: layout.dataset("acme", text),
    ):
        with pytest.raises(InvalidName):
            use()


@given(IDS, IDS, IDS, DIGESTS)
def test_resource_names_survive_a_round_trip(tenant: str, adapter: str, other: str, digest: str) -> None:
    for name in (
        names.TenantName(tenant),
        names.DatasetName(tenant, other),
        names.JobName(tenant, other),
        names.AdapterName(tenant, adapter),
        names.VersionName(tenant, adapter, digest),
        names.AliasName(tenant, adapter, other),
    ):
        assert type(name).parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "tenants", "tenants/", "tenants/a/", "/tenants/a", "tenants/a/jobs", "jobs/a"])
def test_broken_resource_names_are_refused(text: str) -> None:
    for kind in (names.TenantName, names.JobName, names.AdapterName, names.VersionName):
        with pytest.raises(InvalidName):
            kind.parse(text)


def test_a_message_repeats_only_the_start_of_a_wrong_id() -> None:
    with pytest.raises(InvalidName) as refused:
        names.parse_id("tenant", "x" * 10_000)
    assert len(str(refused.value)) < 300


def test_all_tenants_is_a_parent() -> None:
    assert names.parse_parent("tenants/-") is None
    assert names.parse_parent("tenants/acme") == "acme"
