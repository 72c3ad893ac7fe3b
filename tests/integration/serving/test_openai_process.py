"""HTTP in the life of the process: the same certificate as gRPC, streams that outlive SIGTERM, and a log without anybody's words."""

import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.serving.serving_world import Service, World, wait_until
from tests.unit.graftwork.certificates import Authority

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SECRET = "zebra-in-the-prompt"


def test_tls_then_a_drain(run_service: Callable[..., Service], world: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    service = run_service(tls_certificate=pair.certificate, tls_key=pair.key, drain_seconds=240)
    wait_until("bound", service.address_file.exists, 120)
    address = service.http_address_file.read_text().strip()
    trusted = ssl.create_default_context(cafile=str(authority.pair.certificate))
    client = openai.OpenAI(
        base_url=f"https://{address}/v1",
        api_key=world.keys["acme"],
        max_retries=0,
        timeout=120,
        http_client=httpx.Client(verify=trusted),
    )
    with pytest.raises(openai.APIStatusError) as loading:
        client.completions.create(model="task", prompt=SECRET, max_tokens=2)
    assert loading.value.status_code == 503
    credentials = grpc.ssl_channel_credentials(authority.pair.certificate.read_bytes())
    health = health_pb2_grpc.HealthStub(grpc.secure_channel(service.address_file.read_text().strip(), credentials))

    def serving() -> bool:
        assert service.process.poll() is None, service.log()
        return bool(health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1)

    wait_until("the engine is ready", serving, 300)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{address}/v1/models")
    body = {"model": "task", "temperature": 0, "max_tokens": 300, "extra_body": {"ignore_eos": True}}
    stream = client.completions.create(**body, prompt=SECRET, stream=True)  # type: ignore[call-overload]
    next(stream)
    service.process.send_signal(signal.SIGTERM)
    finish = [chunk.choices[0].finish_reason for chunk in stream][-1]
    assert finish == "length"
    assert service.process.wait(300) == 0, service.log()
    log = (service.home / "log").read_text(errors="replace")
    assert "zebra" not in log
    assert world.keys["acme"] not in log
    assert '"/v1/completions"' in log
