"""gRPC Generate beyond the plain call: several answers, forms, penalties; and a client that has only reflection."""

import json
import re

import grpc
import jsonschema
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from graftwork.client.generation import collect
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"level": {"enum": ["low", "high"]}}, "required": ["level"]}
SCHEMA["additionalProperties"] = False


def ask(service: Service, sampling: serving_pb2.Sampling, **more: object) -> list[serving_pb2.GenerateResponse]:
    request = serving_pb2.GenerateRequest(model="task", prompt="name:Ada", sampling=sampling, **more)  # type: ignore[arg-type]
    return list(service.stub.Generate(request, metadata=service.as_tenant("acme"), timeout=120))


def test_n_answers_are_told_apart(service: Service) -> None:
    parts = ask(service, serving_pb2.Sampling(n=3, seed=5, max_tokens=16), logprobs=True)
    kinds = [part.WhichOneof("part") for part in parts]
    assert kinds[0] == "started"
    assert kinds.count("started") == 1
    assert sorted(part.index for part in parts if part.WhichOneof("part") == "finished") == [0, 1, 2]
    answer = collect(parts)
    assert len({choice.text for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert choice.finish_reason in {"stop", "length"}
        assert len(choice.logprobs) == choice.completion_tokens
    again = collect(ask(service, serving_pb2.Sampling(n=3, seed=5, max_tokens=16)))
    assert [choice.text for choice in again.choices] == [choice.text for choice in answer.choices]


def test_an_answer_keeps_its_form(service: Service) -> None:
    def text(**form: object) -> str:
        return collect(ask(service, serving_pb2.Sampling(seed=2, max_tokens=200, **form))).text  # type: ignore[arg-type]

    jsonschema.validate(json.loads(text(json_schema=json.dumps(SCHEMA))), SCHEMA)
    assert re.fullmatch("[x-z]{2,4}", text(regex="[x-z]{2,4}"))
    assert text(choices=serving_pb2.Choices(texts=["left", "right"])) in {"left", "right"}
    assert text(json_object=True).lstrip().startswith("{")


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (serving_pb2.Sampling(n=0), "sampling.n"),
        (serving_pb2.Sampling(n=2, temperature=0), "sampling.n"),
        (serving_pb2.Sampling(temperature=3), "sampling.temperature"),
        (serving_pb2.Sampling(min_p=2), "sampling.min_p"),
        (serving_pb2.Sampling(presence_penalty=float("nan")), "sampling.presence_penalty"),
        (serving_pb2.Sampling(repetition_penalty=-1), "sampling.repetition_penalty"),
        (serving_pb2.Sampling(regex="(["), "cannot be followed"),
        (serving_pb2.Sampling(json_schema="{"), "not JSON"),
        (serving_pb2.Sampling(json_schema='{"type": "nonsense"}'), "cannot be followed"),
        (serving_pb2.Sampling(choices=serving_pb2.Choices()), "sampling.choices"),
    ],
)
def test_what_cannot_be_is_refused(service: Service, sampling: serving_pb2.Sampling, words: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask(service, sampling)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
    assert words in refused.value.details()


def test_penalties_and_ends_change_answers(service: Service) -> None:
    plain = collect(ask(service, serving_pb2.Sampling(temperature=0, max_tokens=40)))
    varied = collect(ask(service, serving_pb2.Sampling(temperature=0, max_tokens=40, frequency_penalty=2)))
    assert len(set(varied.text)) > len(set(plain.text))
    on = collect(ask(service, serving_pb2.Sampling(seed=1, temperature=2, max_tokens=300, ignore_eos=True)))
    assert on.completion_tokens == 300


def test_a_client_with_nothing_but_reflection_generates(service: Service) -> None:
    """As grpcurl does: message types from the server, no stub of ours."""
    database = ProtoReflectionDescriptorDatabase(service.channel)
    assert "graftwork.v1.ServingService" in database.get_services()
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName("graftwork.v1.ServingService").FindMethodByName("Generate")
    request_type = message_factory.GetMessageClass(method.input_type)
    response_type = message_factory.GetMessageClass(method.output_type)
    call = service.channel.unary_stream(
        "/graftwork.v1.ServingService/Generate",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    request = request_type(model="task", prompt="name:Ada")
    request.sampling.temperature, request.sampling.max_tokens = 0.0, 8
    parts = list(call(request, metadata=service.as_tenant("acme"), timeout=60))
    text = "".join(part.text for part in parts if part.WhichOneof("part") == "text")
    assert text == service.generate("acme", "task", "name:Ada", max_tokens=8).text
