"""``gloss cite``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from gloss import citations, v1
from gloss.cited_prompt import SourceUnit
from gloss.citing import MAX_TOKENS, METHOD, METHODS
from gloss.cli.options import with_fields
from gloss.cli.page import with_page, write
from gloss.cli.session import INT32, TEXT, Session, connected, emit, say, standard_input, with_model
from gloss.cli.waiting import shown
from gloss.documents import Document
from gloss.render import words
from gloss.render.citations import page as drawn
from gloss.render.citations import terminal


@dataclass(frozen=True)
class _Context:
    """A document, and the file that it is: one file may have several names."""

    document: Document
    file: Path | None


class ContextFile(click.ParamType[_Context]):
    """A text file, or standard input for ``-``."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Context:
        """Read it."""
        if not value:
            self.fail("the name of the file is empty", param, ctx)
        try:
            if value == "-":
                return _Context(Document.read("standard input", standard_input(param, ctx)), None)
            with Path(value).open("rb") as file:
                return _Context(Document.read(click.format_filename(value), file), Path(value).resolve())
        except OSError as error:
            self.fail(f"{click.format_filename(value)}: {error.strerror}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Answer from documents, and cite the passages behind each sentence.")
@click.option(
    "--context",
    type=ContextFile(),
    multiple=True,
    required=True,
    help="A text file, or - for standard input; may be repeated. A file counts once.",
)
@click.option("--question", type=TEXT, required=True, help="The question about the documents.")
@click.option(
    "--answer",
    type=TEXT,
    help="Cite sources for this answer, for example from another system. [default: the model's answer]",
)
@click.option(
    "--unit",
    type=click.Choice(list(get_args(SourceUnit))),
    default="sentence",
    show_default=True,
    help="The unit that counts as one source.",
)
@click.option(
    "--template",
    type=TEXT,
    help="The prompt, which contains {context} and {question}. [default: the model's chat template]",
)
@click.option(
    "--max-tokens", type=INT32, help=f"Maximum number of tokens of the model's answer. [default: {MAX_TOKENS}]"
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    metavar="METHOD",
    default=METHOD,
    show_default=True,
    help=f"One of {', '.join(METHODS)}.",
)
@click.option(
    "--share",
    type=float,
    default=citations.SHARE,
    show_default=True,
    help="Minimum share of the effect of all sources on a sentence that a cited source must carry.",
)
@click.option(
    "--limit",
    type=float,
    default=citations.LIMIT,
    show_default=True,
    help="If the effect of all sources on a sentence is below this many nats, the sentence rests on none.",
)
@click.option(
    "--level",
    type=float,
    default=citations.LEVEL,
    show_default=True,
    help="Confidence that no source is cited by chance.",
)
@with_fields(v1.Budget, leaving={"standard_error"})
@with_fields(v1.ExplanationSpec, leaving={field.name for field in v1.ExplanationSpec.DESCRIPTOR.fields} - {"precision"})
@click.option("--fresh", is_flag=True, help="Compute again, even if the same was explained before.")
@click.option("--dry-run", is_flag=True, help="Only check the request and show its cost, without an answer.")
@with_page()
@with_model
@connected
def cite(
    session: Session,
    context: tuple[_Context, ...],
    question: str,
    *,
    dry_run: bool,
    page: Path | None,
    **asked: Any,
) -> None:
    """Answer a question from documents, and cite the passages that each sentence rests on.

    \b
    gloss cite --context notes.md --context plan.txt --question "Who keeps the lighthouse?"
    """
    if dry_run and page:
        raise click.UsageError("--dry-run computes nothing: leave out --html")
    documents: dict[Path | None, Document] = {}
    for each in context:
        documents.setdefault(each.file, each.document)
    try:
        if dry_run:
            return _tell_cost(session, [*documents.values()], question, **asked)
        with shown(session, "answering", "leaving out what is cited") as tell:
            found = session.client.cite([*documents.values()], question, on_progress=tell, **asked)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if session.json:
        emit(citations.as_dict(found))
    else:
        session.show(terminal.citations(found))
    if page:
        write(page, drawn.page(found))
    return None


def _tell_cost(session: Session, context: list[Document], question: str, **asked: Any) -> None:
    """Say what attributing the answer would cost; by which rule sources are cited does not matter."""
    given = {name: value for name, value in asked.items() if name not in ("share", "limit", "level", "fresh")}
    estimate = session.client.estimate_citations(context, question, **given)
    return session.emit(estimate) if session.json else say(words.cost_ahead(estimate.progress))
