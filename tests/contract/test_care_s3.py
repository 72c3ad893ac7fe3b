"""Garbage collection, check and copy under their contracts, on a real Ceph RGW, and copies between it and the file system."""

from itertools import count

import pytest

from adapter_store.backends.open import open_backend
from adapter_store.backends.protocol import Backend
from adapter_store.backends.s3 import S3Backend
from tests.contract.check_contract import CheckContract
from tests.contract.collect_contract import CollectContract
from tests.contract.collect_races_contract import CollectRacesContract
from tests.contract.collected import Folders
from tests.contract.copy_contract import CopyContract
from tests.contract.test_s3 import PREFIX, RawS3, S3Place
from tests.contract.wrapped import Wrapped

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.thorough]


class Prefixes:
    """Stores under prefixes of their own in one bucket."""

    def __init__(self, url: str, raw: RawS3) -> None:
        self._url, self._raw, self._numbers = url, raw, count()

    def open(self) -> Backend:
        return open_backend(self._url.replace("?", f"{next(self._numbers)}/?"))

    def damage(self, backend: Backend, key: str, data: bytes) -> None:
        self._raw.put(self._inner(backend) + key, data)

    def leave_unfinished(self, backend: Backend) -> None:
        self._raw.begin_upload(self._inner(backend))

    def _inner(self, backend: Backend) -> str:
        real = backend.real if isinstance(backend, Wrapped) else backend
        assert isinstance(real, S3Backend)
        return real._prefix.removeprefix(PREFIX)


class Place(S3Place):
    @pytest.fixture
    def prefixes(self, url: str, raw: RawS3) -> Prefixes:
        return Prefixes(url, raw)


class TestS3Collect(Place, CollectContract):
    @pytest.fixture
    def place(self, prefixes: Prefixes) -> Prefixes:
        return prefixes


class TestS3CollectRaces(Place, CollectRacesContract):
    stride = 4

    @pytest.fixture
    def place(self, prefixes: Prefixes) -> Prefixes:
        return prefixes


class TestS3Check(Place, CheckContract):
    @pytest.fixture
    def backend(self, url: str) -> Backend:
        return open_backend(url)


class TestCopyToS3(Place, CopyContract):
    stride = 5

    @pytest.fixture
    def place(self, folders: Folders) -> Folders:
        return folders

    @pytest.fixture
    def destinations(self, prefixes: Prefixes) -> Prefixes:
        return prefixes


class TestCopyFromS3(Place, CopyContract):
    stride = 5

    @pytest.fixture
    def place(self, prefixes: Prefixes) -> Prefixes:
        return prefixes

    @pytest.fixture
    def destinations(self, folders: Folders) -> Folders:
        return folders
