"""The page as a reader meets it: what it says once, what it says in words, and how it fits a window."""

from __future__ import annotations

import html as html_text
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from gloss import v1
from gloss.render import html, terminal
from tests.unit.gloss import fake

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WORDS = "The antidisestablishmentarianism of Internationalization is +1 שלום 漢字 fragment_that_never_ends"


def explained(text: str = fake.TEXT, *, sampled: bool = False) -> v1.Explanation:
    """A finished explanation by occlusion, or by LIME where it is sampled."""
    spec = v1.ExplanationSpec(prompt=v1.Prompt(text=text))
    (spec.lime if sampled else spec.occlusion).SetInParent()
    return v1.Explanation(
        name=f"explanations/{'0' * 32}",
        spec=spec,
        model=fake.MODEL,
        state=v1.EXPLANATION_STATE_SUCCEEDED,
        result=fake.result(text, sampled=sampled),
    )


def rows(page: str) -> list[str]:
    """The rows of the table of attributions."""
    return re.findall(r"<tr.*?</tr>", page[page.index("<h2>Attributions") :].partition("</table>")[0])[1:]


def attributions(found: v1.Explanation) -> str:
    """The same in the terminal."""
    console = Console(file=io.StringIO(), width=100)
    console.print(terminal.attributions(found.result))
    printed = console.file.getvalue()
    assert isinstance(printed, str)
    return printed


def test_values_that_nothing_was_sampled_for_are_called_exact_once() -> None:
    page = html.page(explained()).partition("</style>")[2]
    assert page.count("exact") == 1
    assert "interval" not in page
    assert all(row.count("<td") == 2 for row in rows(page))
    assert "exact" not in attributions(explained())


def test_unknown_errors_are_told_in_words() -> None:
    found = explained(sampled=True)
    for part in found.result.attributions[:2]:
        part.ClearField("standard_error")
        part.ClearField("interval")
    page = html.page(found)
    assert "inf" not in page
    assert sum("± unknown" in row for row in rows(page)) == 2
    assert attributions(found).count("± unknown") == 2


def test_an_error_of_zero_among_others_reads_alike_on_page_and_terminal() -> None:
    found = explained(sampled=True)
    found.result.attributions[2].standard_error = 0
    found.result.attributions[4].standard_error = 0.0001
    page, shown = html.page(found), attributions(found)
    for text in ("exact", "± &lt;0.01", "± 0.20"):
        assert sum(text in row for row in rows(page)) == shown.count(html_text.unescape(text)) > 0
    assert "± 0.00" not in page


@pytest.mark.parametrize("sign", [1, -1])
def test_bars_take_the_whole_width_where_all_values_have_one_sign(sign: int) -> None:
    found = explained()
    for part in found.result.attributions:
        part.attribution = sign * abs(part.attribution)
    [x, width] = re.findall(r'<rect class="\w+" x="([\d.]+)" y="2" width="([\d.]+)"', rows(html.page(found))[0])[0]
    assert (float(x), float(width)) == (1.0, 198.0)
    first = attributions(found).splitlines()[0]
    assert "█" * 32 in first


def test_both_signs_stand_on_either_side_of_one_axis() -> None:
    page = html.page(explained())
    axes = set(re.findall(r'class="axis" d="M([\d.]+) ', page))
    assert len(axes) == 1
    axis = float(axes.pop())
    for x, width in re.findall(r'x="([\d.]+)" y="2" width="([\d.]+)"', page):
        assert float(x) == pytest.approx(axis) or float(x) + float(width) == pytest.approx(axis)


def test_numbers_need_no_mouse_and_no_hint_appears_twice() -> None:
    page = html.page(explained())
    text = page[page.index('<div class="text"') :].partition("</div>")[0]
    assert re.findall(r"&NoBreak;(.*?)</small>", text) == ["−0.40", "+0.90", "+2.50"]  # 0.05 and 0 are in the table
    assert len(re.findall("title=", text)) == 5
    assert ":hover" not in page
    assert "tabindex" not in page


def test_a_number_beside_a_word_that_is_read_from_the_right_stands_to_its_left() -> None:
    page = html.page(explained("shalom שלום"))
    assert page.count("&rlm;") == 1


def test_one_minus_sign() -> None:
    found = explained(sampled=True)
    found.result.attributions[2].attribution = -0.001
    page = html.page(found)
    body = html_text.unescape(re.sub(r"<style.*?</style>|<pre>.*?</pre>|<[^>]*>", " ", page, flags=re.DOTALL))
    assert not re.search(r"(?<![\w-])-\d", body)
    assert "−0.00" not in body


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_fits_any_window_and_keeps_words_whole(tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe srcdoc="{html_text.escape(html.page(explained(WORDS, sampled=sampled)))}" style="border: 0;'
        f' width: {width}px"></iframe>'
        for width in (320, 400, 800, 1400)
        for sampled in (False, True)
    )
    measure = """
        const lines = name => {
            const range = document.createRange();
            range.selectNodeContents(name);
            return new Set([...range.getClientRects()].map(box => box.top)).size;
        };
        const found = [...document.querySelectorAll("iframe")].map(frame => {
            const page = frame.contentDocument, names = [...page.querySelectorAll("tbody .feature")];
            const wide = page.documentElement.scrollWidth - page.documentElement.clientWidth;
            return {wide, names: names.map(name => [name.textContent, lines(name)])};
        });
        document.body.textContent = JSON.stringify(found);
    """
    outer = tmp_path / "outer.html"
    script = f"<script>onload = () => {{ {measure} }}</script>"
    outer.write_text(f'<meta charset="utf-8"><body>{frames}{script}', encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    ended = subprocess.run(
        [str(CHROMIUM), *options, "--window-size=1600,900", "--dump-dom", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    printed = re.search(r"\[.*\]", html_text.unescape(ended.stdout))
    assert printed is not None, ended.stdout
    measured = json.loads(printed[0])
    assert [one["wide"] for one in measured] == [0] * 8
    for one in measured:
        names = dict(one["names"])
        assert set(WORDS.split()) <= set(names)
        assert [word for word in WORDS.split() if names[word] > 1] == []
