"""What an alias's history says: where it points, and where a roll-back would take it.

Owns reading the records. Does not own the move: the registry decides, and answers with what it did.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Share:
    """A version and its part of an alias's requests, in percent."""

    version: str
    percent: float


def shares(alias: pb.Alias) -> list[Share]:
    """Returns the versions that an alias's requests go to; none for a removed one."""
    if alias.removed:
        return []
    total = sum(item.weight for item in alias.split)
    if total:
        return [Share(item.version, 100 * item.weight / total) for item in alias.split]
    return [Share(alias.version, 100.0)]


def before(history: Sequence[pb.Alias], versions: Iterable[str]) -> pb.Alias | None:
    """Returns the record that a roll-back would return to, None where there is none.

    Args:
        history: newest first.
        versions: digests that still exist.
    """
    if not history or history[0].removed:
        return None
    there, now = set(versions), history[0]
    place = now.restores or now.number
    for record in history:
        aims = shares(record)
        if record.number < place and aims and aims != shares(now) and all(share.version in there for share in aims):
            return record
    return None


def pointing(aliases: Iterable[pb.Alias]) -> dict[str, list[pb.Alias]]:
    """Returns, for each version, the aliases that send requests to it."""
    found: dict[str, list[pb.Alias]] = {}
    for alias in aliases:
        for share in shares(alias):
            found.setdefault(share.version, []).append(alias)
    return found
