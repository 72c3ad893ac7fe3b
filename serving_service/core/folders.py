"""The disk tier's folders: `<tenant>/<adapter>@<version>/`, the version's files and its manifest.

Owns reading them back after a restart and deleting them. Does not own which stay (residency). All functions block: call
them in threads.
"""

import os
import secrets
import shutil
from pathlib import Path

from pydantic import ValidationError

from adapter_store.blobs import hash_file
from adapter_store.manifest import WEIGHTS_FILE, VersionManifest, version_digest

MANIFEST_FILE = "manifest.json"
TEMPLATE_FILE = "chat_template.jinja"


def file_manifest(manifest: VersionManifest, folder: Path) -> None:
    """Writes a version's manifest beside its files, so that a restart can verify them without the store."""
    target = folder / MANIFEST_FILE
    if not target.exists():
        partial = target.with_suffix(f".{secrets.token_hex(4)}.partial")
        partial.write_text(manifest.model_dump_json())
        os.replace(partial, target)


def drop_strays(root: Path) -> list[tuple[VersionManifest, Path]]:
    """Returns the sound versions under `root`, oldest first, and deletes everything else there.

    Sound is: manifest and folder name agree, the identity recomputed from the manifest holds, and so do the files' sha256.
    """
    root.mkdir(parents=True, exist_ok=True)
    sound = []
    for tenant in sorted(root.iterdir()):
        for folder in sorted(tenant.iterdir()) if tenant.is_dir() else [tenant]:
            manifest = _verified(tenant.name, folder)
            if manifest is None:
                delete(folder)
            else:
                sound.append((folder.stat().st_mtime, manifest, folder))
    return [(manifest, folder) for _, manifest, folder in sorted(sound, key=lambda row: row[0])]


def delete(path: Path) -> None:
    """Deletes a file or folder, if it is there; a folder vanishes whole, because it is renamed first."""
    doomed = path.with_name(f"{path.name}.deleted-{secrets.token_hex(4)}")
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)


def _verified(tenant: str, folder: Path) -> VersionManifest | None:
    try:
        manifest = VersionManifest.model_validate_json((folder / MANIFEST_FILE).read_text())
        identity = version_digest(
            weights=manifest.file(WEIGHTS_FILE).sha256,
            config=manifest.config,
            base=manifest.base_digest,
            template=manifest.template_digest,
        )
        named = (manifest.tenant, f"{manifest.adapter}@{manifest.version}", manifest.version)
        if named != (tenant, folder.name, identity):
            return None
        if any(hash_file(folder / file.path) != (file.sha256, file.size) for file in manifest.files):
            return None
    except (OSError, ValidationError, StopIteration, UnicodeDecodeError):
        return None
    return manifest
