"""Sessions over real HTTP and gRPC: who gets in, what their cookie is worth, and which forms are taken."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from graftwork.console.app import create_app
from graftwork.console.guard import SAFE_METHODS, SECURITY_HEADERS
from graftwork.console.settings import ConsoleSettings
from graftwork.console.visitor import BACKGROUND_HEADER
from tests.integration.console.conftest import World
from tests.integration.console.console_browser import Browser, readable
from tests.integration.registry.registry_process import OPERATOR

Visit = Callable[[], Browser]
PUBLIC = {"/signin", "/signout", "/healthz"}


def routes(app: FastAPI) -> list[APIRoute]:
    found = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(found) > 20
    return found


def filled(route: APIRoute) -> str:
    return route.path.format(**dict.fromkeys(route.param_convertors, "x"))


def test_no_page_but_the_sign_in_shows_itself_to_a_stranger(visit: Visit) -> None:
    stranger = visit()
    for route in routes(create_app(ConsoleSettings())):
        if "GET" in route.methods and route.path not in PUBLIC:
            answer = stranger.get(filled(route))
            assert answer.status_code == 303, route.path
            assert answer.headers["location"].startswith("/signin"), route.path


def test_no_form_is_taken_without_the_sessions_token(operator: Browser) -> None:
    tried = 0
    for route in routes(create_app(ConsoleSettings())):
        for method in route.methods - set(SAFE_METHODS):
            for token in ({}, {"form_token": ""}, {"form_token": "0" * 64}):
                answer = operator.http.request(method, filled(route), data=token)
                assert answer.status_code == 403, route.path
                tried += 1
    assert tried > 20


def test_a_token_of_another_session_is_refused(operator: Browser, visit: Visit, world: World) -> None:
    other = visit()
    other.sign_in(OPERATOR)
    other.page("/tenants")
    operator.token = other.token
    assert operator.send("/tenants", tenant="planted").status_code == 403
    assert "planted" not in other.page("/tenants")


@pytest.mark.parametrize(
    "headers", [{"origin": "https://elsewhere.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_a_form_from_another_site_is_refused_even_with_the_token(operator: Browser, headers: dict[str, str]) -> None:
    operator.page("/tenants")
    data = {"form_token": operator.token, "tenant": "planted"}
    assert operator.http.post("/tenants", data=data, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "key", ["", "hello", "gwop_wrong", "gw_acme_wrong", "gw_nobody_x", "gw_a_b_c", "gwop_é", "gw_" + "a" * 5000]
)
def test_a_wrong_key_gets_no_session_and_is_not_shown_again(visit: Visit, key: str) -> None:
    stranger = visit()
    answer = stranger.sign_in(key)
    assert answer.status_code == 401
    assert "not valid" in readable(answer.text)
    assert not key or key not in answer.text
    assert stranger.get("/").status_code == 303


def test_after_ten_wrong_keys_the_address_waits_and_a_right_one_does_too(visit: Visit) -> None:
    stranger = visit()
    codes = [stranger.sign_in("gwop_wrong").status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]
    assert stranger.sign_in(OPERATOR).status_code == 429


def test_behind_a_proxy_a_guesser_cannot_make_up_where_they_come_from(world: World) -> None:
    settings = world.settings.model_copy(update={"behind_tls_proxy": True, "failed_sign_ins_per_minute": 2})
    app = create_app(settings)
    with TestClient(app, base_url="https://console.example") as client:
        browser = Browser(client)

        def guess(forwarded: str) -> int:
            data = {"form_token": browser.token, "key": "gwop_wrong"}
            return client.post("/signin", data=data, headers={"x-forwarded-for": forwarded}).status_code

        browser.get("/signin")
        assert [guess(f"10.0.0.{number}, 192.0.2.1") for number in range(3)] == [401, 401, 429]
        assert guess("10.0.0.1, 192.0.2.2") == 401, "others are not held up"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_changes_with_the_session(visit: Visit) -> None:
    browser = visit()
    before = browser.get("/signin").headers["set-cookie"]
    after = browser.send("/signin", key=OPERATOR).headers["set-cookie"]
    for cookie in (before, after):
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert OPERATOR not in cookie
    assert before.split(";")[0] != after.split(";")[0]


def test_behind_tls_the_cookie_is_bound_to_it(world: World) -> None:
    settings = world.settings.model_copy(update={"behind_tls_proxy": True})
    with TestClient(create_app(settings), base_url="https://console.example") as client:
        answer = client.get("/signin")
    assert answer.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in answer.headers["set-cookie"]
    assert "max-age" in answer.headers["strict-transport-security"]


def test_signing_out_ends_the_session_for_whoever_kept_its_cookie(operator: Browser) -> None:
    kept = dict(operator.http.cookies)
    operator.page("/")
    assert operator.send("/signout").status_code == 303
    operator.http.cookies.clear()
    operator.http.cookies.update(kept)
    assert operator.get("/tenants").status_code == 303


def test_a_visitor_comes_back_to_the_page_that_they_asked_for_and_to_no_other_site(visit: Visit) -> None:
    browser = visit()
    assert browser.get("/jobs").headers["location"] == "/signin?next=/jobs"
    browser.get("/signin")
    assert browser.send("/signin", key=OPERATOR, next="/jobs").headers["location"] == "/jobs"
    for planted in ("//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\nx"):
        other = visit()
        other.get("/signin")
        assert other.send("/signin", key=OPERATOR, next=planted).headers["location"] == "/"


def test_a_link_from_another_site_does_not_sign_a_visitor_out(operator: Browser) -> None:
    cookies = dict(operator.http.cookies)
    operator.http.cookies.clear()  # SameSite=Strict: the browser keeps it back
    for path in ("/tenants", "/signin"):
        answer = operator.get(path, **{"sec-fetch-site": "cross-site"})
        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
        assert "set-cookie" not in answer.headers
    operator.http.cookies.update(cookies)
    assert "acme" in operator.page("/tenants")


def test_every_answer_binds_the_browser_and_pages_are_not_kept(operator: Browser) -> None:
    for path in ("/", "/tenants", "/nowhere", "/static/console.css", "/healthz", "/signin"):
        headers = operator.get(path).headers
        for name, value in SECURITY_HEADERS.items():
            assert headers[name] == value, path
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")


def test_pages_hold_nothing_that_the_policy_would_stop_and_no_key(operator: Browser, world: World) -> None:
    support = "/tenants/acme/adapters/support"
    for path in ("/", "/tenants", "/tenants/acme", "/adapters", support, f"{support}/aliases/prod", "/jobs-none"):
        text = operator.get(path).text
        for forbidden in (
            " style=",
            "<style",
            "<script>",
            " onclick=",
            "http://",
            "https://",
            OPERATOR,
            *world.keys.values(),
        ):
            assert forbidden not in text, (path, forbidden)


def test_a_key_that_is_revoked_meanwhile_leads_back_to_the_sign_in(visit: Visit, world: World) -> None:
    with world.registry.client() as client:
        issued = client.create_key("bloom", "for a moment")
        browser = visit()
        browser.sign_in(issued.secret)
        assert "bloom" in browser.page("/tenants/bloom")
        client.revoke_key("bloom", issued.key.id)
    answer = browser.get("/tenants/bloom")
    assert "it was revoked, or its tenant is disabled" in browser.page(answer.headers["location"])
    assert browser.get("/").headers["location"].startswith("/signin")


def test_an_ended_session_is_said_so_and_goes_on_where_it_was(world: World) -> None:
    app = create_app(world.settings)
    with TestClient(app, follow_redirects=False) as client:
        browser = Browser(client)
        assert browser.get("/tenants/acme").headers["location"] == "/signin?next=/tenants/acme", (
            "nobody's session ended"
        )
        browser.get("/signin")
        assert browser.get("/tenants/acme").headers["location"] == "/signin?next=/tenants/acme"
        browser.sign_in(OPERATOR)
        browser.page("/tenants")
        app.state.sessions.close()  # as after 30 idle minutes, or when the console is started again
        led = browser.send("/tenants", tenant="planted").headers["location"]
        assert "was not carried out" in browser.page(led)
        browser.sign_in(OPERATOR)
        assert "planted" not in browser.page("/tenants")
        app.state.sessions.close()
        assert browser.get("/tenants/acme", **{BACKGROUND_HEADER: "1"}).status_code == 401
        led = browser.get("/tenants/acme").headers["location"]
        assert "Your session has ended" in browser.page(led)
        assert browser.send("/signin", key=OPERATOR, next="/tenants/acme").headers["location"] == "/tenants/acme"
        browser.page("/")
        browser.send("/signout")
        assert browser.get("/").headers["location"] == "/signin", "signing out is no end to be told of"


def test_a_form_that_is_too_large_is_refused(operator: Browser) -> None:
    operator.page("/tenants")
    assert operator.send("/tenants", tenant="x" * 300_000).status_code == 413


def test_a_service_that_is_away_is_named_and_what_to_do(visit: Visit, world: World) -> None:
    with TestClient(create_app(ConsoleSettings(trainer="127.0.0.1:1")), follow_redirects=False) as client:
        answer = Browser(client).sign_in(OPERATOR)
    assert answer.status_code == 503
    assert "graft up" in readable(answer.text)
    # Serving knows the keys too: who runs the installation gets in, and sees what is away.
    settings = ConsoleSettings(trainer="127.0.0.1:1", serving=world.registry.address)
    with TestClient(create_app(settings), follow_redirects=False) as client:
        browser = Browser(client)
        assert browser.sign_in(OPERATOR).status_code == 303
        assert "Trainer away" in browser.page("/")
        away = browser.get("/adapters")
        assert away.status_code == 503
        assert "No service answers at 127.0.0.1:1" in readable(away.text)
        assert "try again in a minute" in readable(away.text)
        assert 'href="/adapters">Try again' in away.text
