"""Steps feel a load until a moment after its end."""

from serving_service.vllm_plugin.loads import STILL_S, Loads


def test_a_load_is_felt_from_its_beginning_until_a_moment_after_its_end() -> None:
    now = 100.0
    loads = Loads(lambda: now)
    assert not loads.felt()
    loads.tell(False)
    assert not loads.felt(), "there was none that could have ended"
    loads.tell(True)
    now += 10.0
    assert loads.felt()
    loads.tell(False)
    now += STILL_S * 0.9
    assert loads.felt()
    loads.tell(False)
    now += STILL_S * 0.2
    assert not loads.felt(), "saying it twice does not prolong it"
