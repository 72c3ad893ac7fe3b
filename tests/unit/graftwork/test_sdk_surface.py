"""What a developer sees of the SDK: both clients alike, everything typed and frozen, nothing of the protocol left out."""

import dataclasses
import inspect
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import graftwork
from graftwork import sdk
from graftwork.sdk import AsyncClient, AsyncJob, Client, Job, Message, Recipe
from graftwork.sdk.answers import Options, generate
from graftwork.sdk.job_events import JobEvent, read_event
from graftwork.sdk.job_states import JobState, ProbeOutcome, read_state
from graftwork.sdk.names import NoFullDigest, Scope, TenantMissing
from graftwork.sdk.places import find_places
from graftwork.v1 import serving_pb2, trainer_pb2

DIGEST = "0123456789abcdef" * 4
PARTS = ["tenants", "datasets", "jobs", "adapters", "serving", "audit"]


def calls_of(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(found)
        for name, found in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in ("close", "aclose")
    }


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with both services and the operator's key; nothing in the environment."""
    for name in ("TRAINER", "SERVING", "API_KEY", "TLS_CA", "TLS_CERTIFICATE", "TLS_KEY", "HOME"):
        monkeypatch.delenv(f"GRAFT_{name}", raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trainer.address").write_text("127.0.0.1:1\n")
    (tmp_path / "run/serving.address").write_text("127.0.0.1:2\n")
    (tmp_path / "operator.key").write_text("gwop_mine\n")
    return tmp_path


async def test_both_clients_have_the_same_calls_with_the_same_arguments_and_all_are_described(places: Path) -> None:
    async with AsyncClient(home=places) as asynchronous:
        with Client(home=places) as blocking:
            pairs = [(type(getattr(blocking, part)), type(getattr(asynchronous, part))) for part in PARTS]
    for one, other in [*pairs, (Client, AsyncClient), (Job, AsyncJob)]:
        ours, theirs = calls_of(one), calls_of(other)
        assert ours.keys() == theirs.keys()
        for name, signature in ours.items():
            assert [str(item) for item in signature.parameters.values()] == [
                str(item) for item in theirs[name].parameters.values()
            ], name
            described = inspect.getdoc(getattr(one, name)) or ""
            assert len(described) > 20, f"{one.__name__}.{name}"
            assert inspect.getdoc(getattr(other, name)), name
    assert inspect.signature(Client).parameters.keys() == inspect.signature(AsyncClient).parameters.keys()


@pytest.mark.parametrize("name", sdk.__all__)
def test_everything_is_offered_by_graftwork_itself_and_described(name: str) -> None:
    found = getattr(graftwork, name)
    assert found is getattr(sdk, name)
    assert inspect.getdoc(found)
    assert not dataclasses.is_dataclass(found) or found.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_importing_graftwork_alone_loads_no_grpc_and_the_client_loads_nothing_heavy() -> None:
    code = (
        "import sys, graftwork; assert 'grpc' not in sys.modules; from graftwork import Client, AsyncClient;"
        "assert not {'torch', 'numpy', 'vllm', 'fastapi', 'typer'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        graftwork.Nonsense  # noqa: B018
    assert not hasattr(graftwork, "nonsense")


# Where the services are


def test_without_arguments_the_homes_services_get_the_homes_key(places: Path) -> None:
    found = find_places(None, None, None, None, places)
    assert (found.trainer, found.serving, found.api_key, found.tenant) == (
        "127.0.0.1:1",
        "127.0.0.1:2",
        "gwop_mine",
        None,
    )
    assert "gwop_mine" not in repr(found)


def test_the_homes_key_is_not_sent_to_an_address_that_somebody_named(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_places("elsewhere:1", None, None, None, places).api_key is None
    monkeypatch.setenv("GRAFT_SERVING", "elsewhere:2")
    found = find_places(None, None, None, None, places)
    assert (found.serving, found.api_key) == ("elsewhere:2", None)


def test_arguments_come_before_the_environment_and_a_tenants_key_names_its_tenant(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_API_KEY", "gw_acme_x")
    monkeypatch.setenv("GRAFT_TRAINER", "env:1")
    assert find_places(None, None, None, None, places).tenant == "acme"
    found = find_places("arg:1", None, "gw_bloom_x", None, places)
    assert (found.trainer, found.tenant) == ("arg:1", "bloom")


def test_nobody_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAFT_TRAINER", "GRAFT_SERVING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(graftwork.NotRunning, match=r"graft up.*GRAFT_TRAINER"):
        Client(home=tmp_path)


# Names


def test_ids_and_full_names_mean_the_same() -> None:
    scope = Scope("acme")
    assert scope.adapter("support") == scope.adapter("tenants/acme/adapters/support") == "tenants/acme/adapters/support"
    assert scope.version_or_alias("support", "prod") == "tenants/acme/adapters/support/aliases/prod"
    assert scope.version_or_alias("support", DIGEST) == f"tenants/acme/adapters/support/versions/{DIGEST}"
    assert Scope(None).job("tenants/acme/jobs/j") == "tenants/acme/jobs/j"


def test_without_a_tenant_an_id_is_refused_with_what_to_do() -> None:
    with pytest.raises(TenantMissing, match="for_tenant"):
        Scope(None).adapter("support")


def test_the_beginning_of_a_digest_is_refused() -> None:
    with pytest.raises(NoFullDigest, match="64 hex digits"):
        Scope("acme").version("support", DIGEST[:12])


# Nothing of the protocol is left out


def test_a_recipe_has_every_field_of_the_protocols_and_carries_all() -> None:
    wire = {field.name for field in trainer_pb2.Recipe.DESCRIPTOR.fields}
    assert {field.name for field in dataclasses.fields(Recipe)} == wire
    message = trainer_pb2.Recipe(preset="lora", rank=0, dropout=0.0, target_modules=["a", "b"], use_rslora=False)
    assert Recipe.of(message).message() == message
    assert Recipe().message() == trainer_pb2.Recipe()


def test_every_sampling_field_is_an_option() -> None:
    for field in serving_pb2.Sampling.DESCRIPTOR.fields:
        assert field.name in Options.__annotations__, field.name
    options = Options(
        max_tokens=1, temperature=0.0, top_p=0.5, top_k=3, min_p=0.1, seed=0, stop=["x"], n=1, frequency_penalty=0.5,
        presence_penalty=-0.5, repetition_penalty=1.5, ignore_eos=True, regex="a+",
    )  # fmt: skip
    sampling = generate("", "", "hi", options, None).request.sampling
    for name, value in options.items():
        got = getattr(sampling, name)
        assert (list(got) if name == "stop" else got) == pytest.approx(value), name


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"json_schema": {"type": "object"}}, '{"type": "object"}'),
        ({"json_schema": '{"type":"object"}'}, '{"type":"object"}'),
        ({"json_object": True}, True),
        ({"choices": ["yes", "no"]}, serving_pb2.Choices(texts=["yes", "no"])),
    ],
)
def test_a_constraint_is_sent(options: Options, sent: object) -> None:
    sampling = generate("", "", "hi", options, None).request.sampling
    assert getattr(sampling, sampling.WhichOneof("constraint")) == sent


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("hi", {"temprature": 0}, TypeError),
        ("hi", {"regex": "a", "choices": ["b"]}, ValueError),
        ([], {}, ValueError),
        ([1, 2], {"raw": True}, ValueError),
        ([Message("user", "hi")], {"input": "x"}, ValueError),
        ("hi", {"raw": True, "input": "x"}, ValueError),
    ],
)
def test_what_cannot_be_meant_fails_before_it_is_sent(prompt: object, options: Options, error: type[Exception]) -> None:
    with pytest.raises(error):
        generate("", "", prompt, options, None)  # type: ignore[arg-type]


