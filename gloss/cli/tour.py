"""``gloss tour``: a guided tour of a running server, each stop with the command that does the same."""

from __future__ import annotations

import shlex
from typing import Any

import click
from rich.rule import Rule
from rich.text import Text

from gloss import build, citations, v1
from gloss.cli.session import TEXT, Session, as_dict, connected, emit, with_model
from gloss.cli.waiting import follow, queue, shown, succeeded
from gloss.errors import GlossError
from gloss.render import inference, terminal
from gloss.render.citations import terminal as cited
from gloss.render.escaping import visible

FILE, QUESTION, ANSWER = "evening.txt", "Where did the band play ?", "The band played in Paris ."
CONTEXT = "The film was shown in London . The band played in Paris . Snow fell in June ."
PROMPT = "The film was released in theaters across the United"


@click.command(short_help="Show what a running server can do.")
@click.argument("text", type=TEXT, default=PROMPT)
@with_model
@connected
def tour(session: Session, text: str, model: str) -> None:
    """Show what a running server can do: what comes after TEXT, where the model looks, and why."""
    stops = Tour(session, text, model)
    found = {
        "models": stops.who_is_there(),
        "next_token": stops.what_comes_next(),
        "attention": stops.where_does_it_look(),
        "occlusion": stops.why_by_leaving_out(),
        "lime": stops.why_by_a_surrogate(),
        "citations": stops.where_does_it_come_from(),
    }
    if session.json:
        return emit(found)
    return stops.farewell()


class Tour:
    """The stops, in the order in which they are visited. Each draws what it found, and returns it for machines."""

    def __init__(self, session: Session, text: str, model: str) -> None:
        self._session = session
        self._client = session.client
        self._text = text
        self._model = model
        self._info = v1.ModelInfo()
        self._stop = 0

    def who_is_there(self) -> dict[str, Any]:
        """The models."""
        self._arrive("Who is there?", "The models that this server holds in memory.", "models")
        reply = self._client.models()
        self._show(*inference.models(reply.models))
        wanted = [
            info for info in reply.models if info.version.name == self._model or (not self._model and info.is_default)
        ]
        if wanted:
            self._info = wanted[0]
        return as_dict(reply)

    def what_comes_next(self) -> dict[str, Any]:
        """The next token."""
        self._arrive("What comes next?", "The model's next-token probabilities after a prompt.", "next", "--top-k", "8")
        reply = self._client.next_token(self._text, top_k=8, model=self._model)
        self._show(inference.next_token(self._text, reply.predictions[0]), inference.answered(reply))
        return as_dict(reply)

    def where_does_it_look(self) -> dict[str, Any]:
        """One row of attention."""
        layer = max(self._info.layer_count - 1, 0)
        self._arrive(
            "Where does it look?",
            "Attention of the last token over the prompt, in the highest layer. It shows where the model reads, not "
            "why it answers.",
            *("attention", "--layer", str(layer)),
        )
        if not self._info.has_attention:
            self._show(Text("This model has no attention to look at; a transformer has.", "dim"))
            return {}
        reply = self._client.attention(self._text, layers=[layer], reduction="head-mean", model=self._model)
        self._show(*inference.attention(reply))
        return as_dict(reply)

    def why_by_leaving_out(self) -> dict[str, Any]:
        """Occlusion."""
        self._arrive(
            "Why? Leave each word out",
            "Occlusion removes one word at a time and measures how the prediction falls. A worker computes it.",
            "explain",
        )
        return self._explain("occlusion")

    def why_by_a_surrogate(self) -> dict[str, Any]:
        """LIME."""
        self._arrive(
            "Why? Fit a simple model around it",
            "LIME removes many random sets of words and fits a linear model, with a standard error for each word.",
            *("explain", "--method", "lime"),
        )
        return self._explain("lime")

    def where_does_it_come_from(self) -> dict[str, Any]:
        """The sources of an answer."""
        self._arrive(
            "Where does an answer come from?",
            f"Citations leave sentences of documents out, and watch each sentence of an answer. In {FILE}: {CONTEXT}",
            *("cite", "--context", FILE, "--question", QUESTION, "--answer", ANSWER),
        )
        try:
            with shown(self._session) as show:
                found = self._client.cite(
                    {FILE: CONTEXT}, QUESTION, answer=ANSWER, model=self._model, fresh=True, on_progress=show
                )
        except GlossError as error:
            if error.reason != "PROMPT_TOO_LONG":
                raise
            self._show(Text("This model's context has no room for documents.", "dim"))
            return {}
        self._show(cited.citations(found))
        return citations.as_dict(found)

    def farewell(self) -> None:
        """What to try next."""
        text = shlex.quote(visible(self._text))
        self._show(
            "",
            Rule(style="dim"),
            Text("More to try", "bold"),
            *(
                Text(f"  gloss {line}", "cyan", no_wrap=True, overflow="ignore")
                for line in (
                    f'explain {text} --target " States" --against " Kingdom"',
                    f"explain {text} --method integrated-gradients --html why.html",
                    'bias "The {} said" --target " he" --against " she" --group a=king,father --group b=queen,mother',
                    "jobs list",
                    "--help",
                )
            ),
        )

    def _explain(self, method: str) -> dict[str, Any]:
        # Anew each time: the answer of the last tour would come at once, with nothing to watch.
        spec = build.spec(build.prompt(self._text), build.method(method), model=self._model)
        queued = queue(self._session, spec, fresh=True)
        explanation = succeeded(follow(self._session, queued))
        self._show(terminal.explanation(explanation))
        return as_dict(explanation)

    def _arrive(self, title: str, about: str, *command: str) -> None:
        self._stop += 1
        words = [
            "gloss",
            command[0],
            *([] if command[0] in ("models", "cite") else [visible(self._text)]),
            *command[1:],
        ]
        words += ["--model", self._model] if self._model and command[0] != "models" else []
        self._show(
            "",
            Rule(Text.assemble((f"{self._stop}  ", "dim"), (title, "bold")), align="left", style="dim"),
            Text(about),
            Text(f"$ {shlex.join(words)}", "cyan", no_wrap=True, overflow="ignore"),
            "",
        )

    def _show(self, *drawings: Any) -> None:
        if not self._session.json:
            self._session.show(*drawings)
