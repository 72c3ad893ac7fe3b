"""Forms of the console: numbers as people type them, and what a form offers beside what the trainer knows."""

import pytest

from graftwork.client.callers import principal_of
from graftwork.console.errors import WrongForm
from graftwork.console.forms import decimal_number, whole_number
from graftwork.console.pages.training import PRESETS, Wanted
from graftwork.console.rendering import told
from graftwork.rpc.auth import Role
from graftwork.v1 import registry_pb2
from trainer_service.core import recipe_values


@pytest.mark.parametrize(("text", "value"), [("0.02", 0.02), (" 2,5 ", 2.5), ("1e-3", 1e-3), ("3", 3.0)])
def test_a_decimal_is_read_with_point_or_comma(text: str, value: float) -> None:
    assert decimal_number("Epochs", text, most=10) == value


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "nan", "inf", "11", "1.2.3", "²"])
def test_what_is_no_number_above_zero_is_refused_by_the_fields_name(text: str) -> None:
    with pytest.raises(WrongForm, match="Epochs"):
        decimal_number("Epochs", text, most=10)


def test_zero_is_taken_where_it_means_something() -> None:
    assert decimal_number("temperature", "0", most=2, zero=True) == 0
    with pytest.raises(WrongForm, match="from 0 to 2"):
        decimal_number("temperature", "-0.1", most=2, zero=True)


@pytest.mark.parametrize("text", ["1.5", "²", "-1", "9" * 18])
def test_a_whole_number_is_ascii_digits_within_its_range(text: str) -> None:
    with pytest.raises(WrongForm, match="Steps"):
        whole_number("Steps", text)


def test_the_form_offers_the_trainers_presets() -> None:
    assert set(PRESETS) == set(recipe_values.PRESETS)


def test_an_empty_field_is_left_to_the_trainer() -> None:
    assert not Wanted(adapter="a").recipe().ListFields()
    recipe = Wanted(adapter="a", epochs="2", max_steps="40", learning_rate="0,01").recipe()
    assert (recipe.epochs, recipe.max_steps, recipe.learning_rate) == (2.0, 40, 0.01)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("use `graft up` <b>", "Use <code>graft up</code> &lt;b&gt;"),
        ("`graft up` & more", "<code>graft up</code> &amp; more"),
        ("one ` alone", "One ` alone"),
        ("", ""),
    ],
)
def test_a_message_becomes_a_sentence_and_never_markup(text: str, html: str) -> None:
    assert told(text) == html


def test_a_role_of_a_later_release_may_do_least() -> None:
    assert principal_of(registry_pb2.Caller.FromString(b"\x08\x63")).role is Role.VIEWER  # its first field is 99
