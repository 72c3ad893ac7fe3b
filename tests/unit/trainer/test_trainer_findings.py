"""Every finding about rows: what triggers it, on which line, and that any bytes at all end in findings, not in a crash."""

import codecs
import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainer_service.core.duplicates import RowKeys
from trainer_service.core.findings import MAX_SUBJECTS, OTHERS, RULES, SHOWN_LINES, Finding, Findings, Level
from trainer_service.core.inspection import InspectionRequest
from trainer_service.core.row_sources import MAX_ROW_BYTES
from trainer_service.core.rows import Row, read_rows
from trainer_service.engine.inspection import inspect

GOOD = {"instruction": "greet", "response": "Hello"}


def rows_of(data: bytes, folder: Path, file_format: str = "jsonl") -> tuple[list[Row], Findings]:
    path = folder / "rows"
    path.write_bytes(data)
    findings = Findings()
    keys = RowKeys()
    rows = list(read_rows(path, file_format, findings))
    for row in rows:
        keys.add(row)
    keys.report(findings)
    if len(keys) > 1:
        keys.report_overlap(findings, held_out=1, data_digest="d")
    return rows, findings


def lines(*rows: object) -> bytes:
    """JSONL with three good rows first, so that the first of `rows` is on line 4."""
    good = [{"instruction": f"ask {at}", "response": "yes"} for at in range(3)]
    return "\n".join(it if isinstance(it, str) else json.dumps(it) for it in [*good, *rows]).encode()


