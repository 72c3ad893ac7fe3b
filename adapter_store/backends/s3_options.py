"""What a store URL may say about an S3 server, and where credentials come from.

Owns the options' grammar and the chain of credentials. Does not own requests (`s3`). Secrets never stand in a URL, which
ends up in logs and process lists.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import certifi
import urllib3
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.credentials.providers import Provider

from adapter_store.errors import StoreMisconfigured

AWS_ENDPOINT = "https://s3.amazonaws.com"
DEFAULT_TIMEOUT_S = 20.0
_CONNECT_S = 3.0
_CONNECTIONS = 32
_ROLE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Set by EKS and ECS where a role is to be used."""

Style = Literal["path", "virtual"]
Source = Literal["auto", "env", "file", "role"]
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class S3Options:
    """One S3 place.

    Attributes:
        bucket: must exist; making it is an operator's decision.
        prefix: within the bucket, without slashes at its ends; may be empty.
        endpoint: `http://host:port` or `https://host`.
        region: as the server knows itself.
        style: `path` (host/bucket/key) or `virtual` (bucket.host/key, what AWS prefers).
        sse: server-side encryption of what is written: "" leaves it to the bucket, `s3` is the server's own key, `kms` a
            key of its key service.
        kms_key: id of that key; empty is the server's default one.
        ca: PEM file of the authority to trust instead of the machine's; None also looks at SSL_CERT_FILE.
        credentials: `auto` tries environment, shared file and role in this order; the others use one only.
        timeout: seconds without a byte after which a request counts as broken.
    """

    bucket: str
    prefix: str
    endpoint: str = AWS_ENDPOINT
    region: str = "us-east-1"
    style: Style = "path"
    sse: Literal["", "s3", "kms"] = ""
    kms_key: str = ""
    ca: Path | None = None
    credentials: Source = "auto"
    timeout: float = DEFAULT_TIMEOUT_S

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def encryption_headers(self) -> dict[str, str]:
        """Of every request that writes an object."""
        if not self.sse:
            return {}
        if self.sse == "s3":
            return {"X-Amz-Server-Side-Encryption": "AES256"}
        key = {"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": self.kms_key} if self.kms_key else {}
        return {"X-Amz-Server-Side-Encryption": "aws:kms"} | key


def parse_options(bucket: str, prefix: str, given: dict[str, str]) -> S3Options:
    """Reads the query of an s3:// URL; what it leaves out comes from AWS's own variables, else from the defaults.

    Raises:
        StoreMisconfigured: an unknown option, or a value that it cannot have.
    """
    known = {"endpoint", "region", "style", "sse", "kms_key", "ca", "credentials", "timeout"}
    if unknown := set(given) - known:
        raise StoreMisconfigured(
            f"unknown options in the store URL: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    endpoint = given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options = S3Options(
        bucket=bucket,
        prefix=prefix,
        endpoint=_endpoint(endpoint or AWS_ENDPOINT),
        region=region or "us-east-1",
        style=_one_of("style", given.get("style", "path"), "path", "virtual"),
        sse=_one_of("sse", given.get("sse", ""), "", "s3", "kms"),
        kms_key=given.get("kms_key", ""),
        ca=_readable(given["ca"]) if given.get("ca") else None,
        credentials=_one_of("credentials", given.get("credentials", "auto"), "auto", "env", "file", "role"),
        timeout=_seconds(given.get("timeout", "")),
    )
    if options.kms_key and options.sse != "kms":
        raise StoreMisconfigured("kms_key in the store URL needs sse=kms")
    return options


def credentials_of(options: S3Options) -> Provider:
    """Returns where the client takes its keys from; roles are renewed by it before they expire."""
    role = IamAwsProvider(http_client=_pool_for_roles(), region=options.region)
    match options.credentials:
        case "env":
            return EnvAWSProvider()
        case "file":
            return AWSConfigProvider()
        case "role":
            return role
    providers: list[Provider] = [EnvAWSProvider(), AWSConfigProvider()]
    # Elsewhere the metadata address may not answer for minutes, and a missing key should say so at once.
    if options.host.endswith(".amazonaws.com") or any(os.environ.get(name) for name in _ROLE_VARIABLES):
        providers.append(role)
    return ChainedProvider(providers)


def pool_for(options: S3Options) -> urllib3.PoolManager:
    """Connections that give up: minio's own pool waits five minutes for a dead server, each of its tries.

    A dead server costs about ten seconds, a hanging one two time-outs. Errors of the server's own (500, 503 'slow down')
    are the most often repeated ones, because they pass.
    """
    return urllib3.PoolManager(
        maxsize=_CONNECTIONS,
        timeout=urllib3.Timeout(connect=_CONNECT_S, read=options.timeout),
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(options.ca) if options.ca else os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=urllib3.Retry(
            total=8, connect=3, read=1, status=8, other=1, backoff_factor=0.1, backoff_max=3.0, backoff_jitter=0.1,
            status_forcelist=[500, 502, 503, 504],
        ),
    )  # fmt: skip


def _pool_for_roles() -> urllib3.PoolManager:
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=1, read=5), retries=urllib3.Retry(total=2, backoff_factor=0.2)
    )


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or "@" in parts.netloc:
        # Without what stands before an @: it may be a key that somebody tried to pass here.
        shown = text.rpartition("@")[2]
        raise StoreMisconfigured(f"{shown!r:.200} is no S3 endpoint: use http://host:port or https://host")
    return f"{parts.scheme}://{parts.netloc}"


def _one_of(name: str, value: str, *choices: Choice) -> Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise StoreMisconfigured(
        f"{name}={value!r:.40} in the store URL is not one of {', '.join(choice or 'nothing' for choice in choices)}"
    )


def _readable(text: str) -> Path:
    file = Path(text)
    try:
        file.open("rb").close()
    except OSError as error:
        raise StoreMisconfigured(f"ca={text} in the store URL cannot be read: {error.strerror}") from None
    return file


def _seconds(text: str) -> float:
    try:
        value = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 600:
        raise StoreMisconfigured(f"timeout={text!r:.40} in the store URL is not a number of seconds from 0.1 to 600")
    return value
