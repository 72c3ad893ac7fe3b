"""Settings: flags before variables before the file before defaults; unknown names are refused with the nearest; no secret shows."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapter_store.settings import RegistrySettings
from graftwork.config import ConfigError, ConfigFile
from graftwork.config.fields import is_number, is_secret, shown, unit_of
from graftwork.config.settings import ServiceSettings, set_values, unknown_names
from graftwork.console.settings import ConsoleSettings
from serving_service.settings import ServingSettings
from trainer_service.settings import TrainerSettings

CLASSES: list[type[ServiceSettings]] = [TrainerSettings, ServingSettings, RegistrySettings, ConsoleSettings]
NEEDED = '[store]\nurl = "file:///s"\n[shared]\noperator_key_file = "key"\n[serving]\ncache_dir = "cache"\n'


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No settings of whoever runs the tests."""
    for name in os.environ:
        if name.startswith(("GRAFT_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GRAFT_CONFIG", "")  # so that what a flag sets is taken back after the test
    return monkeypatch


def file_of(folder: Path, text: str) -> Path:
    path = folder / "graft.toml"
    path.write_text(text)
    return path


def serving(*arguments: str) -> ServingSettings:
    return ServingSettings.from_command(arguments, "serving")


def refused(kind: type[ServiceSettings], *arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        kind.from_command(arguments, "x")
    return str(error.value)


def test_flags_go_before_variables_before_the_file_before_defaults(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(file_of(tmp_path, NEEDED))
    assert serving("--config", path).max_loras == 0
    path = str(file_of(tmp_path, NEEDED + "max_loras = 5\n"))
    assert serving("--config", path).max_loras == 5
    clean.setenv("GRAFT_SERVING_MAX_LORAS", "6")
    assert serving("--config", path).max_loras == 6
    assert serving("--config", path, "--max-loras", "7").max_loras == 7
    assert serving("--max-loras=8", f"--config={path}").max_loras == 8


def test_an_own_setting_goes_before_a_shared_one_and_a_variable_before_both_places_of_the_file(
    clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = file_of(tmp_path, NEEDED.replace("[serving]", 'log_level = "ERROR"\n[serving]'))
    clean.setenv("GRAFT_CONFIG", str(path))
    assert serving().log_level == "ERROR"
    path.write_text(path.read_text() + 'log_level = "WARNING"\n')
    assert serving().log_level == "WARNING"
    clean.setenv("GRAFT_LOG_LEVEL", "DEBUG")
    assert serving().log_level == "DEBUG"
    clean.setenv("GRAFT_SERVING_LOG_LEVEL", "INFO")
    assert serving().log_level == "INFO"


def test_paths_of_a_file_are_relative_to_its_folder(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = serving("--config", str(file_of(tmp_path, NEEDED)))
    assert made.cache_dir == tmp_path / "cache"
    assert made.operator_key_file == tmp_path / "key"
    clean.setenv("GRAFT_SERVING_CACHE_DIR", "~/c")
    assert serving("--config", str(tmp_path / "graft.toml")).cache_dir == Path.home() / "c"


def test_an_empty_variable_counts_as_unset_but_where_text_may_be_empty(
    clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean.setenv("GRAFT_CONFIG", str(file_of(tmp_path, NEEDED)))
    clean.setenv("GRAFT_SERVING_MAX_LORAS", "")
    clean.setenv("GRAFT_SERVING_TRUSTED_KEYS", "")
    clean.setenv("GRAFT_SERVING_TOOL_PARSER", "")
    made = serving()
    assert (made.max_loras, made.trusted_keys, made.tool_parser) == (0, None, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[serving]\nmax_lora = 1\n",
            "graft.toml [serving] max_lora: there is no such setting; did you mean max_loras?",
        ),
        ("[shared]\nbackbon = 'x'\n", "graft.toml [shared] backbon: there is no such setting; did you mean backbone?"),
        ("[serving]\nstore_url = 'x'\n", "[serving] store_url: there is no such setting; it stands in [store] as url"),
        ("[servin]\n", "there is no section [servin]; did you mean serving?"),
        ("max_loras = 1\n", "max_loras stands outside of a section"),
        ("[serving]\nmax_loras = [1]\n", "[serving] max_loras: must be text, a number, true or false"),
        ("[serving]\nmax_loras = 'many'\n", "graft.toml [serving] max_loras: must be whole number >= 0"),
        ("[serving]\nmax_lora_rank = 7\n", "[serving] max_lora_rank: is 7, must be one of 1, 8"),
        ("[serving\n", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_by_its_place(
    text: str, said: str, clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert said in refused(ServingSettings, "--config", str(file_of(tmp_path, text)))


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("GRAFT_SERVING_MAX_LORA", "did you mean GRAFT_SERVING_MAX_LORAS?"),
        ("GRAFT_BACKBON", "did you mean GRAFT_BACKBONE?"),
        ("GRAFT_STORE_URI", "did you mean GRAFT_STORE_URL?"),
    ],
)
def test_a_variable_that_nobody_knows_is_refused_with_the_nearest(
    variable: str, said: str, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv(variable, "x")
    assert f"{variable}: there is no such setting; {said}" in refused(ServingSettings)


@pytest.mark.parametrize(
    "variable",
    [
        "GRAFT_SERVING_SERVICE_HOST",
        "GRAFT_SERVING_PORT_50051_TCP_ADDR",
        "GRAFT_TRAINER_X",
        "GRAFT_SOAK_SECONDS",
        "GRAFT_API_KEY",
    ],
)
def test_variables_of_others_are_let_be(variable: str) -> None:
    assert unknown_names(ServingSettings, ConfigFile(), {variable: "x"}) == []


def test_flags_that_nobody_knows_are_refused_with_the_nearest(clean: pytest.MonkeyPatch) -> None:
    assert "--max-lora: there is no such flag; did you mean --max-loras?" in refused(ServingSettings, "--max-lora", "3")


def test_what_is_missing_is_named_with_both_of_its_places(clean: pytest.MonkeyPatch) -> None:
    said = refused(ServingSettings)
    assert "GRAFT_STORE_URL is not set: it is required ([store] url in the file)" in said
    assert "GRAFT_SERVING_CACHE_DIR is not set" in said


def test_no_message_shows_a_value(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = file_of(tmp_path, "[trainer]\nport = 's3cret'\ndatabase_url = 7\n")
    said = refused(TrainerSettings, "--config", str(path))
    assert "[trainer] port" in said
    assert "[trainer] database_url" in said
    assert "s3cret" not in said


def test_a_secret_has_no_flag_and_is_never_shown(clean: pytest.MonkeyPatch) -> None:
    assert "--database-url: there is no such flag" in refused(TrainerSettings, "--database-url", "postgresql://u:p@h/n")
    assert shown("postgresql://u:p@h/n", True) == "(set, not shown)"
    assert shown("https://user:pass@host/x", False) == "https://***@host/x"
    named = [
        (kind.__name__, name)
        for kind in CLASSES
        for name, field in kind.model_fields.items()
        if any(word in name for word in ("password", "secret", "token_", "database_url")) and not is_secret(field)
    ]
    assert named == []


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_documented_and_every_number_has_a_unit(kind: type[ServiceSettings]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name} has no docstring below it"
        if is_number(field):
            assert unit_of(name, field), f"{kind.__name__}.{name}: say what it counts, with Unit"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_found_in_the_file_and_under_its_variable(kind: type[ServiceSettings], tmp_path: Path) -> None:
    """Aliases, prefixes and shared names are three ways to lose one."""
    sections: dict[str, Mapping[str, str]] = {kind.section: {}, "shared": {}, "store": {}}
    from graftwork.config.settings import places_of, variables_of

    for name in kind.model_fields:
        section, key = places_of(kind, name)[0]
        sections[section] = {**sections[section], key: "x"}
    assert set(set_values(kind, ConfigFile(tmp_path / "graft.toml", sections), {})) == set(kind.model_fields)
    variables = {variables_of(kind, name)[0]: "x" for name in kind.model_fields}
    assert set(set_values(kind, ConfigFile(), variables)) == set(kind.model_fields)


@pytest.mark.parametrize("module", ["trainer_service", "serving_service", "adapter_store", "graftwork.console"])
def test_each_service_refuses_what_it_does_not_know_and_ends_with_2(module: str) -> None:
    """The real processes: one that reads its settings in another way would start, and ignore the slip."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--hots", "x"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == 2
    assert "--hots: there is no such flag; did you mean --host?" in done.stderr