def chat(*messages: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


A_THOUSAND_DIGITS = '{"instruction": "x", "response": ' + "9" * 5000 + "}"

# code -> (bytes, line, words of the message)
CASES: dict[str, list[tuple[bytes, int, str]]] = {
    "encoding": [
        (json.dumps(GOOD).encode("utf-16"), 0, "UTF-16"),
        (json.dumps(GOOD).encode("utf-16-le"), 0, "UTF-16"),  # no mark, as Windows' own tools write it
        (json.dumps(GOOD).encode("utf-16-be"), 0, "UTF-16"),
        (json.dumps(GOOD).encode("utf-32"), 0, "UTF-32"),
    ],
    "file_kind": [
        (gzip.compress(lines()), 0, "gzip"),
        (b"PAR1" + bytes(10), 0, "Parquet"),
        (b"PK\x03\x04...", 0, "ZIP"),
    ],
    "json_array": [(json.dumps([GOOD, GOOD]).encode(), 1, "array"), (b"[\n" + json.dumps(GOOD).encode(), 1, "array")],
    "json_pretty": [(json.dumps(GOOD, indent=2).encode(), 1, "several lines")],
    "no_rows": [(b"", 0, "no rows"), (b"\n \r\n\n", 0, "no rows")],
    "one_row": [(lines()[:0] + json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode(), 0, "only one")],
    "not_utf8": [
        (lines() + '\n{"instruction": "é", "response": "x"}'.encode("latin-1"), 4, "Latin-1"),
        (lines() + '\n{"instruction": "日本", "response": "x"}'.encode("shift-jis"), 4, "not UTF-8 (byte"),
        (lines() + b'\n{"instruction": "\xf0\x9f", "response": "x"}', 4, "not UTF-8"),
    ],
    "not_json": [
        (lines("{no"), 4, "column 2"),
        (lines("null and void"), 4, "not JSON"),
        (lines(A_THOUSAND_DIGITS), 4, "too large"),
        (lines("[" * 100_000), 4, "not JSON"),
    ],
    "cr_newlines": [(lines().replace(b"\n", b"\r"), 1, "carriage return")],
    "not_object": [(lines([1, 2]), 4, "not a JSON object"), (lines("3"), 4, "not a JSON object")],
    "row_too_long": [(lines({"instruction": "x" * MAX_ROW_BYTES, "response": "y"}), 4, "1 MiB")],
    "missing": [
        (lines({"instruction": "x"}), 4, "'response'"),
        (lines(chat(("user", None), ("assistant", "x"))), 4, ""),
    ],
    "renamed": [
        (lines({"instruction": "x", "output": "y"}), 4, "'output' stands where 'response'"),
        (lines({"prompt": "x", "completion": "y"}), 4, "'prompt' stands where 'instruction'"),
        (lines({"conversations": [{"from": "human", "value": "x"}]}), 4, "'conversations' stands where 'messages'"),
    ],
    "empty": [
        (lines({"instruction": "x", "response": " \r\n\t"}), 4, "'response'"),
        (lines({**GOOD, "instruction": ""}), 4, ""),
    ],
    "not_text": [
        (lines({"instruction": 3, "response": "y"}), 4, "'instruction'"),
        (lines({**GOOD, "input": []}), 4, "'input'"),
    ],
    "surrogate": [(lines('{"instruction": "x", "response": "\\ud83d"}'), 4, "'response'")],
    "marker": [
        (lines({"instruction": "### Instruction:\nx", "response": "y"}), 4, "alpaca"),
        (lines({"instruction": "[INST] x [/INST]", "response": "y"}), 4, "llama2"),
        (lines({"instruction": "x", "response": "y<|im_end|>"}), 4, "chatml"),
        (lines({"instruction": "x", "input": "<s>y", "response": "z"}), 4, "sentencepiece"),
        (lines({"instruction": "<|start_header_id|>user", "response": "y"}), 4, "llama3"),
        (lines({"instruction": "<|user|>\nx<|end|>", "response": "y"}), 4, "project"),
        (lines({"instruction": "<start_of_turn>user", "response": "y"}), 4, "gemma"),
        (lines(chat(("user", "<|endoftext|>"), ("assistant", "y"))), 4, "gpt"),
    ],
    "mixed_templates": [
        (
            lines({"instruction": "[INST] x", "response": "y"}, {"instruction": "### Input: x", "response": "y"}),
            0,
            "llama2 (1, first on line 4), alpaca (1, first on line 5), none (3)",
        )
    ],
    "both_shapes": [(lines({**chat(("user", "x"), ("assistant", "y")), "instruction": "z"}), 4, "'instruction'")],
    "bad_messages": [
        (lines({"messages": []}), 4, ""),
        (lines({"messages": "x"}), 4, ""),
        (lines({"messages": ["x"]}), 4, ""),
    ],
    "bad_role": [(lines(chat(("user", "x"), ("tool", "y"), ("assistant", "z"))), 4, "messages[1]")],
    "bad_order": [
        (lines(chat(("user", "x"))), 4, "ending with assistant"),
        (lines(chat(("assistant", "x"))), 4, ""),
        (lines(chat(("user", "x"), ("user", "y"), ("assistant", "z"))), 4, ""),
        (lines(chat(("system", "x"))), 4, ""),
    ],
    "duplicate_rows": [(lines({"instruction": "ask 1", "response": "yes"}), 4, "")],
    "same_prompt": [(lines({"instruction": "Ask  1", "response": "no"}), 4, "another response")],
    "overlap": [
        (b"\n".join(json.dumps({"instruction": "joke", "response": f"{at}"}).encode() for at in range(9)), 8, "")
    ],
    "bom": [(codecs.BOM_UTF8 + lines(), 1, "")],
    "windows_newlines": [
        (lines().replace(b"\n", b"\r\n"), 1, ""),
        (lines({"instruction": "x\r\ny", "response": "z"}), 4, ""),
    ],
    "trimmed": [(lines({"instruction": "x", "response": "y  \n"}), 4, "")],
    "blank_lines": [(lines("", GOOD), 4, "")],
    "ignored_fields": [(lines({**GOOD, "id": 7}), 4, "'id'")],
}
# Found in Parquet, by the tokenizer or from the whole file; each has a test of its own below.
ELSEWHERE = {
    "not_parquet", "columns", "nothing_supervised", "too_long", "special_tokens", "unknown_tokens", "unsupervised_turns",
    "template_mismatch",
}  # fmt: skip


def test_every_rule_has_its_case() -> None:
    assert set(CASES) | ELSEWHERE == set(RULES)


@pytest.mark.parametrize(
    ("code", "data", "line", "words"),
    [(code, *case) for code, cases in CASES.items() for case in cases],
    ids=[f"{code}-{at}" for code, cases in CASES.items() for at in range(len(cases))],
)
def test_a_finding_names_its_line(tmp_path: Path, code: str, data: bytes, line: int, words: str) -> None:
    rows, findings = rows_of(data, tmp_path)
    found = next(it for it in findings.report() if it.code == code and words in it.message)
    assert found.lines[:1] == ((line,) if line else ())
    assert found.level is RULES[code].level
    assert "{" not in found.message.replace("{'", "")
    if found.level is Level.ERROR and line == 4:
        assert [row.line for row in rows][:3] == [1, 2, 3]
        assert findings.wrong_rows == 1 or code == "mixed_templates"


def test_good_rows_of_both_shapes_have_nothing_to_say(tmp_path: Path) -> None:
    rows, findings = rows_of(
        lines({"instruction": "a", "input": "b", "response": "c"}, chat(("user", "x"), ("assistant", "y"))), tmp_path
    )
    assert findings.report() == ()
    assert len(rows) == 5


def test_all_that_is_wrong_with_a_row_is_said(tmp_path: Path) -> None:
    _, findings = rows_of(lines({"instruction": " ", "input": 3, "response": "[INST]"}), tmp_path)
    assert {it.code for it in findings.report()} >= {"empty", "not_text", "marker"}
    assert findings.wrong_rows == 1


def test_a_row_that_is_too_long_does_not_shift_the_lines_after_it(tmp_path: Path) -> None:
    long = "x" * (3 * MAX_ROW_BYTES)
    rows, findings = rows_of(lines(long, GOOD, "{no"), tmp_path)
    assert [row.line for row in rows] == [1, 2, 3, 5]
    assert {it.code: it.lines for it in findings.report()} == {"row_too_long": (4,), "not_json": (6,)}


def test_findings_stay_few_however_many_rows_are_wrong() -> None:
    findings = Findings()
    for line in range(1, 100_001):
        findings.add("ignored_fields", line, f"column {line}")
        findings.add("missing", line, "response")
    report = findings.report()
    assert len(report) == MAX_SUBJECTS + 2
    missing = next(it for it in report if it.code == "missing")
    assert (missing.count, len(missing.lines)) == (100_000, SHOWN_LINES)
    others = next(it for it in report if OTHERS in it.message)
    assert others.count == 100_000 - MAX_SUBJECTS


def parquet(folder: Path, **columns: object) -> bytes:
    path = folder / "written.parquet"
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def test_parquet_without_its_columns(tmp_path: Path) -> None:
    _, findings = rows_of(parquet(tmp_path, question=["a", "b"], answer=["c", "d"]), tmp_path, "parquet")
    (found,) = findings.report()
    assert (found.code, found.count) == ("columns", 2)
    assert "question, answer" in found.message


def test_parquet_rows_are_numbered_and_extra_columns_left_alone(tmp_path: Path) -> None:
    data = parquet(tmp_path, instruction=["a", None, "c"], response=["x", "y", ""], id=[1, 2, 3])
    rows, findings = rows_of(data, tmp_path, "parquet")
    assert [row.line for row in rows] == [1]
    assert {(it.code, it.lines) for it in findings.report()} == {
        ("missing", (2,)),
        ("empty", (3,)),
        ("ignored_fields", ()),
        ("one_row", ()),
    }


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    """Parquet's writers do not check it, and Arrow finds out only when a value is asked for."""
    bad = pa.array([b"ok", b"caf\xe9", b"ok"], pa.binary()).view(pa.string())
    rows, findings = rows_of(parquet(tmp_path, instruction=["a", "b", "c"], response=bad), tmp_path, "parquet")
    assert [row.line for row in rows] == [1, 3]
    assert [(it.code, it.lines) for it in findings.report()] == [("not_utf8", (2,))]


@pytest.mark.parametrize("cut", [0, 4, 50, -1, -20])
def test_damaged_parquet_is_a_finding(tmp_path: Path, cut: int) -> None:
    data = parquet(tmp_path, instruction=["a"] * 100, response=["b"] * 100)
    _, findings = rows_of(data[:cut] if cut else b"", tmp_path, "parquet")
    assert [it.code for it in findings.report()] == ["not_parquet"]


TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["instruction", "input", "response", "messages", "output", "conversations"]) | TEXT
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content"]), st.sampled_from(["user", "assistant", "system"]) | VALUE
)
ROW = st.dictionaries(NAMES, VALUE | st.lists(MESSAGE, max_size=4), max_size=5)


