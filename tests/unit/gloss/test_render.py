"""Drawings: with colour and without, and nothing obeyed that a prompt smuggles in."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console, Group, RenderableType

from gloss import build, v1
from gloss.render import features, figures, html, inference, terminal, words
from gloss.render.inference import quoted
from tests.unit.gloss import fake


def draw(drawing: RenderableType, *, colour: bool = False, width: int = 100) -> str:
    """What a console shows."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        no_color=None,
    )
    console.print(drawing)
    text = console.file.getvalue()
    assert isinstance(text, str)
    return text


def explained(**changes: object) -> v1.Explanation:
    """A finished LIME explanation."""
    spec = v1.ExplanationSpec(prompt=v1.Prompt(text=fake.TEXT), lime=v1.Lime())
    found = v1.Explanation(
        name="explanations/1",
        spec=spec,
        method="lime",
        model=fake.MODEL,
        state=v1.EXPLANATION_STATE_SUCCEEDED,
        **changes,
    )
    if not found.HasField("partial_result"):
        found.result.CopyFrom(fake.result(sampled=True))
    return found


def test_colours_are_relative_to_the_largest_and_follow_the_sign() -> None:
    shown = draw(terminal.coloured_words(fake.result()), colour=True)
    assert re.search(r"\x1b\[[\d;]*48;2;214;40;40mFrance", shown)  # the strongest red
    assert re.search(r"\x1b\[[\d;]*48;2;9\d;\d+;1\d\dmThe", shown)  # a weak blue
    assert "of" in re.sub(r"\x1b\[[\d;]*m[^\x1b]+\x1b\[0m", "", shown)  # near zero: not coloured


@pytest.mark.parametrize("width", [36, 40, 60, 100])
def test_on_a_narrow_console_bars_shrink_and_numbers_stay(width: int) -> None:
    shown = draw(terminal.attributions(fake.result(sampled=True)), width=width)
    assert re.findall(r"[+−]\d\.\d\d ± 0\.20$", shown, re.MULTILINE) == [
        "+2.50 ± 0.20",
        "+0.90 ± 0.20",
        "−0.40 ± 0.20",
        "+0.05 ± 0.20",
    ]
    top = [v1.TokenProbability(text=" is", probability=0.5, log_probability=-0.69)]
    shown = draw(inference.next_token("France", v1.NextTokenPrediction(top=top)), width=width)
    assert re.search(r"␣is +█{8,36} 50\.0% −0\.69", shown)


def test_without_colour_numbers_stand_in() -> None:
    shown = draw(terminal.coloured_words(fake.result()))
    assert shown == "The[−0.40] capital[+0.90] of France[+2.50] is\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    console.print(terminal.coloured_words(fake.result()))
    shown = console.file.getvalue()
    assert "France[+2.50]" in re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "48;2" not in shown


def test_the_table_is_sorted_and_names_what_it_leaves_out() -> None:
    shown = draw(terminal.attributions(fake.result(), top=3))
    assert [line.split()[0] for line in shown.splitlines()] == ["France", "capital", "The", "and"]
    assert "and 2 smaller" in shown
    assert "±" not in shown  # occlusion does not sample


def test_a_decision_tree_is_drawn() -> None:
    found = explained()
    found.result.surrogate.CopyFrom(
        v1.SurrogateFit(
            kind=v1.SURROGATE_DECISION_TREE,
            r_squared=0.5,
            nodes=[
                v1.TreeNode(feature=3, absent=2, present=1, value=-3, samples=100),
                v1.TreeNode(value=-1, samples=60),
                v1.TreeNode(value=-6, samples=40),
            ],
        )
    )
    shown = draw(terminal.explanation(found))
    assert "France?" in shown
    assert "present: −1.00 · 60" in shown
    assert "removed: −6.00" in shown
    assert "France</em>?" in html.page(found)


def test_pairs_are_drawn_with_the_largest_first() -> None:
    found = explained()
    found.result.interactions.extend(
        [
            v1.Interaction(first=0, second=1, value=0.25, standard_error=0.1),
            v1.Interaction(first=1, second=3, value=-1.5, standard_error=0),
        ]
    )
    shown = draw(terminal.explanation(found))
    assert re.search(r"capital \+ France +−1.50 +exact", shown)
    assert re.search(r"The \+ capital +\+0.25 +0.10", shown)
    assert shown.index("capital + France") < shown.index("The + capital")
    assert "capital + France" in html.page(found)


