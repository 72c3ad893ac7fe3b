"""Sessions end when they should, and hold no more than they may."""

import pytest
from pydantic import ValidationError

from graftwork.console.attempts import Attempts
from graftwork.console.errors import TooMany
from graftwork.console.sessions import MAX_STREAMS, Sessions
from graftwork.console.settings import ConsoleSettings
from graftwork.rpc.auth import Principal, Role

WHO = Principal(Role.OPERATOR, None, "id")
KEY = "gwop_secret"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sessions(clock: Clock, **settings: float) -> Sessions:
    return Sessions(ConsoleSettings.model_validate(settings), clock)


def test_a_session_ends_by_idleness_and_a_page_that_asks_by_itself_does_not_prolong_it(clock: Clock) -> None:
    kept = sessions(clock, idle_seconds=100)
    active, watched = kept.begin(KEY, WHO), kept.begin(KEY, WHO)
    for _ in range(3):
        clock.now += 60
        assert kept.find(active.id, touch=True) is active
        seen = kept.find(watched.id, touch=False)
    assert seen is None
    assert len(kept) == 1


def test_a_session_ends_by_age_however_busy(clock: Clock) -> None:
    kept = sessions(clock, idle_seconds=100, session_seconds=250)
    session = kept.begin(KEY, WHO)
    found = []
    for _ in range(6):
        clock.now += 50
        found.append(kept.find(session.id, touch=True) is session)
    assert found == [True] * 5 + [False]


def test_the_session_that_was_idle_longest_makes_room(clock: Clock) -> None:
    kept = sessions(clock, max_sessions=2)
    first, second = kept.begin(KEY, WHO), kept.begin(KEY, WHO)
    clock.now += 1
    kept.find(first.id, touch=True)
    third = kept.begin(KEY, WHO)
    assert [kept.find(one.id, touch=False) for one in (first, second, third)] == [first, None, third]


def test_a_sessions_text_names_neither_its_key_nor_its_cookie(clock: Clock) -> None:
    session = sessions(clock).begin(KEY, WHO)
    assert KEY not in repr(session)
    assert session.id not in repr(session)


def test_form_tokens_are_of_one_session_of_one_process(clock: Clock) -> None:
    kept = sessions(clock)
    assert kept.is_form_token("a", kept.form_token("a"))
    assert not kept.is_form_token("b", kept.form_token("a"))
    assert not kept.is_form_token("a", sessions(clock).form_token("a"))
    assert not kept.is_form_token("", kept.form_token(""))
    assert not kept.is_form_token("a", "é")


def test_streams_of_a_session_are_bounded_and_given_back(clock: Clock) -> None:
    session = sessions(clock).begin(KEY, WHO)
    open_streams = [session.one_stream() for _ in range(MAX_STREAMS)]
    for stream in open_streams:
        stream.__enter__()
    with pytest.raises(TooMany), session.one_stream():
        pass
    open_streams[0].__exit__(None, None, None)
    with session.one_stream():
        pass


def test_the_client_follows_a_service_that_started_again_elsewhere(clock: Clock, tmp_path) -> None:  # type: ignore[no-untyped-def]
    address = tmp_path / "trainer.address"
    settings = ConsoleSettings(trainer_address_file=address)
    session = sessions(clock).begin(KEY, WHO)
    assert "nonexistent" in session.client(settings).trainer.target
    address.write_text("127.0.0.1:5\n")
    first = session.client(settings)
    assert first.trainer.target == "127.0.0.1:5"
    assert session.client(settings) is first
    address.write_text("127.0.0.1:6\n")
    assert session.client(settings).trainer.target == "127.0.0.1:6"


def test_failed_sign_ins_of_an_address_are_forgotten_after_a_minute(clock: Clock) -> None:
    attempts = Attempts(2, clock)
    attempts.failed("a")
    attempts.failed("a")
    attempts.check("b")
    with pytest.raises(TooMany, match="60 s"):
        attempts.check("a")
    clock.now += 61
    attempts.check("a")


def test_a_host_that_others_reach_needs_tls(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValidationError, match="unencrypted"):
        ConsoleSettings(host="0.0.0.0")
    assert ConsoleSettings(host="0.0.0.0", behind_tls_proxy=True).secure
    assert not ConsoleSettings(host="127.0.0.1").secure
    assert not ConsoleSettings(host="::1").secure
    with pytest.raises(ValidationError, match="tls_certificate"):
        ConsoleSettings(tls_key=tmp_path / "key.pem")