def check_sane(rows: list[Row], findings: Findings) -> None:
    for row in rows:
        assert row.turns[-1].role == "assistant"
        for turn in row.turns:
            turn.content.encode()
            assert turn.content == turn.content.rstrip()
            assert "\r" not in turn.content
            assert turn.content
    for found in findings.report():
        assert found.count >= len(found.lines)
        assert list(found.lines) == sorted(set(found.lines))
    assert bool(rows) or findings.has_errors


ANY_FILE = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY_FILE
@given(data=st.binary(max_size=300))
@example(data=b"\xef\xbb\xbf")
@example(data=b"\xff\xfe")
@example(data=b'{"instruction": "\\u0000", "response": "x"}')
def test_any_bytes_are_read_to_their_end(tmp_path: Path, data: bytes) -> None:
    check_sane(*rows_of(data, tmp_path))
    check_sane(*rows_of(data, tmp_path, "parquet"))


@ANY_FILE
@given(rows=st.lists(ROW, max_size=6), ends=st.sampled_from([b"\n", b"\r\n"]))
def test_any_objects_are_read_and_numbered(tmp_path: Path, rows: list[dict[str, object]], ends: bytes) -> None:
    written = [json.dumps(row).encode() for row in rows]
    read, findings = rows_of(ends.join(written), tmp_path)
    check_sane(read, findings)
    assert len(read) + findings.wrong_rows == len(rows)
    assert all(1 <= row.line <= len(rows) for row in read)


