"""What tenants see: the right adapter's answer, whatever else runs in the batch, and nothing of anybody else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from adapter_store import read_base
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import TENANTS, Answer, Service, World, make_adapter, make_backbone

pytestmark = pytest.mark.slow

PROMPTS = ("name:Ada city:Paris", "the quick brown fox", "0123456789 abcdef", "x" * 150)


def expect(code: grpc.StatusCode, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value.details()
    assert words in caught.value.details()


def test_mixed_batch_equals_alone_and_equals_peft(service: Service, reference: Callable[..., str]) -> None:
    """Three tenants and the base at once, over two slots: each answer is what its adapter gives alone and under PEFT."""
    owners = [*TENANTS, None]
    wanted = [(owner, prompt) for prompt in PROMPTS for owner in owners]

    def ask(row: tuple[str | None, str]) -> Answer:
        owner, prompt = row
        return service.generate(owner or "acme", "task" if owner else "", prompt, max_tokens=24)

    with ThreadPoolExecutor(len(wanted)) as pool:
        mixed = list(pool.map(ask, wanted))
    alone = [ask(row) for row in wanted]
    for row, together, single in zip(wanted, mixed, alone, strict=True):
        assert together.text == single.text, row
        assert together.text == reference(row[0], row[1], 24), row
    # Otherwise the comparisons above could not tell one adapter from another.
    by_owner = {
        owner: tuple(answer.text for row, answer in zip(wanted, mixed, strict=True) if row[0] == owner)
        for owner in owners
    }
    assert len(set(by_owner.values())) == len(owners)


def test_answer_says_where_it_came_from(service: Service, world: World) -> None:
    base = service.generate("acme", "", "hello", max_tokens=4)
    assert (base.started.route, base.started.version) == (serving_pb2.ROUTE_BASE, "")
    assert base.started.tier == serving_pb2.TIER_UNSPECIFIED
    version = world.versions["acme"].version
    for model in ("task", "task:prod", f"task@{version}"):
        answer = service.generate("acme", model, "hello", max_tokens=4)
        assert (answer.started.route, answer.started.version) == (serving_pb2.ROUTE_SWAPPED, version)
    assert answer.finished.usage.prompt_tokens == 5
    assert 1 <= answer.finished.usage.completion_tokens <= 4
    assert 0 < answer.finished.timings.first_token_ms <= answer.finished.timings.total_ms


def test_unknown_and_foreign_names_are_not_found(service: Service, world: World) -> None:
    foreign = world.versions["globex"].version
    make = make_adapter(world.backbone, world.root / "adapters" / "private", rank=8, seed=77)
    world.publish("globex", "private", make)
    for model in ("nope", "task:nope", f"task@{'0' * 64}", f"task@{foreign}", "private"):
        expect(grpc.StatusCode.NOT_FOUND, "", lambda model=model: service.generate("acme", model, "hello"))
    request = serving_pb2.GenerateRequest(parent="tenants/globex", model="task", prompt="hello")
    for parent in ("tenants/globex", "tenants/nobody"):
        request.parent = parent
        call = service.stub.Generate(request, metadata=service.as_tenant("acme"))
        expect(grpc.StatusCode.NOT_FOUND, "no adapter task", lambda call=call: list(call))


def test_operator_calls_refuse_tenants(service: Service) -> None:
    tenant = service.as_tenant("acme")
    for call in (
        lambda: service.stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=tenant),
        lambda: service.stub.Evict(serving_pb2.EvictRequest(), metadata=tenant),
    ):
        expect(grpc.StatusCode.PERMISSION_DENIED, "operator", call)


def test_other_backbone_is_named(service: Service, world: World) -> None:
    import torch

    torch.manual_seed(5)
    other = make_backbone(world.root / "other-base")
    weights = other / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    world.publish(
        "acme", "moved", make_adapter(other, world.root / "adapters" / "moved", rank=8, seed=9), read_base(other)
    )
    expect(grpc.StatusCode.FAILED_PRECONDITION, "other-base", lambda: service.generate("acme", "moved", "hello"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"max_tokens": -1}, "sampling.max_tokens"),
        ({"max_tokens": 10**6}, "sampling.max_tokens"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_k": -5}, "sampling.top_k"),
        ({"stop": [""]}, "sampling.stop"),
    ],
)
def test_wrong_sampling_names_the_field(service: Service, more: dict[str, object], words: str) -> None:
    expect(grpc.StatusCode.INVALID_ARGUMENT, words, lambda: service.generate("acme", "", "hello", **more))


def test_long_prompt_gives_the_numbers(service: Service) -> None:
    expect(grpc.StatusCode.INVALID_ARGUMENT, "512", lambda: service.generate("acme", "", "y" * 600))
    expect(grpc.StatusCode.INVALID_ARGUMENT, "600", lambda: service.generate("acme", "", "y" * 600))


def test_chat_goes_through_the_adapters_template(service: Service) -> None:
    """A chat equals the same turns written out by hand."""
    messages = serving_pb2.Messages(messages=[serving_pb2.Message(role="user", content="hi there ")])
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=16)
    request = serving_pb2.GenerateRequest(model="task", chat=messages, sampling=sampling)
    chat = Answer.read(service.stub.Generate(request, metadata=service.as_tenant("acme")))
    by_hand = service.generate("acme", "task", "<|user|>\nhi there<|end|>\n<|assistant|>\n", max_tokens=16)
    assert chat.text == by_hand.text
    assert chat.finished.usage.prompt_tokens == by_hand.finished.usage.prompt_tokens


def test_seed_repeats_and_stop_cuts(service: Service) -> None:
    twice = [service.generate("acme", "task", "abc", temperature=1.0, seed=7).text for _ in range(2)]
    other = service.generate("acme", "task", "abc", temperature=1.0, seed=8).text
    assert twice[0] == twice[1] != other
    whole = service.generate("acme", "task", "abc").text
    cut = service.generate("acme", "task", "abc", stop=[whole[3:5]])
    assert cut.text == whole[: whole.index(whole[3:5])]
    assert cut.finished.finish_reason == "stop"
