"""What users, models and servers wrote is shown as it stands: through every command and every drawing of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf.message import Message
from rich.console import Console, Group

from gloss import v1
from gloss.citations import Citation, Citations, Rule, Sentence, Source
from gloss.cli import COMMANDS, main
from gloss.cli.explain import METHODS
from gloss.client import Client
from gloss.render import html, inference, paint, terminal
from gloss.render.citations import page as cited_page
from gloss.render.citations import terminal as cited
from gloss.render.escaping import OBEYED, visible
from tests.unit.gloss import fake

MARKUP = (
    "[/] [link=http://x]a[/link] [bold]b[/bold] [red] :bug: {0} %s $x ${x} \\[ &lt; </style><script>alert(1)</script>"
)
HOSTILE = f"""{MARKUP} \x1b[2J\x1b]8;;http://x\x07\x9b31m \u202e\u2066\u2028 \r\n\t\x00\x7f "'> é🦊"""
SHOWN = visible(HOSTILE)
# What rich itself writes on a terminal: colours, and the cursor of what is drawn live.
NOTES = re.compile(r"\[[+−]?[\d.]+\]")
OURS = re.compile(r"\x1b\[[\d;?]*[mKAlh]|\r")


def fill(message: Message, *, keep: tuple[str, ...] = ()) -> Message:
    """Put the hostile text into every string of a message, but for the fields of these names."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.name in keep:
            continue
        if field.type == field.TYPE_STRING:
            if field.is_repeated:
                value[:] = [HOSTILE] * len(value)
            elif not field.has_presence or message.HasField(field.name):
                setattr(message, field.name, HOSTILE)
        elif field.type == field.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                value.update(dict.fromkeys(value, HOSTILE) if all(isinstance(v, str) for v in value.values()) else {})
            elif field.is_repeated:
                for one in value:
                    fill(one, keep=keep)
            elif message.HasField(field.name):
                fill(value, keep=keep)
    return message


def everything() -> v1.ExplanationResult:
    """A result that has all that any method finds."""
    result = fake.result(sampled=True)
    result.trust.reasons.append("a reason")
    result.interactions.append(v1.Interaction(first=0, second=1, value=0.25, standard_error=0.1))
    result.surrogate.CopyFrom(
        v1.SurrogateFit(
            kind=v1.SURROGATE_DECISION_TREE,
            r_squared=0.5,
            nodes=[
                v1.TreeNode(feature=0, absent=2, present=1, value=-3, samples=100),
                v1.TreeNode(value=-1, samples=60),
                v1.TreeNode(value=-6, samples=40),
            ],
        )
    )
    result.precision.measured_error = 0.1
    whole = v1.CharacterSpan(start=0, end=len(result.text))
    result.hierarchy.nodes.append(v1.HierarchyNode(span=whole, looked_into=True, children=[1]))
    result.hierarchy.nodes.append(v1.HierarchyNode(span=whole, value=1.0, hidden=2.0))
    return result


def complete(reply: Any) -> None:
    """Let the result of an explanation in a reply hold everything, unless it has rows."""
    for explanation in (reply, getattr(reply, "explanation", None)):
        if isinstance(explanation, v1.Explanation) and explanation.HasField("result") and not explanation.result.rows:
            explanation.result.CopyFrom(everything())


def explained() -> v1.Explanation:
    """A finished explanation, hostile in every field."""
    found = v1.Explanation(
        name="explanations/1",
        spec=v1.ExplanationSpec(prompt=v1.Prompt(text="x"), lime=v1.Lime()),
        model=fake.MODEL,
        state=v1.EXPLANATION_STATE_SUCCEEDED,
        result=everything(),
    )
    fill(found)
    return found


def studied(*, tree: bool) -> v1.Explanation:
    """A finished study, hostile in every field."""
    found = v1.Explanation(
        name="explanations/1",
        study=v1.StudySpec(bias_probe=v1.BiasProbe(templates=["x"])),
        prompt_preview="x",
        model=fake.MODEL,
        state=v1.EXPLANATION_STATE_SUCCEEDED,
        study_result=fake.study_result(tree=tree),
    )
    fill(found)
    return found


def citations(hostile: str = HOSTILE) -> Citations:
    """Citations, hostile in every text."""
    citation = Citation(0, 3.0, 0.1, 2.5, 3.5, 0.6, cost=2.9, confirmed=True)
    sentence = Sentence(hostile, (0, len(hostile)), (0,), -1.0, 5.0, (citation, citation), False, True, 6.0, 4.0)
    source = Source(hostile, 1, 2, hostile)
    found = explained() if hostile == HOSTILE else v1.Explanation(name="explanations/1")
    return Citations(hostile, hostile, False, (source,), (sentence,), Rule(), explanation=found)


def check(printed: str) -> None:
    """Nothing in it would be obeyed, whatever the terminal."""
    assert {character for character in OURS.sub("", printed) if ord(character) in OBEYED} <= {"\n"}


DRAWINGS: dict[str, Callable[[], Any]] = {
    "explanation": lambda: terminal.explanation(explained()),
    "jobs": lambda: terminal.jobs([explained()]),
    "bias probe": lambda: terminal.explanation(studied(tree=False)),
    "global surrogate": lambda: terminal.explanation(studied(tree=True)),
    "words": lambda: terminal.coloured_words(explained().result),
    "next": lambda: inference.next_token(
        HOSTILE, v1.NextTokenPrediction(top=[v1.TokenProbability(text=HOSTILE, probability=0.5)])
    ),
    "answered": lambda: inference.answered(v1.NextTokenResponse(model=v1.ModelVersion(name=HOSTILE, digest=HOSTILE))),
    "tokens": lambda: inference.tokens(v1.TokenizeResponse(tokens=[v1.Token(text=HOSTILE)])),
    "score": lambda: Group(
        *inference.score(v1.ScoreResponse(scores=[v1.ContinuationScore(tokens=[v1.TokenScore(text=HOSTILE)])]))
    ),
    "alternatives": lambda: inference.generated([v1.GenerateResponse(top=[v1.TokenProbability(text=HOSTILE)])]),
    "part of a character": lambda: inference.tokens(
        v1.TokenizeResponse(tokens=[v1.Token(text="\ufffd", bytes=b"\xe2" + HOSTILE.encode())])
    ),
    "models": lambda: Group(*inference.models([fill(v1.ModelInfo(mask_token="x"))])),  # noqa: S106 no password
    "citations": lambda: cited.citations(citations()),
    "plain": lambda: paint.plain(HOSTILE),
}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", DRAWINGS)
def test_every_drawing_shows_it_on_anybodys_console(name: str, colour: bool) -> None:
    console = Console(
        file=io.StringIO(), width=4000, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(DRAWINGS[name](), soft_wrap=True)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    check(printed)
    shown = NOTES.sub("", OURS.sub("", printed))
    assert MARKUP[:30] in shown
    assert ":bug:" in shown


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


CALM = {
    "explanation": lambda: v1.Explanation(spec=v1.ExplanationSpec(lime=v1.Lime()), result=everything()),
    "bias probe": lambda: v1.Explanation(name="explanations/1", study=v1.StudySpec(), study_result=fake.study_result()),
    "global surrogate": lambda: v1.Explanation(
        name="explanations/1", study=v1.StudySpec(), study_result=fake.study_result(tree=True)
    ),
}


@pytest.mark.parametrize(
    ("name", "found"),
    [("explanation", explained()), ("bias probe", studied(tree=False)), ("global surrogate", studied(tree=True))],
)
def test_the_page_shows_it(name: str, found: v1.Explanation) -> None:
    calm, seen = Page(), Page()
    page = html.page(found)
    calm.feed(html.page(CALM[name]()))
    seen.feed(page)
    check(page)
    assert seen.tags == calm.tags
    assert seen.attributes == calm.attributes
    assert SHOWN in seen.text


def test_the_page_of_citations_shows_it() -> None:
    calm, seen = Page(), Page()
    calm.feed(cited_page.page(citations("calm")))
    page = cited_page.page(citations())
    seen.feed(page)
    check(page)
    assert seen.tags == calm.tags
    assert seen.attributes == calm.attributes
    assert seen.text.count(SHOWN.split("\n")[0]) >= 4  # question, answer, source and its file


def test_halves_of_characters_are_shown_in_any_encoding() -> None:
    """As Python reads bytes of a file's name that are no UTF-8."""
    halves = "notes\ud83d\udcff.txt"
    page = cited_page.page(citations(halves))
    assert page.encode().decode() == page
    assert page.count("notes\ufffd\ufffd.txt") >= 4
    assert visible(halves) == "notes\ufffd\ufffd.txt"


