"""A gRPC server with answers that a test writes: what a healthy service cannot be made to do on demand.

What the real services answer is tested against them (`tests/integration`).
"""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from graftwork.rpc.status import REQUEST_ID_KEY, RETRY_AFTER_KEY
from graftwork.v1 import (
    registry_pb2_grpc,
    serving_pb2_grpc,
    trainer_pb2_grpc,
)

Answer = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Script:
    """What the next calls of a method get, the last one again and again; and what arrived.

    Attributes:
        answers: method -> functions of (request, context).
        requests: method -> what was sent; of a stream the messages.
        metadata: of every call.
        ended: set when a stream's call has ended, however.
    """

    answers: dict[str, list[Answer]]
    requests: dict[str, list[Any]] = field(default_factory=dict)
    metadata: list[dict[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def next(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        sent = list(request) if isinstance(request, Iterator) else request
        self.requests.setdefault(method, []).append(sent)
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(self.ended.set)
        left = self.answers[method]
        return (left.pop(0) if len(left) > 1 else left[0])(sent, context)


def refuse(code: grpc.StatusCode, text: str, retry_after_ms: int | None = None) -> Answer:
    """As a service of ours refuses."""

    def answer(_: Any, context: grpc.ServicerContext) -> Any:
        trailing = [(REQUEST_ID_KEY, "r-1")]
        if retry_after_ms is not None:
            trailing.append((RETRY_AFTER_KEY, str(retry_after_ms)))
        context.set_trailing_metadata(trailing)
        context.abort(code, text)

    return answer


def give(message: Any) -> Answer:
    return lambda request, context: message


@contextmanager
def running(script: Script, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Yields the address of a server with all three services; in plain text without credentials."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    for base, add in (
        (trainer_pb2_grpc.TrainerServiceServicer, trainer_pb2_grpc.add_TrainerServiceServicer_to_server),
        (registry_pb2_grpc.RegistryServiceServicer, registry_pb2_grpc.add_RegistryServiceServicer_to_server),
        (serving_pb2_grpc.ServingServiceServicer, serving_pb2_grpc.add_ServingServiceServicer_to_server),
    ):
        methods = [name for name in vars(base) if name[0].isupper()]
        scripted = {name: _method(script, name) for name in methods}
        add(type(base.__name__, (base,), scripted)(), server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _method(script: Script, name: str) -> Callable[..., Any]:
    def method(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        return script.next(name, request, context)

    return method
