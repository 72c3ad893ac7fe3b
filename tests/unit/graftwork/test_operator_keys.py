"""The operators' key file: old and new forms, changes as a whole, and never a key's text where a hash will do."""

import hashlib
from pathlib import Path

import pytest

from graftwork.operator_keys import InvalidOperatorKeys, NoSuchOperator, OperatorKeyFile, digest_of, first_plain, parse
from graftwork.rpc.auth import Role

FIRST = "gwop_first"


@pytest.fixture
def file(tmp_path: Path) -> OperatorKeyFile:
    path = tmp_path / "operator.key"
    path.write_text(f"# of this machine\n{FIRST}\n")
    return OperatorKeyFile(path)


def test_roles_and_names_are_read_and_a_bare_key_is_an_operators() -> None:
    hashed = hashlib.sha256(b"gwop_x").hexdigest()
    keys, wrong = parse(
        f"{FIRST}\n\n gwop_b viewer wall  # screen\nsha256:{hashed} operator alice\nsha256:{hashed} bob\n"
    )
    assert wrong == []
    assert [(key.role, key.name, key.plain) for key in keys] == [
        (Role.OPERATOR, "", True),
        (Role.VIEWER, "wall", True),
        (Role.OPERATOR, "alice", False),
        (Role.OPERATOR, "bob", False),
    ]
    assert keys[2].digest == digest_of("gwop_x")


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        "gw_acme_00",
        "gwop_a admin too many",
        "gwop_a operator Alice",
        "sha256:12 operator x",
        "gwop_a tenant x",
    ],
)
def test_a_line_that_is_no_key_is_left_out_and_not_guessed_at(line: str, file: OperatorKeyFile) -> None:
    keys, wrong = parse(f"{line}\n{FIRST}\n")
    assert [key.digest for key in keys] == [digest_of(FIRST)]
    assert wrong == [1]
    file.path.write_text(f"{line}\n{FIRST}\n")
    with pytest.raises(InvalidOperatorKeys, match="line 1") as refused:
        file.read()
    assert line not in str(refused.value)


def test_an_added_key_is_kept_as_its_hash(file: OperatorKeyFile) -> None:
    made = file.add("alice", Role.VIEWER)
    text = file.path.read_text()
    assert made not in text
    assert text.startswith("# of this machine\n")
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.read()[1].digest == digest_of(made)
    assert file.read()[1].role is Role.VIEWER
    with pytest.raises(InvalidOperatorKeys, match="remove it first"):
        file.add("alice", Role.OPERATOR)
    with pytest.raises(InvalidOperatorKeys, match="no name"):
        file.add("Al ice", Role.OPERATOR)


def test_removal_is_by_name_or_id_and_spares_the_machines_own(file: OperatorKeyFile) -> None:
    file.add("alice", Role.VIEWER)
    file.add("bob", Role.OPERATOR)
    file.remove("alice")
    file.remove(file.read()[1].id)
    assert [key.digest for key in file.read()] == [digest_of(FIRST)]
    with pytest.raises(NoSuchOperator):
        file.remove("alice")
    with pytest.raises(InvalidOperatorKeys, match="rotate"):
        file.remove(file.read()[0].id)


def test_rotation_replaces_the_first_key_and_can_keep_the_old_one_for_a_while(file: OperatorKeyFile) -> None:
    file.add("alice", Role.VIEWER)
    file.rotate("before")
    new = first_plain(file.path.read_text())
    assert new not in (None, FIRST)
    assert {key.name for key in file.read()} == {"", "before", "alice"}
    assert any(key.digest == digest_of(FIRST) for key in file.read())
    file.remove("before")
    file.rotate()
    assert first_plain(file.path.read_text()) != new
    assert len(file.read()) == 2
    with pytest.raises(InvalidOperatorKeys, match="taken"):
        file.rotate("alice")
