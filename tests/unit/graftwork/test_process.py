"""A service's folder has one owner; wrong settings are named without their values; TLS is all or nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.process import FolderBusy, hold_folder
from graftwork.rpc.tls import TlsIncomplete, tls_files


def test_a_held_folder_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    with (
        hold_folder(tmp_path / "state", "GRAFT_X"),
        pytest.raises(FolderBusy, match="GRAFT_X"),
        hold_folder(tmp_path / "state", "GRAFT_X"),
    ):
        pass
    with hold_folder(tmp_path / "state", "GRAFT_X"):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("module", "variable"), [("trainer_service", "TRAINER"), ("serving_service", "SERVING")])
def test_wrong_settings_end_with_2_and_name_the_variable_without_its_value(module: str, variable: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", f"GRAFT_{variable}_PORT": "s3cret", "GRAFT_STORE_URL": "file:///nowhere"}
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert f"GRAFT_{variable}_PORT" in done.stderr
    assert "GRAFT_OPERATOR_KEY_FILE" in done.stderr
    assert "s3cret" not in done.stderr


def test_half_of_the_tls_settings_is_refused_rather_than_served_in_plain_text() -> None:
    assert tls_files(None, None, None) is None
    for given in ((Path("c"), None, None), (None, Path("k"), None), (None, None, Path("ca"))):
        with pytest.raises(TlsIncomplete):
            tls_files(*given)
