"""Waiting for an explanation, with something to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from gloss import v1
from gloss.calls.explanations import ViewName
from gloss.cli.session import Session, interrupted, say
from gloss.errors import ExplanationFailedError
from gloss.plans import complete, is_final
from gloss.render import terminal, words


def queue(
    session: Session, question: v1.ExplanationSpec | v1.StudySpec, *, dry_run: bool = False, fresh: bool = False
) -> v1.Explanation:
    """Ask for an explanation or a study without waiting for it; or only for its cost."""
    try:
        if dry_run:
            return session.client.estimate(question)
        return session.client.create(question, fresh=fresh)
    except KeyboardInterrupt:
        interrupted("Interrupted while it was asked for; `gloss jobs list` shows whether it was queued.")


def follow(
    session: Session,
    explanation: v1.Explanation,
    on_change: Callable[[v1.Explanation], None] | None = None,
    *,
    view: ViewName = "basic",
) -> v1.Explanation:
    """Wait for the end of an explanation, showing how far it is on standard error; Ctrl-C leaves it running.

    Args:
        explanation: as it is now. Where it holds what was asked, so does the one that is returned.
        on_change: called with each change.
        view: what is sent of each change.
    """
    latest = explanation
    with shown(session) as show:
        for latest in _changes(session, explanation, view):
            show(latest)
            if on_change:
                on_change(latest)
    return complete(latest, explanation)


def succeeded(explanation: v1.Explanation) -> v1.Explanation:
    """The explanation, or the error that it ended with."""
    if is_final(explanation.state) and explanation.state != v1.EXPLANATION_STATE_SUCCEEDED:
        raise ExplanationFailedError(explanation)
    return explanation


def _changes(session: Session, explanation: v1.Explanation, view: ViewName) -> Iterator[v1.Explanation]:
    yield explanation
    if not is_final(explanation.state):
        yield from session.client.watch(explanation.name, view=view)


@contextmanager
def shown(session: Session, first: str = "queued", last: str = "") -> Iterator[Callable[[v1.Explanation], None]]:
    """Show the changes of an explanation, live on a terminal, otherwise as a line for each state, once.

    Ctrl-C leaves it running, and says so.

    Args:
        first: what is being done before the first change.
        last: what is being done after the explanation has ended.
    """
    latest = v1.Explanation()
    with _live(session, first, last) if session.err.is_terminal else _in_lines(session) as draw:

        def show(explanation: v1.Explanation) -> None:
            nonlocal latest
            latest = explanation
            draw(explanation)

        try:
            yield show
        except KeyboardInterrupt:
            if not latest.name or is_final(latest.state):
                interrupted("Interrupted.")
            interrupted(
                f"Nobody waits now, but {latest.name} goes on. Look at it again, or stop it:",
                f"  gloss jobs watch {latest.name}",
                f"  gloss jobs cancel {latest.name}",
            )


@contextmanager
def _in_lines(session: Session) -> Iterator[Callable[[v1.Explanation], None]]:
    seen: set[int] = set()  # one that yields to others is queued and running again and again

    def show(explanation: v1.Explanation) -> None:
        if explanation.state not in seen and not session.json:
            say(f"{explanation.name} {words.state(explanation)}", err=True)
        seen.add(explanation.state)

    yield show


@contextmanager
def _live(session: Session, first: str, last: str) -> Iterator[Callable[[v1.Explanation], None]]:
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32, complete_style="cyan", pulse_style="cyan"),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[remaining]}", style="dim", markup=False),
        console=session.err,
    )
    task = progress.add_task(first, total=None, count="", remaining="")
    with Live(progress, console=session.err, transient=True, refresh_per_second=12) as live:

        def show(explanation: v1.Explanation) -> None:
            at = explanation.progress
            if last and is_final(explanation.state):  # how long that takes is unknown
                progress.reset(task, description=last, total=None, count="", remaining="")
                live.update(progress)
                return
            progress.update(
                task,
                description=words.stage(at) or words.state(explanation),
                completed=at.evaluations_done,
                total=at.evaluations_planned or None,
                count=_count(at),
                remaining=words.remaining(explanation),
            )
            drawing: list[RenderableType] = [progress]
            if explanation.partial_result.attributions and not session.json:
                drawing.insert(0, Padding(terminal.coloured_words(explanation.partial_result), (1, 2)))
            live.update(Group(*drawing))

        yield show


def _count(at: v1.Progress) -> str:
    """How far it is, with what it will cost while nothing is done yet."""
    if not at.evaluations_planned:
        return ""
    cost = f", at most {at.tokens_planned:,} tokens" if at.tokens_planned and not at.evaluations_done else ""
    return f"{at.evaluations_done:,} of {at.evaluations_planned:,} evaluations{cost}"
