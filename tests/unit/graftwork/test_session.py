"""Tables for people: what somebody copies from them is whole."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from graftwork.cli.session import Session, table
from graftwork.local.home import Home

ID = "01m85tqy70srpv4d825w5kcfyv"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_cell_is_cropped_on_a_narrow_terminal(width: int, tmp_path: Path) -> None:
    text = io.StringIO()
    session = Session(Home.open(tmp_path), out=Console(file=text, width=width, soft_wrap=True, highlight=False))
    columns = ("job", "tenant", "adapter", "state", "step", "base loss", "loss", "version")
    rows = [[ID, "acme", "support-answers", "SUCCEEDED", "162/162", "3.6248", "0.0012", "90aab5aa89cc"]]
    session.show(None, table(columns, rows))
    heads, cells = text.getvalue().splitlines()
    assert cells.split() == rows[0]
    assert heads.split() == " ".join(columns).split()
