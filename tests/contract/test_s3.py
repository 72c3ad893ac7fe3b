"""The S3 backend under the contract, on a real Ceph RGW."""

import secrets
from collections.abc import Iterator
from io import BytesIO

import pytest
from minio import Minio
from minio.error import S3Error

from adapter_store.backends.open import open_backend
from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreMisconfigured, StoreUnavailable
from tests.contract.backend_contract import BackendContract
from tests.contract.removal_contract import RemovalContract
from tests.contract.rgw import Rgw
from tests.contract.store_contract import StoreContract

pytestmark = pytest.mark.s3
_PREFIX = "some/prefix/"


class _RawS3:
    def __init__(self, client: Minio, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(self._bucket, _PREFIX + key, BytesIO(data), len(data))

    def get(self, key: str) -> bytes | None:
        try:
            response = self._client.get_object(self._bucket, _PREFIX + key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None
        with response:
            return bytes(response.read())

    def keys(self) -> list[str]:
        listing = self._client.list_objects(self._bucket, recursive=True)
        return [item.object_name.removeprefix(_PREFIX) for item in listing]


class _Place:
    @pytest.fixture
    def bucket(self) -> str:
        return f"test-{secrets.token_hex(6)}"

    @pytest.fixture
    def raw(self, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch) -> _RawS3:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
        client = Minio(
            rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False, region="us-east-1"
        )
        client.make_bucket(bucket)
        return _RawS3(client, bucket)

    @pytest.fixture
    def url(self, rgw: Rgw, bucket: str, raw: _RawS3) -> str:
        return f"s3://{bucket}/{_PREFIX}?endpoint={rgw.endpoint}&region=us-east-1"


class TestS3Backend(_Place, BackendContract):
    @pytest.fixture
    def backend(self, url: str) -> Backend:
        return open_backend(url)

    def test_a_create_whose_answer_was_lost_recognises_its_own_object(
        self, url: str, raw: _RawS3, losing_proxy: str, rgw: Rgw
    ) -> None:
        backend = open_backend(url.replace(rgw.endpoint, losing_proxy))
        assert backend.create("v1/lost", b"mine"), "the repeat met the first one's object and it is ours"
        assert raw.get("v1/lost") == b"mine"
        assert not open_backend(url).create("v1/lost", b"mine")

    @pytest.fixture
    def losing_proxy(self, rgw: Rgw) -> Iterator[str]:
        from tests.contract.losing_proxy import LosingProxy

        with LosingProxy(rgw.endpoint) as proxy:
            yield proxy.endpoint
        assert proxy.lost == 1

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


class TestS3Store(_Place, StoreContract):
    pass


class TestS3Removal(_Place, RemovalContract):
    pass
