"""What `gloss explain`, `gloss bias` and `gloss surrogate` share: the target, how texts are read, and the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gloss import build, v1
from gloss.cli.options import with_fields
from gloss.cli.session import INT32, PAGE, SCALE, TEXT, Session, say, write
from gloss.cli.waiting import follow, queue, succeeded
from gloss.render import html, terminal, words

Command = TypeVar("Command", bound=Callable[..., Any])

HTML = click.option("--html", "page", type=PAGE, help="Write a page.")


def with_question(command: Command) -> Command:
    """Give a command the options of the target, of how texts are read, of precision, and of what becomes of the answer.

    They arrive as keyword arguments, of which `target_of` takes the target's and `ask` the last.
    """
    for option in (
        HTML,
        click.option("--dry-run", is_flag=True, help="Check it and say what it would cost; queue nothing."),
        click.option("--no-wait", is_flag=True, help="Queue it and say its name."),
        click.option("--fresh", is_flag=True, help="Compute anew, even if the same was asked before."),
        with_fields(v1.ExplanationSpec, leaving={*_PARTS} - {"precision"}),
        click.option("--ids", is_flag=True, help="Texts, of the target too, are token ids: 12,7,99."),
        click.option("--chat", is_flag=True, help="A prompt is a user's message, or a JSON list of role and content."),
        click.option("--scale", type=SCALE, help="Of the value that is looked at. [default: log-probability]"),
        click.option("--generation", type=INT32, help="The model's own generation, of at most so many tokens."),
        click.option("--continuation", type=TEXT, help="All tokens of this continuation."),
        click.option("--against", type=TEXT, help="Why the target rather than this?"),
        click.option("--target", type=TEXT, help="This next token. [default: the most likely one but masks]"),
    ):
        command = option(command)
    return command


_PARTS = [field.name for field in v1.ExplanationSpec.DESCRIPTOR.fields]


def prompt_of(text: str, *, ids: bool, chat: bool) -> v1.Prompt:
    """The prompt of a text, as --ids and --chat have it read."""
    if ids and chat:
        raise click.UsageError("--ids and --chat exclude each other")
    if ids:
        return build.prompt(_ids(text))
    if not chat:
        return build.prompt(text)
    try:
        messages = json.loads(text) if text.lstrip().startswith("[") else [{"role": "user", "content": text}]
        return build.prompt([v1.ChatMessage(**message) for message in messages])
    except (TypeError, ValueError) as error:
        raise click.UsageError(
            f'a chat is a JSON list such as [{{"role": "user", "content": "Hi"}}]: {error}'
        ) from error


def target_of(
    *,
    target: str | None,
    against: str | None,
    continuation: str | None,
    generation: int | None,
    scale: build.ScaleName | None,
    ids: bool,
) -> v1.Target | None:
    """The target that options choose; None where they leave it to the server.

    Raises:
        click.UsageError: they contradict each other.
    """
    if against is not None and target is None:
        raise click.UsageError("--against needs --target: why the one rather than the other?")
    read = _ids if ids else str
    if ids and target is not None and against is None and len(_ids(target)) != 1:
        raise click.UsageError("--target is one token: give one id, or use --continuation")
    try:
        if against is not None and target is not None:
            chosen, rejected = build.continuation(read(target)), build.continuation(read(against))
            contrast = v1.ContrastTarget(chosen=chosen, rejected=rejected)
            rest = build.target(follow=continuation, generation=generation, scale=scale) or v1.Target()
            if rest.WhichOneof("kind"):
                raise ValueError("a target is either one token, a contrast, a continuation or a generation")
            rest.contrast.CopyFrom(contrast)
            return rest
        token = None if target is None else _ids(target)[0] if ids else target
        follow_ = None if continuation is None else read(continuation)
        return build.target(token, follow=follow_, generation=generation, scale=scale)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _ids(text: str) -> list[int]:
    try:
        return [INT32.convert(part.strip(), None, None) for part in text.split(",")]
    except click.BadParameter as error:
        raise click.UsageError(f"{text!r} is no list of token ids such as 12,7,99: {error.message}") from error


def ask(
    session: Session,
    question: v1.ExplanationSpec | v1.StudySpec,
    *,
    fresh: bool,
    no_wait: bool,
    dry_run: bool,
    page: Path | None,
) -> None:
    """Ask, and say the name of what was queued, or wait for it and show it; of a dry run, say the cost."""
    if no_wait and page:
        raise click.UsageError("--html needs the result; wait for it, or use `gloss jobs get NAME --html FILE` later")
    if dry_run and (page or no_wait):
        raise click.UsageError("--dry-run computes nothing: leave out --html and --no-wait")
    explanation = queue(session, question, fresh=fresh, dry_run=dry_run)
    if not explanation.name:
        return session.emit(explanation) if session.json else say(words.cost_ahead(explanation.progress))
    if no_wait:
        return session.emit(explanation) if session.json else say(explanation.name)
    return present(session, follow(session, explanation), page)


def known(explanation: v1.Explanation) -> bool:
    """Whether anything has been found yet."""
    return any(map(explanation.HasField, ("result", "partial_result", "study_result", "partial_study_result")))


def present(session: Session, explanation: v1.Explanation, page: Path | None) -> None:
    """Show an explanation as it is, and raise the error that it ended with."""
    if session.json:
        session.emit(explanation)
    elif known(explanation):
        session.show(terminal.explanation(explanation))
    write_page(page, explanation)
    succeeded(explanation)


def write_page(page: Path | None, explanation: v1.Explanation) -> None:
    """Write the HTML page, where one is wanted."""
    if page:
        write(page, html.page(explanation))