def test_the_parts_of_a_text_are_drawn_as_far_as_they_were_looked_into() -> None:
    found = explained()
    found.result.hierarchy.nodes.extend(
        [
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_TEXT, span=v1.CharacterSpan(start=0, end=24), feature_count=5, value=3.5,
                standard_error=0, looked_into=True, children=[1, 2, 3],
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_SENTENCE, span=v1.CharacterSpan(start=0, end=11), feature_count=2, value=-0.5,
                standard_error=0.25, hidden=0.75, in_rest=True,
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_WORD, span=v1.CharacterSpan(start=15, end=21), first_feature=3, feature_count=1,
                value=2.5, standard_error=0,
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_WORD, span=v1.CharacterSpan(start=22, end=24), first_feature=4, feature_count=1,
                value=0.01, standard_error=0, in_rest=True,
            ),
        ]
    )  # fmt: skip
    found.result.hierarchy.rest_value = 1.5
    shown = draw(terminal.explanation(found))
    assert re.search(r"\+3.50 text The capital of France is", shown)
    assert re.search(r"−0.50 ± 0.25 sentence The capital  not looked into, may hide up to 0.75", shown)
    assert re.search(r"\+2.50 word France +\n", shown)
    assert "and 1 smaller" in shown
    for text in (shown, html.page(found)):
        assert "The 3 that carry little" in " ".join(text.split())
        assert "+1.50 if left out together" in " ".join(text.split())
    assert "may hide up to 0.75" in html.page(found)


def test_of_a_part_that_was_not_looked_into_what_is_known_is_drawn_and_counted_once() -> None:
    found = explained()
    found.result.hierarchy.nodes.extend(
        [
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_TEXT, span=v1.CharacterSpan(start=0, end=24), feature_count=5, value=3.5,
                looked_into=True, children=[1, 3],
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_SENTENCE, span=v1.CharacterSpan(start=0, end=21), feature_count=4, value=3.0,
                hidden=0.75, in_rest=True, children=[2],
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_WORD, span=v1.CharacterSpan(start=15, end=21), first_feature=3, feature_count=1,
                value=2.5,
            ),
            v1.HierarchyNode(
                level=v1.NODE_LEVEL_WORD, span=v1.CharacterSpan(start=22, end=24), first_feature=4, feature_count=1,
                value=0.25, in_rest=True,
            ),
        ]
    )  # fmt: skip
    found.result.hierarchy.rest_value = 1.5
    for shown in (draw(terminal.explanation(found), width=200), html.page(found)):
        text = " ".join(shown.split())
        assert "the rest not looked into, may hide up to 0.75" in text
        assert "The 4 that carry little" in text
        assert "+0.75 in all if each part is left out alone" in text


def studied(result: v1.StudyResult, **study: object) -> v1.Explanation:
    """A finished study."""
    spec = v1.StudySpec(**study)
    return v1.Explanation(
        name="explanations/1",
        study=spec,
        method=spec.WhichOneof("method"),
        prompt_preview=next(iter(spec.bias_probe.templates), ""),
        model=fake.MODEL,
        state=v1.EXPLANATION_STATE_SUCCEEDED,
        study_result=result,
    )


def test_a_global_surrogate_is_drawn_by_its_words() -> None:
    found = studied(fake.study_result(tree=True), global_surrogate=v1.GlobalSurrogate(prompts=[v1.Prompt(text="one")]))
    coefficients = found.study_result.global_surrogate.coefficients
    coefficients.extend(v1.WordCoefficient(word=f"word{i}", coefficient=0.1) for i in range(13))
    for shown in (draw(terminal.explanation(found)), html.page(found)):
        logged = " ".join(shown.replace("&#x27;", "'").split())
        assert "Global surrogate" in logged
        assert 'log p(" Paris") of every text' in logged.replace("&quot;", '"')
        assert re.search(r"bad(</em>)?\?", logged)
        assert "absent: " in logged
        assert "50% of the value's variance over 25 prompts held out" in logged
        assert "unknown" in logged  # of a coefficient whose error is not known
        assert "Trusted" in logged
        assert "32 model evaluations" in logged
    assert "and 3 smaller" in draw(terminal.explanation(found))


