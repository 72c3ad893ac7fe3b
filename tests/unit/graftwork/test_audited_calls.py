"""The interceptor's part of the audit log: written before, ended once, whatever becomes of the call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.audit import Attempt, found_before
from graftwork.rpc.auth import Principal, Role, Unauthenticated
from graftwork.rpc.server import RpcServer, build_server
from graftwork.v1 import registry_pb2 as pb

CALLERS = {
    "operator": Principal(Role.OPERATOR, None, "0" * 16, "alice"),
    "viewer": Principal(Role.VIEWER, None, "1" * 16),
}


class Conflict(GraftError):
    code = ErrorCode.CONFLICT


class Keys:
    async def authenticate(self, token: str) -> Principal:
        if token not in CALLERS:
            raise Unauthenticated("no such key")
        return CALLERS[token]


class Recorded:
    """A trail that remembers, and lets a test wait for an end."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.before: list[Any] = []
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def begin(self, attempt: Attempt, request: Any) -> Attempt:
        self.events.append(("begin", attempt.method.rpartition("/")[2], attempt.principal.name, request))
        return attempt

    def end(self, begun: Attempt, outcome: str, request: Any, answer: Any, before: Any) -> None:
        self.events.append(("end", outcome, request, answer))
        self.before.append(before)
        self._loop.call_soon_threadsafe(self.ended.set)


class World:
    def __init__(self, trail: Recorded, rpc: RpcServer, channel: grpc.aio.Channel) -> None:
        self.trail, self.rpc, self.channel = trail, rpc, channel
        self.handled: list[Any] = []
        self.entered = asyncio.Event()

    async def change(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        self.handled.append(list(self.trail.events))
        self.entered.set()
        match request.reason:
            case "tell":
                await asyncio.sleep(0)
                found_before({"route": request.name})
            case "conflict":
                raise Conflict("lost a race")
            case "broken":
                raise RuntimeError("a secret of the insides")
            case "wait":
                await asyncio.Event().wait()
        return pb.Alias(name=request.name, number=7)

    async def take_in(self, messages: AsyncIterator[pb.SetAliasRequest], context: Any) -> pb.Alias:
        self.handled.append([message.name async for message in messages])
        return pb.Alias(number=1)

    async def export(self, request: pb.SetAliasRequest, context: Any) -> AsyncIterator[pb.Alias]:
        for number in range(3):
            yield pb.Alias(number=number)
        if request.reason == "wait":
            await asyncio.Event().wait()

    async def read(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        return pb.Alias()

    def call(self, method: str, request: pb.SetAliasRequest, key: str = "operator") -> Any:
        make = self.channel.unary_stream if method == "DownloadVersion" else self.channel.unary_unary
        stub = make(f"/test.Service/{method}", pb.SetAliasRequest.SerializeToString, pb.Alias.FromString)
        return stub(request, metadata=(("authorization", f"Bearer {key}"),), timeout=30)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    trail = Recorded()
    rpc = await build_server(authenticator=Keys(), host="127.0.0.1", port=0, service_names=[], trail=trail)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}") as channel:
        made = World(trail, rpc, channel)
        forms = {
            "SetAlias": (grpc.unary_unary_rpc_method_handler, made.change),
            "RegisterAdapter": (grpc.stream_unary_rpc_method_handler, made.take_in),
            "DownloadVersion": (grpc.unary_stream_rpc_method_handler, made.export),
            "GetAdapter": (grpc.unary_unary_rpc_method_handler, made.read),
        }
        handlers = {
            name: form(inner, pb.SetAliasRequest.FromString, pb.Alias.SerializeToString)
            for name, (form, inner) in forms.items()
        }
        rpc.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
        await rpc.server.start()
        yield made
    await rpc.server.stop(None)


async def test_a_change_is_noted_before_it_is_carried_out_and_ended_with_its_answer(world: World) -> None:
    request = pb.SetAliasRequest(name="a")
    answer = await world.call("SetAlias", request)
    begun = ("begin", "SetAlias", "alice", request)
    assert world.handled == [[begun]]
    assert world.trail.events == [begun, ("end", "ok", request, answer)]


async def test_what_a_handler_found_reaches_its_own_entry_and_no_other(world: World) -> None:
    names = [f"a{number}" for number in range(8)]
    await asyncio.gather(*(world.call("SetAlias", pb.SetAliasRequest(name=name, reason="tell")) for name in names))
    ends = [event for event in world.trail.events if event[0] == "end"]
    assert [event[2].name for event in ends] == [before["route"] for before in world.trail.before]
    await world.call("SetAlias", pb.SetAliasRequest(name="silent"))
    assert world.trail.before[-1] is None
    found_before("nobody's")  # outside a call


@pytest.mark.parametrize(("reason", "outcome"), [("conflict", "conflict"), ("broken", "internal")])
async def test_a_failure_ends_the_entry_by_its_kind(world: World, reason: str, outcome: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.call("SetAlias", pb.SetAliasRequest(reason=reason))
    assert "secret" not in str(refused.value.details())
    assert world.trail.events[1][:2] == ("end", outcome)
    assert len(world.trail.events) == 2


async def test_a_caller_that_leaves_ends_the_entry_as_cancelled(world: World) -> None:
    for method in ("SetAlias", "DownloadVersion"):
        world.trail.ended.clear()
        world.trail.events.clear()
        call = world.call(method, pb.SetAliasRequest(reason="wait"))
        if method == "SetAlias":
            reading = asyncio.ensure_future(call)
            await asyncio.wait_for(world.entered.wait(), 30)
            call.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:
            await call.read()
            call.cancel()
        await asyncio.wait_for(world.trail.ended.wait(), 30)
        assert [event[:2] for event in world.trail.events] == [("begin", method), ("end", "cancelled")]


async def test_a_stream_reaches_the_handler_whole_and_the_entry_has_its_first_message(world: World) -> None:
    stub = world.channel.stream_unary(
        "/test.Service/RegisterAdapter", pb.SetAliasRequest.SerializeToString, pb.Alias.FromString
    )
    messages = [pb.SetAliasRequest(name=name) for name in ("one", "two", "three")]
    await stub(iter(messages), metadata=(("authorization", "Bearer operator"),), timeout=30)
    assert world.handled == [["one", "two", "three"]]
    begun, ended = world.trail.events
    assert begun[3] is None
    assert ended[1:3] == ("ok", messages[0])


async def test_what_is_exported_is_noted_and_what_is_read_is_not(world: World) -> None:
    assert [alias.number async for alias in world.call("DownloadVersion", pb.SetAliasRequest(name="a"))] == [0, 1, 2]
    assert [event[:2] for event in world.trail.events] == [("begin", "DownloadVersion"), ("end", "ok")]
    world.trail.events.clear()
    await world.call("GetAdapter", pb.SetAliasRequest())
    assert world.trail.events == []


async def test_a_viewers_try_is_noted_and_does_not_reach_the_handler(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.call("SetAlias", pb.SetAliasRequest(name="a"), "viewer")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert world.handled == []
    assert [event[1] for event in world.trail.events] == ["SetAlias", "forbidden"]


async def test_nobody_is_not_noted(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await world.call("SetAlias", pb.SetAliasRequest(name="a"), "nobody")
    assert world.trail.events == []
