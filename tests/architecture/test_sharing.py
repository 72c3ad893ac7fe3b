"""What shares a server is kept together when tests run in several processes: a folder that was renamed would be scattered."""

from tests.deploy.places import ROOT
from tests.sharing import TOGETHER, group_of


def test_each_folder_that_is_kept_together_is_there_and_is_one_group() -> None:
    for folder in TOGETHER:
        files = sorted((ROOT / folder).rglob("test_*.py"))
        assert files, folder
        assert {group_of(f"{file.relative_to(ROOT)}::test") for file in files} == {folder}


def test_other_tests_are_divided_by_file() -> None:
    assert group_of("tests/unit/store/test_a.py::test_one[tests/contract/x]") == "tests/unit/store/test_a.py"