def test_groups_are_compared() -> None:
    found = studied(fake.study_result(), bias_probe=v1.BiasProbe(templates=["The {} said"]))
    differences = found.study_result.bias_probe.differences
    differences.add(first="a<b>", second="c", difference=0.1, pairs=1)
    shown = draw(terminal.explanation(found))
    assert re.search(r"men − women +\+1.00 +0.25 +\+0.50 to \+1.50 +12", shown)
    assert re.search(r"a<b> − c +\+0.10 +unknown +1", shown)
    assert "a&lt;b&gt; − c" in html.page(found)
    assert "The {} said" in draw(terminal.jobs([found]))
    differences[0].interval.lower = -0.5
    assert "(holds 0)" in draw(terminal.explanation(found))


@pytest.mark.parametrize("width", [50, 80, 200])
def test_an_id_in_a_list_is_whole(width: int) -> None:
    names = [f"explanations/{number:032x}" for number in (1, 2**128 - 1)]
    found = [
        v1.Explanation(name=name, method=method, state=v1.EXPLANATION_STATE_CANCELLED, prompt_preview="long " * 40)
        for name in names
        for method in build.METHOD_FIELDS
    ]
    shown = draw(terminal.jobs(found), width=width).splitlines()[1:]
    assert [line.split()[0] for line in shown] == [one.name.removeprefix("explanations/") for one in found]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_age_of_a_job_is_whole(width: int) -> None:
    found = [v1.Explanation(name=f"explanations/{2**127 + number:032x}", method="kernel_shap") for number in range(4)]
    ages = {"59 s": 59, "59 min": 59 * 60, "23 h": 23 * 3600, "10 d": 10 * 86400}
    for one, seconds in zip(found, ages.values(), strict=True):
        one.create_time.FromSeconds(10**9 - seconds)
    shown = draw(terminal.jobs(found, now=1e9), width=width).splitlines()[1:]
    assert all(age in line for age, line in zip(ages, shown, strict=True))


def test_a_study_that_has_only_begun_is_drawn() -> None:
    begun = studied(v1.StudyResult(), bias_probe=v1.BiasProbe())
    assert "nothing is known yet" in draw(terminal.explanation(begun))
    assert "<main>" in html.page(begun)


def test_stages_have_names() -> None:
    assert words.stage(v1.Progress(stage=v1.STAGE_MEASURING_FAITHFULNESS)) == "measuring faithfulness"
    assert words.stage(v1.Progress()) == words.stage(v1.Progress(stage=99)) == ""  # of a newer server


def test_how_long_an_explanation_waits_in_the_queue_is_not_said() -> None:
    found = v1.Explanation(state=v1.EXPLANATION_STATE_QUEUED)
    assert words.remaining(found) == ""
    found.progress.remaining_duration.FromMilliseconds(60)
    assert words.remaining(found) == "takes 60 ms"
    found.state = v1.EXPLANATION_STATE_RUNNING
    assert words.remaining(found) == "60 ms left"


def test_shares_speak_neither_for_nor_against() -> None:
    found = explained()
    found.result.attribution_unit = v1.ATTRIBUTION_UNIT_SHARE
    for shown in (draw(terminal.explanation(found)), html.page(found)):
        assert "where the prediction comes from" in shown
        assert "supports it" not in shown


def shares() -> v1.Explanation:
    """A finished attention rollout, of which the larger part is on a start token."""
    found = explained()
    found.spec.attention_rollout.SetInParent()
    found.result.CopyFrom(fake.result())
    found.result.attribution_unit = v1.ATTRIBUTION_UNIT_SHARE
    for part, value in zip(found.result.attributions, (0.052, 0.0702, 0.15, 0.7278, 0.0), strict=True):
        part.attribution = value
    found.result.outside_share = 0.62
    return found


def test_shares_are_per_cent_and_it_is_told_where_the_rest_is() -> None:
    shown = " ".join(draw(terminal.explanation(shares())).split())
    assert "capital[7.0%]" in shown
    assert figures.signed(0.0004, figures.Percent(1)) == "<0.1%"
    assert (
        "shares of what reaches the prediction from these words. Of everything that reaches it, 62.0% comes from"
        in shown
    )
    assert "= −1.00; with every word replaced by '<unk>', −6.00" in shown
    assert "+0.07" not in shown
    page = html.page(shares())
    assert "7.0%" in page
    assert "62.0% comes from other tokens" in page
    assert "+0.07" not in page


