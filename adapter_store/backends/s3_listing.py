"""Listings of a whole S3 prefix: every object, and every upload in parts that never ended.

Owns paging; translation of failures is the caller's (`s3`). Uses private methods of minio 7.2.20, as `s3` does.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from minio import Minio

from adapter_store.backends.protocol import Entry

_UPLOAD = "#"  # between an upload's key and its id; no key holds it


def walk(client: Minio, bucket: str, prefix: str, after: str) -> Iterator[Entry]:
    """Yields the objects below a prefix in key order, a page of 1000 at a time.

    Args:
        client: of the store.
        bucket: where to look.
        prefix: full prefix within the bucket.
        after: full key behind which to start; empty for the first.
    """
    for item in client.list_objects(bucket, prefix=prefix, recursive=True, start_after=after or None):
        yield Entry(str(item.object_name), int(item.size or 0), utc(item.last_modified))


def uploads(client: Minio, bucket: str, prefix: str) -> Iterator[Entry]:
    """Yields uploads in parts that were begun and neither completed nor aborted; their size is not told."""
    key, upload = None, None
    while True:
        page = client._list_multipart_uploads(bucket, prefix=prefix, key_marker=key, upload_id_marker=upload)
        for item in page.uploads:
            key, upload = item.object_name, item.upload_id
            yield Entry(f"{key}{_UPLOAD}{upload}", 0, utc(item.initiated_time))
        if not page.is_truncated or not page.uploads:
            return


def abort(client: Minio, bucket: str, upload: str) -> None:
    """Aborts an upload by the name that `uploads` gave it."""
    key, _, identity = upload.partition(_UPLOAD)
    client._abort_multipart_upload(bucket, key, identity)


def utc(moment: datetime | None) -> datetime:
    """Returns a listing's time with its zone."""
    if moment is None:
        raise ValueError("the store lists an object without a time")
    return moment.astimezone(UTC)
