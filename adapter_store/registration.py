"""Taking in an adapter that was trained elsewhere: pieces of files to a private folder, then the door.

Owns which files are taken, their limits while they arrive, and the folder's life. Does not own the checks of the content
(`adapter_store.peft_check`), which see the folder as a whole.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from adapter_store import peft_config
from adapter_store.base import BaseInfo
from adapter_store.errors import InvalidAdapter
from adapter_store.idempotency import Request
from adapter_store.manifest import (
    CONFIG_FILE,
    TEMPLATE_FILE,
    VERSION_FILES,
    WEIGHTS_FILE,
    AliasRecord,
    Provenance,
    VersionManifest,
)
from adapter_store.names import parse_id
from adapter_store.peft_check import MAX_TEMPLATE_BYTES, MAX_WEIGHTS_BYTES, PICKLE_ENDINGS
from adapter_store.store import AdapterStore
from graftwork.signing import SigningKey
from graftwork.template import DEFAULT_CHAT_TEMPLATE

MAX_CHUNK_BYTES = 1 << 20
_LIMITS = {
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
    CONFIG_FILE: peft_config.MAX_BYTES,
    TEMPLATE_FILE: MAX_TEMPLATE_BYTES,
}
_PREFIX = "transfer-"


class Registration:
    """One adapter on its way in. A context manager: the folder is gone when it ends, however it ends.

    Every method blocks on the disk or on the store.

    Args:
        store: where it goes.
        base: the backbone that it must fit.
        staging: folder for what arrives; made when missing.
        tenant: the owner.
        adapter: the adapter's id.
        alias: to point at the version; empty moves none.
        files: (name, bytes) of all that will come. Without it, a sender that died after its second file would leave what
            looks like an adapter without a template.
        signing_key_file: what the version is signed with; None leaves it unsigned.

    Raises:
        InvalidName: one of the ids is none.
        InvalidAdapter: a file that is not taken, is named twice or is too large.
        NotFound: no such tenant.
        InvalidKeyFile: the signing key cannot be read.
    """

    def __init__(
        self,
        store: AdapterStore,
        base: BaseInfo,
        staging: Path,
        *,
        tenant: str,
        adapter: str,
        alias: str,
        files: Sequence[tuple[str, int]],
        signing_key_file: Path | None = None,
    ) -> None:
        self._store, self._base = store, base
        # Read for each adapter, so that a replaced key needs no restart; now, before anything is visible.
        self._signing_key = SigningKey.load(signing_key_file) if signing_key_file else None
        self._tenant, self._adapter = parse_id("tenant", tenant), parse_id("adapter", adapter)
        self._alias = parse_id("alias", alias) if alias else ""
        self._announced = _announced(files)
        store.tenants.get(tenant)  # before a byte is taken
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=staging))
        self._file: BinaryIO | None = None
        self._name, self._size = "", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, path: str) -> None:
        """Begins a file.

        Raises:
            InvalidAdapter: not one that was announced, or one that came already.
        """
        if path not in self._announced:
            raise InvalidAdapter(f"{path!r:.120} came, which the header does not name")
        if (self._folder / path).exists():
            raise InvalidAdapter(f"{path} came twice; send each file once")
        if self._file:
            self._file.close()
        self._file = (self._folder / path).open("xb")
        self._name, self._size = path, 0

    def write(self, chunk: bytes) -> None:
        """Adds bytes to the file that was begun last.

        Raises:
            InvalidAdapter: no file was begun, the chunk is too large, or there are more bytes than announced.
        """
        if self._file is None:
            raise InvalidAdapter("bytes came before the name of their file; name the file first")
        self._size += len(chunk)
        if len(chunk) > MAX_CHUNK_BYTES:
            raise InvalidAdapter(f"a chunk of {self._name} has {len(chunk)} bytes; send at most {MAX_CHUNK_BYTES}")
        if self._size > self._announced[self._name]:
            raise InvalidAdapter(f"{self._name} has more than the {self._announced[self._name]} bytes of the header")
        self._file.write(chunk)

    def publish(self, *, by: str, request: Request | None = None) -> tuple[VersionManifest, AliasRecord | None]:
        """Checks what arrived, publishes it and moves the alias. May be repeated: the same content is one version.

        Args:
            by: who registers it, for the manifest and the alias's history.
            request: when it moved the alias before, the alias stays where it is.

        Raises:
            InvalidAdapter: a check failed; nothing was stored.
        """
        if self._file:
            self._file.close()
            self._file = None
        for name, size in self._announced.items():
            file = self._folder / name
            if not file.exists() or file.stat().st_size != size:
                raise InvalidAdapter(
                    f"the upload ended before all {size} bytes of {name} were there; register it again"
                )
        template = self._folder / TEMPLATE_FILE
        if not template.exists():
            template.write_text(self._base.chat_template or DEFAULT_CHAT_TEMPLATE, "utf-8", newline="")
        manifest = self._store.versions.publish(
            self._tenant, self._adapter, self._folder, base=self._base, made=Provenance(made_by=f"registered by {by}")
        )
        if self._signing_key:  # before the alias, so that a service that asks for signatures never meets it unsigned
            self._store.signatures.sign(manifest, self._signing_key, by=f"this registry, for {by}")
        if not self._alias:
            return manifest, None
        moved = self._store.aliases.set(
            *(self._tenant, self._adapter, self._alias, manifest.version),
            by=by,
            reason="registered",
            # The header, whose request this is, says nothing of the content.
            request=request.about(manifest.version) if request else None,
        )
        return manifest, moved


def _announced(files: Sequence[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, size in files:
        if path.lower().endswith(PICKLE_ENDINGS):
            raise InvalidAdapter(f"{path!r:.120}: pickled weights can run code and are refused; save as safetensors")
        if path not in VERSION_FILES:
            raise InvalidAdapter(f"{path!r:.120} is no file of an adapter; only {', '.join(VERSION_FILES)} are taken")
        if path in found:
            raise InvalidAdapter(f"{path} is named twice; send each file once")
        if not 0 <= size <= _LIMITS[path]:
            raise InvalidAdapter(f"{path} is larger than {_LIMITS[path]} bytes")
        found[path] = size
    for path in (CONFIG_FILE, WEIGHTS_FILE):
        if path not in found:
            raise InvalidAdapter(f"the adapter lacks {path}; send it with the others")
    return found


@contextmanager
def staging_folder(staging: Path) -> Iterator[Path]:
    """Yields a private folder below `staging` that is gone afterwards."""
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=staging, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def clear_staging(staging: Path) -> None:
    """Removes what a killed process left. Only for the one process that owns the folder, at its start."""
    for left in staging.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