def test_shares_without_a_rest() -> None:
    found = shares()
    found.result.outside_share = 0.0
    assert words.unit_line(found.result, found.spec).endswith("from these words.")


def test_an_attention_sink_leaves_the_shares_of_words_readable() -> None:
    found = shares()
    found.result.outside_share = 1 - 1e-11
    shown = " ".join(draw(terminal.explanation(found)).split())
    assert ">99.9% comes from other tokens" in shown
    assert "capital[7.0%]" in shown


@pytest.mark.parametrize(
    ("unit", "logged"),
    [
        (v1.ATTRIBUTION_UNIT_NAT, "in nats"),
        (v1.ATTRIBUTION_UNIT_PROBABILITY, "differences of the probability"),
        (v1.ATTRIBUTION_UNIT_LOG_ODDS, "in log-odds"),
        (v1.ATTRIBUTION_UNIT_IMPURITY_SHARE, "the tree explains"),
    ],
)
def test_the_unit_is_told(unit: v1.AttributionUnit, logged: str) -> None:
    found = explained()
    found.result.attribution_unit = unit
    assert logged in draw(terminal.explanation(found))
    assert logged in html.page(found)


def test_a_metric_has_the_values_unit() -> None:
    found = explained()
    assert "removing the top words costs 2.00 nats, random" in draw(terminal.explanation(found))
    found.result.target.scale = v1.TARGET_SCALE_PROBABILITY
    assert "removing the top words costs 2.00, random" in draw(terminal.explanation(found))


def test_partial_and_empty_results_are_drawn() -> None:
    partial = explained(partial_result=v1.ExplanationResult(text="a b"))
    assert "nothing is known yet" in draw(terminal.explanation(partial))
    assert "<main>" in html.page(partial)


def test_all_zero_attributions_are_no_error() -> None:
    found = explained()
    for part in found.result.attributions:
        part.attribution = part.standard_error = 0
    assert "0.00" in draw(terminal.explanation(found))
    assert "0.00" in html.page(found)


HOSTILE = "<script>alert(1)</script> \x1b[31m\u202e\"&' $text {0} [bold]x[/bold]"


def hostile() -> v1.Explanation:
    """An explanation whose every text tries to be obeyed."""
    result = fake.result(HOSTILE)
    result.target.description = result.removal.replacement = HOSTILE
    result.trust.verdict = v1.TRUST_VERDICT_NOT_TRUSTED
    result.trust.reasons.append(HOSTILE)
    result.rows.append(v1.AttributionRow(text=HOSTILE, attributions=[part.attribution for part in result.attributions]))
    found = explained()
    found.result.CopyFrom(result)
    found.spec.prompt.text = HOSTILE
    found.name = found.model.name = HOSTILE
    return found


def test_the_terminal_obeys_nothing_in_the_text() -> None:
    shown = draw(terminal.explanation(hostile()))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]x[/bold]" in shown
    assert "\x1b" not in draw(terminal.jobs([hostile()]))
    assert draw(quoted(" \x1b[2J")) == "␣␛[2J\n"