def test_prompts_become_turns_text_or_tokens() -> None:
    turn = generate("", "", "greet", {"input": "name:Tisis"}, None).request
    assert [(item.role, item.content) for item in turn.chat.messages] == [("user", "greet\nname:Tisis")]
    assert generate("", "", "as it is", {"raw": True}, None).request.prompt == "as it is"
    assert list(generate("", "", [5, 6], {}, None).request.tokens.ids) == [5, 6]


@pytest.mark.parametrize(
    "kind", [field.name for field in trainer_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["event"].fields]
)
def test_every_kind_of_event_has_a_class_with_all_its_fields(kind: str) -> None:
    message = trainer_pb2.JobEvent(number=4)
    message.time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    getattr(message, kind).SetInParent()
    event = read_event(message)
    assert type(event) is not JobEvent
    assert (event.number, event.time) == (4, datetime(2026, 1, 2, tzinfo=UTC))
    body = trainer_pb2.JobEvent.DESCRIPTOR.fields_by_name[kind].message_type
    assert {field.name for field in dataclasses.fields(event)} == {field.name for field in body.fields} | {
        "number",
        "time",
    }


def test_enumerations_are_the_protocols_and_a_newer_services_value_is_unspecified() -> None:
    assert {f"JOB_STATE_{state.name}" for state in JobState} == set(trainer_pb2.JobState.keys())
    assert {f"PROBE_OUTCOME_{outcome.name}" for outcome in ProbeOutcome} == set(trainer_pb2.ProbeOutcome.keys())
    assert read_state(999) is JobState.UNSPECIFIED
