"""Chooses a backend by URL.

Owns the two forms, `file:///path` and `s3://bucket/prefix?option=value&...`. Does not own S3's options (`s3_options`).
"""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreMisconfigured


def open_backend(url: str) -> Backend:
    """Opens, without probing, the object store that a URL names.

    Raises:
        StoreMisconfigured: the URL is not one of the two forms.
        StoreUnavailable: the store does not answer.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise StoreMisconfigured("a store URL carries no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/") and not parts.query:
        return FilesystemBackend(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        # Imported here: urllib3 and minio cost start-up time that users of the file store need not pay.
        from adapter_store.backends.s3 import S3Backend
        from adapter_store.backends.s3_options import parse_options

        return S3Backend(parse_options(parts.netloc, unquote(parts.path).strip("/"), options))
    raise StoreMisconfigured(
        f"{parts.scheme or url!r} is no store URL: use file:///absolute/path or s3://bucket/prefix?endpoint=...&region=..."
    )
