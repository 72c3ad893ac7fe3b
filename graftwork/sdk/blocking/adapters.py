"""`client.adapters`: adapters, their versions and aliases, and their files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from graftwork.client.folders import new_folder
from graftwork.sdk import adapter_files
from graftwork.sdk import adapters as calls
from graftwork.sdk.adapter_files import Registered
from graftwork.sdk.adapters import Adapter, Alias, FileCheck, Version
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.datasets import Deletion
from graftwork.sdk.differences import VersionDiff, diff_versions
from graftwork.sdk.merging import MergedFolder, MergeReport, merge_version
from graftwork.sdk.names import Scope
from graftwork.sdk.signatures import Signature, sign_version


class Adapters:
    """Calls about adapters of the client's tenant.

    An adapter is named by its id or its full name, a version by its digest (64 hex digits), and where either will do,
    `version` may also be an alias. `expected_number` refuses a change unless the alias's newest record has this number;
    0 means that the alias must be new, None that it does not matter. Calls on what is not there raise RemoteNotFound.
    """

    def __init__(self, wire: Wire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def list(self) -> Iterator[Adapter]:
        """Yields the tenant's adapters, by id."""
        return self._wire.list(calls.list_adapters(self._scope.parent))

    def get(self, adapter: str) -> Adapter:
        """Looks an adapter up, with its aliases."""
        return self._wire.call(calls.get_adapter(self._scope.adapter(adapter)))

    def versions(self, adapter: str) -> Iterator[Version]:
        """Yields an adapter's versions."""
        return self._wire.list(calls.list_versions(self._scope.adapter(adapter)))

    def version(self, adapter: str, version: str = "prod") -> Version:
        """Looks a version up, by digest or alias."""
        return self._wire.call(calls.get_version(self._scope.version_or_alias(adapter, version)))

    def promote(
        self,
        adapter: str,
        version: str,
        *,
        alias: str = "prod",
        expected_number: int | None = None,
        reason: str = "",
    ) -> Alias:
        """Points an alias at a version; new requests take it at once, those in flight finish on the old one.

        Raises:
            NoFullDigest: `version` is not 64 hex digits.
            RemoteNotFound: no such version.
            RemoteConflict: `expected_number` is not the current one, which the message names.
        """
        self._scope.version(adapter, version)  # a digest's beginning is refused here, with what to do
        name = self._scope.alias(adapter, alias)
        return self._wire.call(calls.set_alias(name, version=version, expected_number=expected_number, reason=reason))

    def split(
        self,
        adapter: str,
        weights: Mapping[str, int],
        *,
        alias: str = "prod",
        expected_number: int | None = None,
        reason: str = "",
    ) -> Alias:
        """Shares an alias's requests out, drawn anew for each request; `promote` or `roll_back` ends it.

        Args:
            adapter: whose alias.
            weights: digest -> weight, 1 to 1000, of 2 to 10 versions.
            alias: the alias.
            expected_number: see the class.
            reason: kept in the history.

        Raises:
            RemoteInvalid: weights out of range. RemoteNotFound: no such version. RemoteConflict: see `promote`.
        """
        name = self._scope.alias(adapter, alias)
        return self._wire.call(calls.set_alias(name, split=weights, expected_number=expected_number, reason=reason))

    def roll_back(
        self, adapter: str, *, alias: str = "prod", expected_number: int | None = None, reason: str = ""
    ) -> Alias:
        """Points an alias at the version before; once more at the one before that.

        Raises:
            RemotePrecondition: there is none that still exists. RemoteConflict: see `promote`.
        """
        name = self._scope.alias(adapter, alias)
        return self._wire.call(calls.roll_back_alias(name, expected_number, reason))

    def set_route(
        self, adapter: str, route: str, *, alias: str = "prod", expected_number: int | None = None, reason: str = ""
    ) -> Alias:
        """Says how an alias's requests are to be served: `swapped` beside the backbone, or `merged` in an engine of its own.

        Raises:
            RemoteInvalid: no such route. RemoteConflict: see `promote`.
        """
        name = self._scope.alias(adapter, alias)
        return self._wire.call(calls.set_alias_route(name, route, expected_number, reason))

    def history(self, adapter: str, *, alias: str = "prod") -> Iterator[Alias]:
        """Yields an alias's records, newest first."""
        return self._wire.list(calls.alias_history(self._scope.alias(adapter, alias)))

    def delete_alias(self, adapter: str, alias: str, *, expected_number: int | None = None, reason: str = "") -> Alias:
        """Makes an alias name nothing; its history stays. Raises RemoteConflict, see `promote`."""
        return self._wire.call(calls.delete_alias(self._scope.alias(adapter, alias), expected_number, reason))

    def delete_version(self, adapter: str, version: str, *, reason: str = "") -> Deletion:
        """Hides a version; publishing the same content again takes it back. Raises RemotePrecondition while an alias names it."""
        return self._wire.call(calls.delete_version(self._scope.version(adapter, version), reason))

    def delete(self, adapter: str, *, reason: str = "") -> tuple[Deletion, ...]:
        """Hides an adapter with all its versions. Raises RemotePrecondition while it has aliases."""
        return self._wire.call(calls.delete_adapter(self._scope.adapter(adapter), reason))

    def verify(self, adapter: str, version: str = "prod") -> tuple[FileCheck, ...]:
        """Reads every stored byte of a version and compares it with its manifest; `problem` is empty for a sound file."""
        return self._wire.call(calls.verify_version(self._scope.version_or_alias(adapter, version)))

    def diff(self, adapter: str, version: str, other: str, *, other_adapter: str = "") -> VersionDiff:
        """Compares two versions of the tenant: what was set, what they were made from, and how far their weights are apart.

        Args:
            adapter: of `version`.
            version, other: digest or alias.
            other_adapter: of `other`; empty: the same one.

        Raises:
            RemoteNotFound: no such version. RemoteCorrupt: stored bytes are damaged.
        """
        one = self._scope.version_or_alias(adapter, version)
        return self._wire.call(diff_versions(one, self._scope.version_or_alias(other_adapter or adapter, other)))

    def sign(self, adapter: str, key_file: Path | str, *, version: str = "prod") -> Signature:
        """Vouches for a version, so that services which ask for signatures serve it. The private key stays here.

        Args:
            adapter: its id.
            key_file: an Ed25519 private key in PEM, as `graft key create` makes it.
            version: digest or alias; what an alias points at now is signed, whatever it points at later.

        Raises:
            InvalidKeyFile: the file holds no such key.
            RemoteNotFound: no such version.
        """
        found = self.version(adapter, version)
        return self._wire.call(sign_version(found.name, found.manifest_sha256, Path(key_file)))

    def register(
        self,
        adapter: str,
        folder: Path | str,
        *,
        alias: str = "",
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Registered:
        """Makes a version of an adapter that was trained elsewhere; the same content is one version.

        Args:
            adapter: its id, new or not.
            folder: a PEFT folder with adapter_model.safetensors and adapter_config.json.
            alias: to point at the version; empty moves none.
            progress: called with (bytes sent, bytes in all).
            timeout: seconds, all tries together; None: an hour.

        Raises:
            InvalidFolder: the folder cannot be sent: no adapter, pickled weights or a symbolic link.
            RemoteInvalid: it failed a check at the door (wrong backbone, shapes, rank, numbers); nothing is visible.
            OSError: a file cannot be read.
        """
        call = adapter_files.register_adapter(self._scope.parent, adapter, Path(folder), alias, progress)
        return self._wire.call(call, timeout)

    def export(
        self,
        adapter: str,
        folder: Path | str,
        *,
        version: str = "prod",
        progress: Callable[[int, int], None] | None = None,
    ) -> Version:
        """Writes a version as a PEFT folder, verified; all of it or nothing.

        Args:
            adapter: its id.
            folder: new or empty.
            version: digest or alias.
            progress: called with (bytes received, bytes in all).

        Raises:
            InvalidFolder: the folder is not empty. DamagedDownload: what arrived is not what the manifest names.
            OSError: it cannot be written.
        """
        name = self._scope.version_or_alias(adapter, version)
        with new_folder(Path(folder)) as partial:
            download = adapter_files.Download(partial, progress)
            with closing(self._wire.stream(adapter_files.download_version(name))) as messages:
                for message in messages:
                    download.take(message)
            return download.finish()

    def merge(
        self,
        adapter: str,
        folder: Path | str,
        *,
        version: str = "prod",
        evaluate: bool = True,
        progress: Callable[[str, int, int], None] | None = None,
        timeout: float | None = None,
    ) -> MergeReport:
        """Adds a version to the unquantised backbone and writes a Hugging Face folder that runs without LoRA; all of it, verified,
        or nothing.

        Args:
            adapter: its id.
            folder: new or empty; takes as much room as the backbone.
            version: digest or alias.
            evaluate: measure base, adapter and merged weights, and refuse a result that is not what the adapter is.
            progress: called with the stage (waiting, fetching, merging, evaluating, checking, receiving), what is done of it
                and how much it is; 0: not known.
            timeout: seconds; None: as long as it takes.

        Raises:
            InvalidFolder: the folder is not empty. DamagedDownload: what arrived is not what the trainer made.
            RemotePrecondition: it cannot be merged, as onto quantised weights; the message says why.
            OSError: the folder cannot be written.
        """
        name = self._scope.version_or_alias(adapter, version)
        with new_folder(Path(folder)) as partial:
            merged = MergedFolder(partial, progress)
            with closing(self._wire.stream(merge_version(name, evaluate=evaluate, timeout=timeout))) as messages:
                for message in messages:
                    merged.take(message)
            return merged.finish()
