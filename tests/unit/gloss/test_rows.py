"""Rows as people ask for them, read them and see them."""

from __future__ import annotations

import io
import math

import pytest
from click.testing import CliRunner
from rich.console import Console

from gloss import build, v1
from gloss.cli import main
from gloss.render import html, terminal
from gloss.values import row_attributions
from tests.unit.gloss import fake


def explained(*, sampled: bool = True, rows: int = 3, **asked: object) -> v1.Explanation:
    """An explanation with a row for each token of " Paris is <big>"; what France does to them falls from row to row."""
    result = fake.result(sampled=sampled)
    whole = [part.attribution for part in result.attributions]
    for number, text in zip(range(rows), (" Paris", " is", " <big>") * rows, strict=False):
        share = 1 / (1 + number)
        result.rows.append(
            v1.AttributionRow(
                text=text,
                positions=[number],
                base_value=-6 * share,
                full_value=-1 * share,
                attributions=[share * each for each in whole],
                standard_errors=[0.1, 0.1, math.inf, 0.1, 0.1] if sampled else [],
                interval_reach=2,
                interval_level=0.95,
            )
        )
    spec = v1.ExplanationSpec(kernel_shap=v1.KernelShap(), rows=v1.Rows(**asked))
    return v1.Explanation(
        name="explanations/a", spec=spec, model=fake.MODEL, state=v1.EXPLANATION_STATE_SUCCEEDED, result=result
    )


def drawn(found: v1.Explanation, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal.explanation(found))
    printed = console.file.getvalue()
    assert isinstance(printed, str)
    return printed


def test_a_row_reads_as_the_whole_does() -> None:
    result = explained().result
    parts = row_attributions(result, result.rows[1])
    assert [part.text for part in parts] == [part.text for part in result.attributions]
    assert [part.span for part in parts] == [part.span for part in result.attributions]
    assert parts[3].attribution == pytest.approx(1.25)
    assert parts[3].standard_error == 0.1
    assert (parts[3].interval.lower, parts[3].interval.upper) == pytest.approx((1.05, 1.45))
    assert not parts[2].HasField("standard_error")
    assert not parts[2].HasField("interval")


def test_a_row_without_errors_is_exact() -> None:
    result = explained(sampled=False).result
    for part in row_attributions(result, result.rows[0]):
        assert part.HasField("standard_error")
        assert part.standard_error == 0
        assert part.interval.lower == part.interval.upper == part.attribution


@pytest.mark.parametrize(
    ("asked", "unit"),
    [
        ({}, "token"),
        ({"unit": v1.FEATURE_UNIT_WORD}, "word"),
        ({"unit": v1.FEATURE_UNIT_SENTENCE}, "sentence"),
        ({"spans": [v1.CharacterSpan(start=1, end=2)]}, "span"),
    ],
)
def test_terminal_and_page_say_what_a_row_is_of(asked: dict[str, object], unit: str) -> None:
    found = explained(**asked)
    assert f"What each {unit} of the answer rests on" in drawn(found)
    assert f"What each {unit} of the answer rests on" in html.page(found)


def test_each_row_names_what_matters_most_to_it() -> None:
    shown = drawn(explained())
    lines = [line for line in shown.splitlines() if "␣" in line]
    assert [line.split()[:3] for line in lines] == [
        ["␣Paris", "−1.00", "+5.00"],
        ["␣is", "−0.50", "+2.50"],
        ["␣<big>", "−0.33", "+1.67"],
    ]
    assert "France +2.50 ± 0.10 · capital +0.90 ± 0.10" in lines[0]
    assert "France +1.25 · capital +0.45 · The −0.20" in drawn(explained(sampled=False))


def test_many_rows_are_cut_short() -> None:
    found = explained(rows=250)
    assert "and 210 more" in drawn(found)
    assert "and 50 more" in html.page(found)


def test_long_features_leave_room_for_their_numbers() -> None:
    found = explained()
    found.result.attributions[3].text = "a sentence that goes on and on and on and on and on"
    assert "a sentence that goes on… +2.50 ± 0.10" in drawn(found, width=100)


def test_the_page_has_a_cell_for_each_row_and_feature_and_escapes_all() -> None:
    page = html.page(explained())
    table = page[page.index('<table class="rows">') :].partition("</table>")[0]
    assert table.count("<td") == 3 * (2 + 5)
    assert "␣&lt;big&gt;" in table
    assert "<big>" not in page
    assert table.count("± unknown") == 3


def test_the_page_leaves_out_features_that_matter_to_no_row() -> None:
    found = explained()
    text = " ".join(f"word{number}" for number in range(20))
    wide = fake.result(text)
    for row in found.result.rows:
        del row.attributions[:], row.standard_errors[:]
        row.attributions.extend(part.attribution for part in wide.attributions)
    wide.rows.extend(found.result.rows)
    found.result.CopyFrom(wide)
    page = html.page(found)
    assert "8 smaller are left out" in page
    assert page[page.index('<table class="rows">') :].partition("</table>")[0].count('data-label="word') == 3 * 12


def test_without_rows_nothing_is_said_of_them() -> None:
    found = explained(rows=0)
    assert "rests on" not in drawn(found)
    assert "rests on" not in html.page(found)


def test_rows_from_plain_values() -> None:
    assert build.rows() is None
    assert build.rows("sentence") == v1.Rows(unit=v1.FEATURE_UNIT_SENTENCE)
    assert build.rows([(1, 4)]) == v1.Rows(spans=[v1.CharacterSpan(start=1, end=4)])
    assert build.rows("word", pairs=True) == v1.Rows(unit=v1.FEATURE_UNIT_WORD, pairs=True)
    message = v1.Rows(unit=v1.FEATURE_UNIT_WORD)
    assert build.rows(message) == message
    with pytest.raises(ValueError, match="token, word, sentence"):
        build.rows("line")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["word", "sentence"], "one unit"),
        (["word", "1:4"], "one unit"),
        (["line"], "none of token, word, sentence, nor a range of characters"),
        (["1:x"], "no range of characters"),
    ],
)
def test_rows_that_make_no_sense_are_refused_by_the_command_line(rows: list[str], said: str) -> None:
    options = [part for row in rows for part in ("--rows", row)]
    result = CliRunner().invoke(main, ["explain", "hello", *options])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