SIX = lines(*[{"instruction": f"more {at}", "response": "yes"} for at in range(3)])


@ANY_FILE
@given(at=st.integers(2, len(SIX) - 1), byte=st.binary(max_size=1))
def test_one_damaged_byte_harms_no_other_line(tmp_path: Path, at: int, byte: bytes) -> None:
    """From the third byte on: the first two may make another kind of file of it."""
    damaged = SIX[:at] + byte + SIX[at + 1 :]
    read, findings = rows_of(damaged, tmp_path)
    check_sane(read, findings)
    if damaged.count(b"\n") == SIX.count(b"\n"):
        line = SIX[:at].count(b"\n") + 1
        assert {row.line for row in read} >= set(range(1, 7)) - {line}


def look(folder: Path, miniature: Path, *rows: object, max_length: int = 60, **more: object) -> tuple[Finding, ...]:
    path = folder / "rows.jsonl"
    path.write_bytes(lines(*rows))
    request = InspectionRequest(
        file=path, file_format="jsonl", digest="d", eval_fraction=0.1, backbone=miniature, max_length=max_length, **more
    )
    return inspect(request, lambda done, total: None).findings


@pytest.mark.parametrize(
    ("code", "row", "words"),
    [
        ("nothing_supervised", {"instruction": "x" * 100, "response": "y"}, "first 60 tokens"),
        ("too_long", {"instruction": "x", "response": "y" * 100}, "60 tokens: the end is cut off (1"),
        ("special_tokens", {"instruction": "a <|pad|> b", "response": "y"}, "(<|pad|>)"),
        ("unknown_tokens", {"instruction": "日本", "response": "y"}, "does not know"),
    ],
)
def test_what_only_the_tokenizer_can_say(tmp_path: Path, miniature: Path, code: str, row: object, words: str) -> None:
    found = {it.code: it for it in look(tmp_path, miniature, row)}
    assert set(found) == {code}
    assert found[code].lines == (4,)
    assert words in found[code].message


def templated(miniature: Path, folder: Path, template: str) -> Path:
    """The miniature's tokenizer with another chat template."""
    made = folder / "templated"
    shutil.copytree(miniature, made)
    (made / "chat_template.jinja").write_text(template)
    return made


def test_templates_that_rewrite_or_contradict_themselves(tmp_path: Path, miniature: Path) -> None:
    turns = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    rewriting = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content if m.role == 'user' or loop.last else 'gone' }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    found = {it.code: it.lines for it in look(tmp_path, templated(miniature, tmp_path, rewriting), turns)}
    assert found == {"unsupervised_turns": (4,)}
    (tmp_path / "other").mkdir()
    broken = templated(miniature, tmp_path / "other", "{% if add_generation_prompt %}p{% else %}a{% endif %}")
    assert {it.code: it.lines for it in look(tmp_path, broken)} == {"template_mismatch": (1,)}
