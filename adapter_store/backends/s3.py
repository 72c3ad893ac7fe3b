"""Objects in any S3-compatible store, through the `minio` client.

Owns conditional creation, its recognition of an own object after a lost answer, and the translation of the client's
failures. Uses two private methods of minio 7.2.20 (`_put_object`, `_list_objects`), whose public forms pass neither
headers nor a page size: the version is pinned and the contract suite runs against a real server.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from adapter_store.backends import s3_listing
from adapter_store.backends.protocol import Entry, ObjectMissing
from adapter_store.backends.s3_options import S3Options, credentials_of, pool_for
from adapter_store.errors import StoreMisconfigured, StoreUnavailable

_PIECE = 1 << 20
_PART = 5 << 20  # bytes of a multipart upload's part; three are in memory at once
_PARALLEL_READS = 4  # one connection rarely fills the line; with more, servers begin to queue them
_TOKEN = "x-amz-meta-graft-token"
_CREATE_TRIES = 5
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "NotFound", "NoSuchUpload"})
_OPERATORS = frozenset(
    {"NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed",
     "PermanentRedirect", "InvalidBucketName", "MethodNotAllowed", "NotImplemented"}
)  # fmt: skip


_DENIED = frozenset({"AccessDenied", "AllAccessDisabled"})
_SKEWED = "RequestTimeTooSkewed"
_MOST_SKEW = timedelta(minutes=15)  # between clocks, for a signature to count; AWS, Ceph and MinIO have the same


class S3Backend:
    """Keeps objects under a prefix of a bucket; implements `Backend`.

    Args:
        options: the place; see `S3Options`.

    Raises:
        StoreMisconfigured: the bucket is not there, or there are no credentials.
        StoreUnavailable: no answer.
    """

    def __init__(self, options: S3Options) -> None:
        self._bucket, self._prefix = options.bucket, f"{options.prefix}/" if options.prefix else ""
        self._where = f"bucket {options.bucket} at {options.host}"
        self._encryption = options.encryption_headers
        try:
            self._client = Minio(
                options.host,
                secure=options.secure,
                region=options.region,  # given, so that no call asks the server for it first
                credentials=credentials_of(options),
                http_client=pool_for(options),
            )
            if options.style == "virtual":
                self._client.enable_virtual_style_endpoint()
            # Not by a look for the bucket itself: whoever may only use a prefix may not ask for that.
            self.children("v1/", limit=1)
        except ValueError as error:
            raise StoreMisconfigured(
                f"cannot use {self._where}: {error}; are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set?"
            ) from None

    @property
    def parallel_reads(self) -> int:
        return _PARALLEL_READS

    def create(self, key: str, data: bytes) -> bool:
        token = secrets.token_hex(16)
        headers = {"If-None-Match": "*", "Content-Type": "application/json", _TOKEN: token} | self._encryption
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
            self._client.put_object(
                self._bucket, self._prefix + key, source, size, part_size=part, metadata=dict(self._encryption) or None
            )
        # a multipart upload's answer says nothing about what was put together
        if size > part and ((stored := self.entry(key)) is None or stored.size != size):
            raise StoreUnavailable(f"{self._where} stored {key} with another size than sent; try again")

    def entry(self, key: str) -> Entry | None:
        try:
            with self._failures("look at", key):
                found = self._client.stat_object(self._bucket, self._prefix + key)
        except ObjectMissing:
            return None
        return Entry(key, int(found.size), s3_listing.utc(found.last_modified))

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._opened(key, offset, length) as response:
            if response is not None:
                yield from response.stream(_PIECE)

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        with self._opened(key, offset, length) as response:
            if response is None:
                return
            # Past urllib3, whose own `readinto` makes and copies an object per piece.
            done, expected = 0, int(response.headers.get("Content-Length", 0))
            while done < expected:
                buffer = take()
                count = response._fp.readinto(buffer)
                if not count:  # http.client ends a broken answer like a whole one
                    raise StoreUnavailable(f"cannot read {key}: {self._where} broke off; try again")
                done += count
                yield buffer[:count]

    @contextmanager
    def _opened(self, key: str, offset: int, length: int | None) -> Iterator[Any]:
        """An object's open answer, None for no bytes; closed at the end."""
        with self._failures("read", key):
            if length == 0:  # to the client 0 means all
                yield None
                return
            try:
                response = self._client.get_object(self._bucket, self._prefix + key, offset=offset, length=length or 0)
            except S3Error as error:
                if error.code == "InvalidRange":  # behind the end: no bytes, as in a file
                    yield None
                    return
                raise
            try:
                yield response
            finally:
                if not response.isclosed():
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

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        start = self._prefix + after if after else ""
        with self._failures("list", prefix):
            for found in s3_listing.walk(self._client, self._bucket, self._prefix + prefix, start):
                yield replace(found, key=found.key.removeprefix(self._prefix))

    def unfinished(self) -> Iterator[Entry]:
        with self._failures("list unfinished uploads"):
            yield from s3_listing.uploads(self._client, self._bucket, f"{self._prefix}v1/")

    def discard(self, write: Entry) -> None:
        with suppress(ObjectMissing), self._failures("discard", write.key):
            s3_listing.abort(self._client, self._bucket, write.key)

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
            code, status = error.code or "", error.response.status if error.response is not None else 0
            if status == 403 and _clock_is_off(error.response.headers):
                code = _SKEWED  # an answer to HEAD has no body to say so, and looks like one that is about rights
            self._raise(action, key, code, status)
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
        if code == "NoSuchBucket":
            raise StoreMisconfigured(f"{self._where} does not exist; create it or correct the store URL") from None
        if code == _SKEWED:
            # Heals with the clock; until then the store counts as away, so that what is cached is served and jobs wait.
            raise StoreUnavailable(
                f"cannot {action}: {self._where} finds that this machine's clock is wrong; set it (NTP), and it goes on by itself"
            ) from None
        message = f"cannot {action}: {self._where} answered {status} {code}"
        if code in _OPERATORS or status in (301, 400, 401, 403, 405, 501):
            advice = (
                "these credentials may not do that: give them what deploy/s3/policy.json allows, for this bucket and prefix"
                if code in _DENIED
                else "check bucket, region and credentials"
            )
            raise StoreMisconfigured(f"{message}; {advice}") from None
        raise StoreUnavailable(f"{message}; try again") from None


def _clock_is_off(headers: Mapping[str, str]) -> bool:
    """Whether the server's clock, by its answer's date, is so far from this machine's that it takes no signature of ours."""
    try:
        told = parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return False
    return told.tzinfo is not None and abs(datetime.now(UTC) - told) > _MOST_SKEW


def _behind(entry: str) -> str:
    """Where a listing goes on behind an entry: for a folder behind all its keys ('~' sorts behind every character that
    keys have), because servers differ in whether 'start after a/' skips the folder a/ itself."""
    return f"{entry}~" if entry.endswith("/") else entry


class _Taken(Exception):
    """412: the key has an object."""


class _Racing(Exception):
    """409: another request for the key is under way."""