ARGUMENTS = {
    "next": [HOSTILE],
    "attention": [HOSTILE],
    "score": [HOSTILE, HOSTILE],
    "generate": [HOSTILE],
    "tokenize": [HOSTILE],
    "models": [],
    "tour": [HOSTILE],
    "explain": [HOSTILE],
    "cite": ["--context", "-", "--question", HOSTILE, "--answer", HOSTILE],
    "bias": [HOSTILE, "--group", f"{HOSTILE}=a", "--group", "b=c"],
    "surrogate": ["-"],
    "jobs list": [],
    "jobs get": ["1"],
    "jobs watch": ["1"],
    "jobs cancel": ["1"],
    "jobs delete": ["1"],
}


@pytest.fixture
def hostile(address: str, script: fake.Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command against a server whose every string is hostile."""
    ask, read = Client._ask, Client._read
    keep = ("name", "next_page_token")  # by these the command goes on to ask

    def grown(reply: Any) -> Any:
        complete(reply)
        text = reply.text if isinstance(reply, v1.TokenizeResponse) else ""
        fill(reply, keep=keep)
        if text:  # in which a client looks for what it sent
            reply.text = text
        return reply

    monkeypatch.setattr(Client, "_ask", lambda self, call: grown(ask(self, call)))
    monkeypatch.setattr(Client, "_read", lambda self, call: map(grown, read(self, call)))
    with Client(address) as client:
        client.explain(HOSTILE)

    def run(command: str, *more: str, **env: str) -> Any:
        arguments = [*command.split(), *ARGUMENTS[command], *more]
        result = CliRunner().invoke(
            main, arguments, env={"GLOSS_ADDRESS": address, "COLUMNS": "4000", **env}, input=f"{MARKUP}\nb\n"
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_every_command_is_tried() -> None:
    assert {command.split()[0] for command in ARGUMENTS} == set(COMMANDS)


@pytest.mark.parametrize("colour", ["", "1"])
@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_shows_it(hostile: Callable[..., Any], command: str, colour: str) -> None:
    result = hostile(command, **({"FORCE_COLOR": colour} if colour else {}))
    assert result.exit_code in ({3} if command == "jobs cancel" else set()) | {0}, result.output
    check(result.stdout)
    check(result.stderr)
    if command not in ("jobs cancel", "jobs delete"):
        assert "[/] [link=http://x]a[/link] [bold]b[/bold] [red] :bug:" in OURS.sub("", result.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_it(hostile: Callable[..., Any], method: str, tmp_path: Path) -> None:
    result = hostile("explain", "--method", method, "--html", str(tmp_path / "[red].html"))
    assert result.exit_code == 0
    check(result.stdout)
    assert "[red].html" in result.stderr


@pytest.mark.parametrize("command", ARGUMENTS)
def test_json_is_the_same_text_with_what_a_terminal_obeys_escaped(hostile: Callable[..., Any], command: str) -> None:
    result = hostile(command, "--json")
    assert result.exit_code == 0, result.output
    check(result.stdout)
    values = [json.loads(line) for line in result.stdout.splitlines()] if command in ("generate", "jobs watch") else []
    values = values or [json.loads(result.stdout)]
    if command != "jobs delete":
        assert HOSTILE in strings(values)


def strings(value: Any) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE])
def test_errors_show_it(hostile: Callable[..., Any], script: fake.Script, code: grpc.StatusCode) -> None:
    for status in (fake.bad_field(HOSTILE, HOSTILE), fake.rich_status(code, HOSTILE)):
        script.failures["Tokenize"] += [status] * 4
        result = hostile("tokenize")
        assert result.exit_code == 1
        check(result.output)
        assert MARKUP in result.stderr
        script.failures.clear()
    script.end = v1.EXPLANATION_STATE_FAILED
    result = hostile("explain")
    assert result.exit_code == 3
    check(result.output)
    assert MARKUP in result.stderr