class Elements(HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_everything_and_loads_nothing() -> None:
    page = html.page(hostile())
    seen = Elements()
    seen.feed(page)
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script>alert(1)</script>" in seen.text
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_page_says_all_that_the_terminal_says() -> None:
    page = html.page(explained())
    for part in ("France", "+2.50", "95% interval", "Trusted", "R² 0.83", "better than random", "32 model evaluations"):
        assert part in page
    assert "prefers-color-scheme: dark" in page


def test_a_score_says_which_end_of_the_prompt_it_holds() -> None:
    one = v1.ContinuationScore(tokens=[v1.TokenScore(id=9, text=" world", log_probability=-0.5, rank=1)])
    for overlap in ("", " wor"):
        one.overlap = overlap
        drawn = draw(Group(*inference.score(v1.ScoreResponse(scores=[one]))))
        assert ("begins with the prompt's end" in drawn and "wor." in drawn.replace('"', "")) == bool(overlap)


def test_a_start_token_that_the_text_spells_out_is_told() -> None:
    reply = v1.TokenizeResponse(tokens=[v1.Token(id=1, text="<s>"), v1.Token(id=2, text="a")], has_start_token=True)
    assert "start token" not in draw(inference.tokens(reply))
    reply.tokens[0].span.end = 3
    assert "was not added again" in draw(inference.tokens(reply))
    reply.has_start_token = False
    assert "start token" not in draw(inference.tokens(reply))


def test_part_of_a_character_is_shown_as_bytes() -> None:
    fox = [v1.Token(text="\ufffd", bytes=bytes([byte])) for byte in "🦊".encode()]
    real = v1.Token(text="\ufffd", bytes="\ufffd".encode())
    drawn = draw(inference.tokens(v1.TokenizeResponse(tokens=[*fox, real])))
    assert "\\xf0 0 \\x9f 0 \\xa6 0 \\x8a 0 \ufffd 0" in drawn


def test_numbers_for_people() -> None:
    assert [figures.signed(value) for value in (1.25, -1.25, 0.0, -0.001)] == ["+1.25", "−1.25", "0.00", "0.00"]
    assert [figures.percent(value) for value in (0.412, 0.0001, 0.0, 0.9999, 1.0)] == [
        "41.2%",
        "<0.1%",
        "0.0%",
        ">99.9%",
        "100.0%",
    ]
    times = {0: "0 ms", 0.012: "12 ms", 0.9996: "1.0 s", 1.25: "1.2 s", 59.94: "59.9 s", 59.96: "1 min 0 s"}
    times |= {125: "2 min 5 s", 125.6: "2 min 6 s", 3599.7: "1 h 0 min", 3600: "1 h 0 min", 82394: "22 h 53 min"}
    times |= {86300: "23 h 58 min", 86400: "1 d 0 h", 90000: "1 d 1 h", 1e9: "11,574 d 1 h"}
    assert {value: figures.duration(value) for value in times} == times


def test_small_attributions_keep_their_figures() -> None:
    found = fake.result()
    assert features.digits(found) == 2
    for part in found.attributions:
        part.attribution /= 1000
    assert features.digits(found) == 5
    for part in found.attributions:
        part.attribution = 0
    assert features.digits(found) == 2


def test_a_metric_that_chance_explains_is_called_alike() -> None:
    found = v1.Faithfulness(deletion_auc=v1.ControlledMetric(value=0.45, random=0.5, random_deviation=0.1))
    deletion = next(line for line in words.faithfulness(found, "words") if line.name == "deletion")
    assert deletion.better is None


def test_spans_count_in_code_points() -> None:
    result = v1.ExplanationResult(
        text="😀 né ok",
        attributions=[v1.FeatureAttribution(text="né", span=v1.CharacterSpan(start=2, end=4), attribution=1)],
    )
    assert [segment for segment, _ in features.segments(result)] == ["😀 ", "né", " ok"]


def test_tokens_of_one_character_are_told_apart() -> None:
    span = v1.CharacterSpan(start=0, end=1)
    parts = [b"\xf0\x9f", b"\x98\x80"]
    result = v1.ExplanationResult(
        text="😀 ok",
        tokens=[v1.Token(text="\ufffd", bytes=part, span=span) for part in parts],
        attributions=[
            v1.FeatureAttribution(text="😀", span=span, positions=[index], attribution=index) for index in range(2)
        ],
    )
    assert [part.text for part in features.ranked(result)] == [r"\x98\x80", r"\xf0\x9f"]
    assert "".join(segment for segment, _ in features.segments(result)) == "😀 ok"


def test_models_tell_on_request_how_they_are_computed():
    info = v1.ModelInfo(
        version=v1.ModelVersion(name="phi", digest="ab"),
        capabilities=[v1.Capability(name="padded batches"), v1.Capability(name="ragged batches", max_tokens=4096)],
        unused_capabilities="ragged batches beyond 4096 tokens (differs by 0.7 of the largest logit)",
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*inference.models([info], verbose=True))
    shown = console.export_text()
    assert "✔ padded batches" in shown
    assert "✔ ragged batches up to 4,096 tokens" in shown
    assert "not used: ragged batches beyond 4096 tokens" in shown
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*inference.models([info]))
    assert "ragged" not in console.export_text()
