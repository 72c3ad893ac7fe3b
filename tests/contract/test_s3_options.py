"""What a store URL can say about an S3 server, against a real one: TLS, styles, encryption, credentials, time-outs."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from adapter_store import BaseInfo, layout, open_store, read_base
from adapter_store.audit import AuditEntry, new_id, now
from adapter_store.backends.open import open_backend
from adapter_store.backends.s3_options import parse_options
from adapter_store.care.collect import collect
from adapter_store.errors import StoreMisconfigured, StoreUnavailable
from adapter_store.manifest import WEIGHTS_FILE
from tests.contract.collect_contract import Silent
from tests.contract.faulty_proxy import Fault, FaultyProxy, half_of_them, once
from tests.contract.rgw import DNS_NAME, Rgw
from tests.contract.store_contract import MADE
from tests.contract.test_s3 import PREFIX, RawS3, S3Place
from tests.store_samples import make_adapter, make_base

pytestmark = pytest.mark.s3
POLICY = Path(__file__).parents[2] / "deploy/s3/policy.json"


class TestOptions(S3Place):
    def test_tls_with_an_authority_of_ones_own(self, rgw: Rgw, url: str, raw: RawS3) -> None:
        tls = url.replace(rgw.endpoint, rgw.tls_endpoint)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            open_backend(tls)
        backend = open_backend(f"{tls}&ca={quote(str(rgw.authority.pair.certificate))}")
        assert backend.create("v1/over-tls", b"bytes")
        assert b"".join(backend.read("v1/over-tls")) == b"bytes"
        assert raw.get("v1/over-tls") == b"bytes"

    def test_the_machines_authorities_can_be_replaced(
        self, rgw: Rgw, url: str, raw: RawS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(rgw.authority.pair.certificate))
        assert open_backend(url.replace(rgw.endpoint, rgw.tls_endpoint)).create("v1/a", b"")

    def test_virtual_host_style(
        self, rgw: Rgw, url: str, bucket: str, raw: RawS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, resolve = set(), socket.getaddrinfo

        def to_loopback(host: str, *rest: object, **named: object) -> object:
            asked.add(host)
            return resolve("127.0.0.1" if host.endswith(DNS_NAME) else host, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
        backend = open_backend(url.replace("127.0.0.1", DNS_NAME) + "&style=virtual")
        assert backend.create("v1/virtual", b"x")
        assert backend.children("v1/", limit=5) == ["virtual"]
        assert raw.get("v1/virtual") == b"x"
        assert asked == {f"{bucket}.{DNS_NAME}"}

    def test_what_is_written_is_encrypted_by_the_servers_key_service(
        self, rgw: Rgw, url: str, bucket: str, raw: RawS3, tmp_path: Path
    ) -> None:
        backend = open_backend(f"{url}&sse=kms&kms_key={rgw.kms_key}")
        (tmp_path / "file").write_bytes(bytes(12 << 20))  # three parts
        backend.put_file("v1/large", tmp_path / "file")
        assert backend.create("v1/small", b"bytes")
        assert b"".join(backend.read("v1/large")) == bytes(12 << 20)
        assert b"".join(backend.read("v1/small")) == b"bytes"
        for key in ("v1/large", "v1/small"):
            headers = raw.client.stat_object(bucket, PREFIX + key).metadata
            found = {name.lower(): value for name, value in headers.items()}
            assert found["x-amz-server-side-encryption"] == "aws:kms"
            assert found["x-amz-server-side-encryption-aws-kms-key-id"] == rgw.kms_key

    def test_a_wrong_region_or_key_says_what_to_check(
        self, url: str, raw: RawS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        with pytest.raises(StoreMisconfigured, match="AWS_ACCESS_KEY_ID"):
            open_backend(url)

    def test_credentials_from_the_shared_file(
        self, rgw: Rgw, url: str, raw: RawS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "credentials"
        file.write_text(f"[graft]\naws_access_key_id = {rgw.access_key}\naws_secret_access_key = {rgw.secret_key}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "graft")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert open_backend(url).create("v1/a", b"")
        assert open_backend(f"{url}&credentials=file").entry("v1/a") is not None
        with pytest.raises(StoreMisconfigured):
            open_backend(f"{url}&credentials=env")

    def test_credentials_of_a_role_are_renewed_before_they_expire(
        self, rgw: Rgw, url: str, raw: RawS3, monkeypatch: pytest.MonkeyPatch, role_server: "_RoleServer"
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role_server.url)
        role_server.lives = timedelta(seconds=1)  # so short that the client takes them for expired at once
        backend = open_backend(url)
        assert backend.create("v1/a", b"")
        assert role_server.asked >= 2
        role_server.lives = timedelta(hours=1)
        assert backend.entry("v1/a") is not None
        asked = role_server.asked
        assert backend.entry("v1/a") is not None
        assert role_server.asked == asked, "good ones are kept"

    @pytest.fixture
    def role_server(self, rgw: Rgw) -> Iterator["_RoleServer"]:
        with _RoleServer(rgw) as server:
            yield server

    @pytest.fixture
    def base(self, tmp_path: Path) -> BaseInfo:
        return read_base(make_base(tmp_path / "base"))

    def test_a_hanging_store_is_given_up_and_nothing_is_visible(
        self, rgw: Rgw, url: str, raw: RawS3, base: BaseInfo, tmp_path: Path
    ) -> None:
        open_store(url).tenants.create("acme")
        hang = lambda method, headers: Fault.HANG if method in ("PUT", "POST") else Fault.NONE  # noqa: E731
        with FaultyProxy(rgw.endpoint, hang) as proxy:
            backend = open_backend(url.replace(rgw.endpoint, proxy.endpoint) + "&timeout=0.5")
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                backend.create("v1/hanging", b"")
            assert time.monotonic() - began < 30, "two time-outs, not minutes"
        assert raw.get("v1/hanging") is None

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_a_store_that_fails_half_of_the_time_still_publishes_and_fetches(
        self, rgw: Rgw, url: str, raw: RawS3, base: BaseInfo, tmp_path: Path
    ) -> None:
        with FaultyProxy(rgw.endpoint, half_of_them(seed=7)) as proxy:
            store = open_store(url.replace(rgw.endpoint, proxy.endpoint))
            store.tenants.create("acme")
            folder = make_adapter(tmp_path / "adapter")
            for _ in range(5):  # whatever a call says, the next one meets a sound store
                with suppress(StoreUnavailable):
                    version = store.versions.publish("acme", "greeter", folder, base=base, made=MADE)
                    break
            out = store.versions.fetch(version, tmp_path / "out")
            assert (out / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
            assert proxy.faults > 10
        assert open_store(url).versions.list("acme", "greeter").items == [version]

    def test_the_documented_policy_is_enough_and_no_more(
        self, rgw: Rgw, bucket: str, raw: RawS3, base: BaseInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """deploy/s3/policy.json, as a bucket's policy for a user who has nothing else."""
        access, secret = rgw.add_user(f"user-{bucket}")
        text = POLICY.read_text().replace("BUCKET", bucket).replace("PREFIX", PREFIX.strip("/"))
        policy = json.loads(text)
        for statement in policy["Statement"]:
            statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/user-{bucket}"]}
        raw.client.set_bucket_policy(bucket, json.dumps(policy))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        place = f"s3://{bucket}/{{}}?endpoint={rgw.endpoint}&region=us-east-1"
        store = open_store(place.format(PREFIX.strip("/")))
        store.tenants.create("acme")
        version = store.versions.publish("acme", "greeter", make_adapter(tmp_path / "adapter"), base=base, made=MADE)
        store.aliases.set("acme", "greeter", "prod", version.version, by="tests", reason="")
        store.versions.fetch(store.resolve("acme", "greeter"), tmp_path / "out")
        (tmp_path / "large").write_bytes(bytes(12 << 20))
        backend = open_backend(place.format(PREFIX.strip("/")))
        backend.put_file("v1/large", tmp_path / "large")
        backend.put_file(f"v1/tenants/acme/blobs/sha256/{'0' * 64}", tmp_path / "adapter" / WEIGHTS_FILE)
        collected = collect(backend, Silent(), grace=timedelta(minutes=-1))  # so that nothing counts as young
        assert collected.removed.amounts["blobs"].objects == 1
        assert store.resolve("acme", "greeter") == version
        noted = AuditEntry(id=new_id(), at=now(), service="s", actor="a", action="Collect", tenant="acme", outcome="ok")
        store.audit.append(noted)
        with pytest.raises(StoreMisconfigured, match="AccessDenied"):
            backend.delete(layout.audit_entry(noted.at, "acme", noted.id))
        assert store.audit.page().items == [noted]
        with pytest.raises(StoreMisconfigured, match="AccessDenied"):
            open_store(place.format("another/prefix"))

    def test_an_answer_cut_in_the_middle_is_taken_up_again(
        self, rgw: Rgw, url: str, raw: RawS3, base: BaseInfo, tmp_path: Path
    ) -> None:
        store = open_store(url)
        store.tenants.create("acme")
        version = store.versions.publish("acme", "greeter", make_adapter(tmp_path / "adapter"), base=base, made=MADE)
        cut = once(Fault.CUT, lambda method, headers: method == "GET" and "Range" in headers)
        with FaultyProxy(rgw.endpoint, cut) as proxy:
            through = open_store(url.replace(rgw.endpoint, proxy.endpoint))
            out = through.versions.fetch(version, tmp_path / "out")
            assert proxy.faults == 1
        assert (out / WEIGHTS_FILE).read_bytes() == (tmp_path / "adapter" / WEIGHTS_FILE).read_bytes()


class _RoleServer:
    """Hands out the server's keys as a container's metadata service does."""

    def __init__(self, rgw: Rgw) -> None:
        self.asked, self.lives = 0, timedelta(hours=1)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                ends = datetime.now(UTC) + server.lives
                body = json.dumps(
                    {
                        "AccessKeyId": rgw.access_key,
                        "SecretAccessKey": rgw.secret_key,
                        "Token": "",
                        "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    }
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/role"

    def __enter__(self) -> "_RoleServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint": "ftp://x"}, {"endpoint": "http://user:secret@host"}, {"style": "virtuall"}, {"sse": "c"},
        {"kms_key": "k"}, {"ca": "/nonexistent.pem"}, {"credentials": "vault"}, {"timeout": "0"}, {"timeout": "soon"},
        {"regoin": "x"},
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(given: dict[str, str]) -> None:
    with pytest.raises(StoreMisconfigured) as refused:
        parse_options("bucket", "", given)
    (name,) = given
    assert name in str(refused.value) or "endpoint" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_aws_own_variables_fill_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com/")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    found = parse_options("bucket", "", {})
    assert (found.endpoint, found.region) == ("https://s3.example.com", "eu-central-1")
    assert parse_options("bucket", "", {"region": "x"}).region == "x"
