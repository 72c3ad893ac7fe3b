"""Tenants and adapters as a visitor sees and changes them, on a real registry."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from starlette.testclient import TestClient

from graftwork.client import Client
from graftwork.console.pages import LINKS
from graftwork.console.visitor import BACKGROUND_HEADER
from tests.integration.console.conftest import ADAPTER, World
from tests.integration.console.console_browser import Browser, readable

SUPPORT = f"/{ADAPTER}"


def refusal(browser: Browser, path: str) -> str:
    """What a page says that is not there, without the ids of this very request."""
    answer = browser.get(path)
    assert answer.status_code == 404, path
    return re.sub(r"[0-9a-f]{16}", "ID", readable(answer.text))


def test_an_operator_sees_all_tenants_and_their_limits(operator: Browser) -> None:
    text = operator.page("/tenants")
    assert "acme active 1 unlimited" in text
    assert "bloom" in text


def test_a_tenants_key_sees_that_tenant_alone(acme: Browser) -> None:
    assert acme.get("/tenants").headers["location"] == "/tenants/acme"
    assert "first key" in acme.page("/tenants/acme")
    for path in ("/tenants/bloom", "/tenants/bloom/adapters/support", "/adapters?tenant=bloom"):
        theirs, nobodys = refusal(acme, path), refusal(acme, path.replace("bloom", "nobody"))
        assert theirs.replace("bloom", "nobody") == nobodys
    for path in ("/", "/adapters"):
        assert "bloom" not in acme.page(path)


def test_operators_forms_refuse_a_tenants_key(acme: Browser) -> None:
    acme.page("/tenants/acme")
    for path, fields in {
        "/tenants": {"tenant": "mine"},
        "/tenants/acme/limits": {"weight": "1000", "expected": "1"},
        "/tenants/acme/disable": {"disabled": "no", "expected": "1"},
    }.items():
        assert acme.send(path, **fields).status_code == 403, path


def test_a_viewers_key_sees_all_tenants_and_what_it_may_not_do_is_said(viewer: Browser) -> None:
    assert "viewer looker" in viewer.page("/")
    assert "bloom" in viewer.page("/tenants")
    assert viewer.send("/tenants", tenant="planted").status_code == 403
    assert "planted" not in viewer.page("/tenants")
    answer = viewer.send("/tenants/bloom/keys", display_name="mine")
    assert answer.status_code == 403
    assert "only looks" in readable(answer.text)


@pytest.mark.parametrize("role", ["operator", "viewer", "acme"])
def test_no_page_offers_what_it_then_refuses(role: str, request: pytest.FixtureRequest, world: World) -> None:
    """Every link and form that a visitor can come upon, from the overview on."""
    browser: Browser = request.getfixturevalue(role)
    seen, following, forms = set[str](), ["/"], set[str]()
    while following:
        path = following.pop()
        seen.add(path)
        answer = browser.get(path)
        assert answer.status_code != 403, f"a {role} is led to {path}"
        found = {unescape(link) for link in re.findall(r'href="(/[^"]*)"', answer.text)}
        following += [link for link in found - seen - set(following) if not link.startswith("/static/")]
        forms |= {unescape(form) for form in re.findall(r'method="post" action="([^"]*)"', answer.text)}
        forms |= {
            path for form in re.findall(r"<form ([^>]*)>", answer.text) if "post" in form and "action" not in form
        }
    assert f"{SUPPORT}/versions/{world.versions[0]}" in seen
    operators = ("/limits", "/disable", "/pin", "/evict", "/demote")
    told = {form for form in forms if form == "/tenants" or form.partition("?")[0].endswith(operators)}
    if role == "operator":
        assert {"/tenants", "/tenants/acme/limits", "/tenants/bloom/disable"} <= told
        return
    assert told == set()
    if role == "viewer":
        assert {form.rpartition("/")[2] for form in forms} == {"signout", "verify"}
    else:
        assert {"/tenants/acme/keys", f"{SUPPORT}/aliases/prod/rollback"} <= forms


def test_a_new_tenants_key_is_shown_once(operator: Browser, world: World) -> None:
    operator.page("/tenants")
    text = operator.change("/tenants", tenant="cargo")
    assert "gw_cargo_" in text
    assert "gw_cargo_" not in operator.page("/tenants/cargo")
    assert "exists" in operator.change("/tenants", tenant="cargo")
    assert "tenant id" in operator.change("/tenants", tenant="../etc")


def test_a_page_that_refreshes_itself_takes_no_key_away_that_a_person_is_to_read(operator: Browser) -> None:
    operator.page("/tenants")
    answer = operator.send("/tenants/bloom/keys", display_name="second")
    assert "gw_bloom_" not in operator.get("/jobs-elsewhere", **{BACKGROUND_HEADER: "1"}).text
    assert "gw_bloom_" not in operator.get("/adapters", **{BACKGROUND_HEADER: "1"}).text
    assert "gw_bloom_" in operator.page(answer.headers["location"])


def test_limits_are_set_and_a_form_that_is_out_of_date_changes_nothing(operator: Browser, world: World) -> None:
    with world.registry.client() as client:
        number = str(client.get_tenant("bloom").number)
        operator.page("/tenants/bloom")
        fields = {"weight": "3", "expected": number, "requests_per_minute": "60"}
        assert "are set" in operator.change("/tenants/bloom/limits", **fields)
        changed = client.get_tenant("bloom")
        assert (changed.weight, changed.limits.requests_per_minute, changed.limits.concurrency) == (3, 60, 0)
        assert "are set" not in operator.change("/tenants/bloom/limits", **(fields | {"weight": "9"}))
        assert "no whole number" in operator.change(
            "/tenants/bloom/limits", weight="many", expected=str(changed.number)
        )
        assert client.get_tenant("bloom") == changed


def test_disabling_is_asked_about_first_and_can_be_taken_back(operator: Browser, world: World) -> None:
    with world.registry.client() as client:
        client.create_tenant("delta")
        assert "every service refuses its keys" in operator.page("/tenants/delta/disable")
        assert not client.get_tenant("delta").disabled
        number = str(client.get_tenant("delta").number)
        assert "delta disabled" in operator.change("/tenants/delta/disable", disabled="yes", expected=number)
        assert client.get_tenant("delta").disabled
        assert "keys are taken again" in operator.page("/tenants/delta/disable")


def test_a_tenant_issues_and_revokes_its_own_keys(acme: Browser, world: World) -> None:
    acme.page("/tenants/acme")
    assert "gw_acme_" in acme.change("/tenants/acme/keys", display_name="<b>robot</b>")
    with world.registry.client() as client:
        key = client.list_keys("acme")[-1]
    assert "<b>robot</b>" in readable(acme.get("/tenants/acme").text), "a name is text, whatever it holds"
    assert "whoever uses it is refused" in acme.page(f"/tenants/acme/keys/{key.id}/revoke")
    assert f"{key.id} is revoked" in acme.change(f"/tenants/acme/keys/{key.id}/revoke")


def test_an_adapter_shows_its_aliases_and_all_versions(acme: Browser, world: World) -> None:
    text = acme.page(SUPPORT)
    assert all(digest[:12] in text for digest in world.versions)
    assert f"prod {world.versions[1][:12]}" in text
    listed = text.partition("Made by Created")[2]
    places = [listed.index(digest[:12]) for digest in world.versions]
    assert places == sorted(places, reverse=True), "newest first"
    assert "support" in acme.page("/adapters")


def test_a_version_shows_where_it_comes_from(acme: Browser, world: World) -> None:
    text = acme.page(f"{SUPPORT}/versions/{world.versions[0]}")
    assert world.versions[0] in text
    assert "registered by" in text
    assert "adapter_model.safetensors" in text
    assert "what the manifest names" in acme.change(f"{SUPPORT}/versions/{world.versions[0]}/verify")


def test_two_versions_are_compared(acme: Browser, world: World) -> None:
    text = acme.page(f"{SUPPORT}/versions/{world.versions[0]}/compare?other={world.versions[1]}")
    assert "q_proj" in text
    assert world.versions[1][:12] in text


def test_promote_asks_moves_and_roll_back_returns(acme: Browser, world: World) -> None:
    first, second, third = world.versions
    with world.registry.client() as client:
        prod = next(alias for alias in client.get_adapter(ADAPTER).aliases if alias.name.endswith("/prod"))
        assert prod.version == second
        asked = acme.page(f"{SUPPORT}/versions/{third}/promote")
        assert f"prod {second[:12]}" in asked
        assert client.get_adapter(ADAPTER).aliases[0] == prod, "asking moves nothing"
        choice = f"prod:{prod.number}"
        text = acme.change(f"{SUPPORT}/versions/{third}/promote", alias=choice, reason="better on refunds")
        assert f"prod is {third[:12]} now" in text
        stale = acme.change(f"{SUPPORT}/versions/{first}/promote", alias=choice)
        assert f"prod is {first[:12]} now" not in stale, "somebody who saw an older record does not overwrite"
        history = acme.page(f"{SUPPORT}/aliases/prod")
        assert "better on refunds" in history
        assert f"Roll back to {second[:12]}" in history
        assert f"Then {second[:12]}" in acme.page(f"{SUPPORT}/aliases/prod/rollback")
        number = str(client.alias_history(f"{ADAPTER}/aliases/prod")[0].number)
        back = acme.change(f"{SUPPORT}/aliases/prod/rollback", expected=number, reason="worse on returns")
        assert f"prod is {second[:12]} now" in back
        assert f"Roll back to {first[:12]}" in back, "again goes one further back, not forth"
        again = acme.change(f"{SUPPORT}/aliases/prod/rollback", expected=number)
        assert f"prod is {first[:12]} now" not in again
        assert client.alias_history(f"{ADAPTER}/aliases/prod")[0].version == second


def test_a_new_alias_can_be_made_and_the_first_has_nothing_before(acme: Browser, world: World) -> None:
    acme.page(f"{SUPPORT}/versions/{world.versions[0]}/promote")
    path = f"{SUPPORT}/versions/{world.versions[0]}/promote"
    assert "canary is" in acme.change(path, alias="new", new_alias="canary")
    assert "Name the new alias" in acme.change(path, alias="new", new_alias=" ")
    assert "alias" in acme.change(path, alias="new", new_alias="Not A Name")
    assert "nothing to go back to" in acme.page(acme.get(f"{SUPPORT}/aliases/canary/rollback").headers["location"])


def test_the_route_of_an_alias_is_set(acme: Browser, world: World) -> None:
    acme.page(f"{SUPPORT}/aliases/prod")
    assert "served merged" in acme.change(f"{SUPPORT}/aliases/prod/route", route="merged")
    assert "route" in acme.change(f"{SUPPORT}/aliases/prod/route", route="teleported")
    assert "served swapped" in acme.change(f"{SUPPORT}/aliases/prod/route", route="swapped")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/tenants/nobody", "/tenants/acme/adapters/none", "/tenants/%2e%2e/adapters/x"]
)
def test_what_is_not_there_is_said_so(operator: Browser, path: str) -> None:
    answer = operator.get(path)
    assert answer.status_code in (400, 404)
    assert "Overview" in readable(answer.text)


def test_the_audit_log_says_who_changed_what_from_what_to_what(operator: Browser, acme: Browser, world: World) -> None:
    acme.page(f"{SUPPORT}/versions/{world.versions[2]}/promote")
    acme.change(
        f"{SUPPORT}/versions/{world.versions[2]}/promote", alias="new", new_alias="audited", reason="for the log"
    )
    operator.page("/tenants/bloom")
    operator.send("/tenants/bloom/keys", display_name="bloom's")
    text = acme.page("/audit?action=SetAlias")
    entry = text[text.index(f"{ADAPTER}/aliases/audited") :]
    assert "ok" in entry
    assert world.versions[2] in entry
    assert "for the log" in entry
    assert "tenants/bloom" not in acme.page("/audit")
    assert "tenants/bloom" in operator.page("/audit?tenant=bloom&action=CreateApiKey")
    assert "No entries fit" in operator.page("/audit?actor=nobody-of-this-name")
    assert acme.get("/audit?tenant=bloom").status_code == 404


def test_the_navigation_leads_to_pages_that_are_there(operator: Browser) -> None:
    there = {getattr(route, "path", "") for route in operator.http.app.routes}  # type: ignore[attr-defined]
    paths = {link.path for link in LINKS}
    assert paths <= there
    assert all(f'href="{path}"' in operator.get("/").text for path in paths)


def test_a_page_fails_without_a_word_of_the_cause(
    visit: Callable[[], Browser], operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(Client, "list_tenants", broken)
    app = operator.http.app  # type: ignore[attr-defined]
    with TestClient(app, raise_server_exceptions=False, cookies=operator.http.cookies) as client:
        answer = client.get("/tenants")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"]
