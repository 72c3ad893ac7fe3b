"""The S3 backend under the contract, on a real Ceph RGW."""

import secrets
from collections.abc import Callable
from io import BytesIO

import pytest
from minio import Minio
from minio.error import S3Error

from adapter_store.backends.open import open_backend
from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreMisconfigured, StoreUnavailable
from tests.contract.backend_contract import BackendContract
from tests.contract.faulty_proxy import Fault, FaultyProxy, once
from tests.contract.kill_contract import KillContract
from tests.contract.merged_contract import MergedContract
from tests.contract.removal_contract import RemovalContract
from tests.contract.repeat_contract import RepeatContract
from tests.contract.rgw import Rgw
from tests.contract.route_contract import RouteContract
from tests.contract.signature_contract import SignatureContract
from tests.contract.store_contract import StoreContract

pytestmark = pytest.mark.s3
PREFIX = "some/prefix/"


class RawS3:
    """The bucket through the plain client."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self.client, self._bucket = client, bucket

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(self._bucket, PREFIX + key, BytesIO(data), len(data))

    def get(self, key: str) -> bytes | None:
        try:
            response = self.client.get_object(self._bucket, PREFIX + key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None
        with response:
            return bytes(response.read())

    def begin_upload(self, prefix: str = "") -> None:
        key = f"{PREFIX}{prefix}v1/some.key_{secrets.token_hex(4)}"
        upload = self.client._create_multipart_upload(self._bucket, key, {})
        self.client._upload_part(self._bucket, key, b"x" * (5 << 20), {}, upload, 1)

    def keys(self) -> list[str]:
        listing = self.client.list_objects(self._bucket, recursive=True)
        return [item.object_name.removeprefix(PREFIX) for item in listing]


class S3Place:
    """An empty bucket on the session's server."""

    @pytest.fixture
    def bucket(self) -> str:
        return f"test-{secrets.token_hex(6)}"

    @pytest.fixture
    def raw(self, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch) -> RawS3:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
        client = Minio(
            rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False, region="us-east-1"
        )
        client.make_bucket(bucket)
        return RawS3(client, bucket)

    @pytest.fixture
    def url(self, rgw: Rgw, bucket: str, raw: RawS3) -> str:
        return f"s3://{bucket}/{PREFIX}?endpoint={rgw.endpoint}&region=us-east-1"


class TestS3Backend(S3Place, BackendContract):
    @pytest.fixture
    def backend(self, url: str) -> Backend:
        return open_backend(url)

    @pytest.fixture
    def unfinished(self, raw: RawS3) -> Callable[[], None]:
        return raw.begin_upload

    def test_a_create_whose_answer_was_lost_recognises_its_own_object(self, url: str, raw: RawS3, rgw: Rgw) -> None:
        lost = once(Fault.LOST, lambda method, headers: method == "PUT" and bool(headers.get("If-None-Match")))
        with FaultyProxy(rgw.endpoint, lost) as proxy:
            backend = open_backend(url.replace(rgw.endpoint, proxy.endpoint))
            assert backend.create("v1/lost", b"mine"), "the repeat met the first one's object and it is ours"
            assert proxy.faults == 1
        assert raw.get("v1/lost") == b"mine"
        assert not open_backend(url).create("v1/lost", b"mine")

    def test_a_missing_bucket_is_the_operators_business(self, url: str, bucket: str) -> None:
        with pytest.raises(StoreMisconfigured, match="does not exist"):
            open_backend(url.replace(bucket, "no-such-bucket"))

    def test_wrong_credentials_are_the_operators_business(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StoreMisconfigured) as refused:
            open_backend(url)
        assert "wrong" not in str(refused.value)

    def test_a_dead_server_is_unavailable(self, url: str, rgw: Rgw) -> None:
        with pytest.raises(StoreUnavailable):
            open_backend(url.replace(rgw.endpoint, "http://127.0.0.1:9"))


class TestS3Store(S3Place, StoreContract):
    pass


class TestS3Removal(S3Place, RemovalContract):
    pass


class TestS3Repeats(S3Place, RepeatContract):
    pass


class TestS3Merged(S3Place, MergedContract):
    pass


class TestS3Routes(S3Place, RouteContract):
    pass


class TestS3Signatures(S3Place, SignatureContract):
    pass


@pytest.mark.thorough
class TestS3Kills(S3Place, KillContract):
    pass
