"""Objects in any S3-compatible store, through the `minio` client.

Owns conditional creation, its recognition of an own object after a lost answer, and the translation of the client's
failures. Uses two private methods of minio 7.2.20 (`_put_object`, `_list_objects`), whose public forms pass neither
headers nor a page size: the version is pinned and the contract suite runs against a real server.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.error import InvalidResponseError, S3Error, ServerError

from adapter_store.backends.protocol import ObjectMissing
from adapter_store.errors import StoreMisconfigured, StoreUnavailable

_PIECE = 1 << 20
_PART = 16 << 20  # bytes of a multipart upload's part; three are in memory at once
_CONNECTIONS = 32
_TOKEN = "x-amz-meta-graft-token"
_CREATE_TRIES = 5
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "NotFound"})
_OPERATORS = frozenset(
    {"NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed",
     "PermanentRedirect", "InvalidBucketName", "RequestTimeTooSkewed", "MethodNotAllowed", "NotImplemented"}
)  # fmt: skip


class S3Backend:
    """Keeps objects under a prefix of a bucket; implements `Backend`.

    Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS's shared file, or the machine's role.

    Args:
        bucket: must exist; making it is an operator's decision.
        prefix: within the bucket, without slashes at its ends; may be empty.
        endpoint: `http://host:port` or `https://host`.
        region: as the server knows itself.

    Raises:
        StoreMisconfigured: the endpoint cannot be one, or the bucket is not there.
        StoreUnavailable: no answer.
    """

    def __init__(self, *, bucket: str, prefix: str, endpoint: str, region: str) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or "@" in parts.netloc:
            raise StoreMisconfigured(f"{endpoint!r:.200} is no S3 endpoint: use http://host:port or https://host")
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._where = f"bucket {bucket} at {parts.netloc}"
        try:
            self._client = Minio(
                parts.netloc,
                secure=parts.scheme == "https",
                region=region,  # given, so that no call asks the server for it first
                credentials=_credentials(parts.netloc),
                http_client=_pool(),
            )
            with self._failures("look for"):
                found = self._client.bucket_exists(bucket)
        except ValueError as error:
            raise StoreMisconfigured(
                f"cannot use {self._where}: {error}; are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set?"
            ) from None
        if not found:
            raise StoreMisconfigured(f"{self._where} does not exist; create it or correct the store URL")

    def create(self, key: str, data: bytes) -> bool:
        token = secrets.token_hex(16)
        headers = {"If-None-Match": "*", "Content-Type": "application/json", _TOKEN: token}
        for _ in range(_CREATE_TRIES):
            try:
                with self._failures("create", key):
                    self._client._put_object(self._bucket, self._prefix + key, data, headers=dict(headers))
                return True
            except _Taken:
                # The client repeats a PUT whose answer was lost; the repeat is refused because of the first one. Without
                # this look the winner of a race would believe that it lost, and nobody would have won.
                return self._token(key) == token
            except _Racing:  # AWS: another conditional PUT of this key is under way; who won shows when it is over
                continue
        raise StoreUnavailable(f"{self._where} kept answering that {key} is being written; try again")

    def put_file(self, key: str, file: Path) -> None:
        with self._failures("store", key), file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            # 5 MiB is the least that S3 takes for a part; 10,000 parts the most for an object
            part = max(_PART, -(-size // 10_000))
            self._client.put_object(self._bucket, self._prefix + key, source, size, part_size=part)
        if self.size(key) != size:  # a multipart upload's answer says nothing about what was put together
            raise StoreUnavailable(f"{self._where} stored {key} with another size than sent; try again")

    def size(self, key: str) -> int | None:
        try:
            with self._failures("look at", key):
                return int(self._client.stat_object(self._bucket, self._prefix + key).size)
        except ObjectMissing:
            return None

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        if length == 0:  # to the client 0 means all
            return
        with self._failures("read", key):
            try:
                response = self._client.get_object(self._bucket, self._prefix + key, offset=offset, length=length or 0)
            except S3Error as error:
                if error.code == "InvalidRange":  # behind the end: no bytes, as in a file
                    return
                raise
            try:
                yield from response.stream(_PIECE)
            finally:
                response.close()  # not only released: a reader that stopped early leaves bytes on the connection
                response.release_conn()

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        full = self._prefix + prefix
        start = _behind(full + after) if after else None
        names: list[str] = []
        while len(names) < limit:
            asked = min(limit - len(names), 1000)
            with self._failures("list", prefix):
                listing = self._client._list_objects(
                    self._bucket, prefix=full, delimiter="/", start_after=start, max_keys=asked
                )
                # Not the whole generator: it would go on through all pages. Within a page it yields objects before
                # folders; no level of the layout has both, sorting is for foreign ones.
                batch = sorted(item.object_name.removeprefix(full) for item in islice(listing, asked))
            names += batch
            if len(batch) < asked:
                break
            start = _behind(full + batch[-1])
        return names

    def delete(self, key: str) -> None:
        with self._failures("delete", key):
            self._client.remove_object(self._bucket, self._prefix + key)

    def _token(self, key: str) -> str | None:
        with self._failures("look at", key):
            metadata = self._client.stat_object(self._bucket, self._prefix + key).metadata or {}
        return next((value for name, value in metadata.items() if name.lower() == _TOKEN), None)

    @contextmanager
    def _failures(self, verb: str, key: str = "") -> Iterator[None]:
        """Turns the client's exceptions into the store's; the server's own text does not get through."""
        action = f"{verb} {key}".strip()
        try:
            yield
        except S3Error as error:
            self._raise(action, key, error.code or "", error.response.status if error.response is not None else 0)
        except InvalidResponseError as error:
            self._raise(action, key, "", int(error._code))
        except ServerError as error:
            self._raise(action, key, "", error.status_code)
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise StoreUnavailable(
                f"cannot {action}: {self._where} does not answer ({type(error).__name__})"
            ) from error

    def _raise(self, action: str, key: str, code: str, status: int) -> None:
        if status == 412:
            raise _Taken(key) from None
        if code == "ConditionalRequestConflict" or (status == 409 and code != "NoSuchBucket"):
            raise _Racing(key) from None
        if code in _MISSING:
            raise ObjectMissing(key) from None
        message = f"cannot {action}: {self._where} answered {status} {code}"
        if code in _OPERATORS or status in (301, 400, 401, 403, 405, 501):
            raise StoreMisconfigured(f"{message}; check bucket, region and credentials") from None
        raise StoreUnavailable(f"{message}; try again") from None


def _behind(entry: str) -> str:
    """Where a listing goes on behind an entry: for a folder behind all its keys ('~' sorts behind every character that
    keys have), because servers differ in whether 'start after a/' skips the folder a/ itself."""
    return f"{entry}~" if entry.endswith("/") else entry


class _Taken(Exception):
    """412: the key has an object."""


class _Racing(Exception):
    """409: another request for the key is under way."""


def _credentials(host: str) -> ChainedProvider:
    providers = [EnvAWSProvider(), AWSConfigProvider()]
    if host.endswith(".amazonaws.com"):  # elsewhere its metadata address may not answer for minutes
        providers.append(IamAwsProvider())
    return ChainedProvider(providers)


def _pool() -> urllib3.PoolManager:
    """minio's own pool waits five minutes for a dead server; this one gives up within about ten seconds."""
    return urllib3.PoolManager(
        maxsize=_CONNECTIONS,
        timeout=urllib3.Timeout(connect=3, read=60),
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
    )
