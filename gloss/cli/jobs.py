"""``gloss jobs``: explanations that were asked for, now or before."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import get_args

import click

from gloss import v1
from gloss.calls.explanations import StateName, ViewName
from gloss.cli.asking import known, present, write_page
from gloss.cli.session import PAGE, Session, as_dict, connected, emit, say
from gloss.cli.waiting import follow, succeeded
from gloss.render import terminal, words

VIEW = click.Choice(get_args(ViewName))


@click.group(short_help="Explanations that were asked for: list, get, watch, cancel, delete.")
def jobs() -> None:
    """What was asked? List, look at, cancel and delete explanations."""


@jobs.command("list")
@click.option("--state", type=click.Choice(get_args(StateName)), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The most to show.")
@click.option("--view", type=VIEW, help="For --json: full has what was asked, too. [default: basic]")
@connected
def list_(session: Session, state: StateName | None, limit: int, view: ViewName | None) -> None:
    """Explanations, newest first."""
    _check_view(session, view)
    found = list(islice(session.client.list(state=state, view=view, page_size=min(limit, 1000)), limit))
    if session.json:
        return emit({"explanations": [as_dict(one) for one in found]})
    if not found:
        return say("nothing yet; `gloss explain TEXT` asks for one", err=True)
    return session.show(terminal.jobs(found))


@jobs.command()
@click.argument("name")
@click.option("--html", "page", type=PAGE, help="Write a page.")
@click.option("--view", type=VIEW, help="For --json: basic leaves out what was asked. [default: full]")
@connected
def get(session: Session, name: str, page: Path | None, view: ViewName | None) -> None:
    """One explanation, with what is known so far."""
    _check_view(session, view)
    explanation = session.client.get(name, view=view)
    if not session.json and not known(explanation):
        say(f"{explanation.name} {words.state(explanation)}")
    present(session, explanation, page)


@jobs.command()
@click.argument("name")
@click.option("--html", "page", type=PAGE, help="Write a page at the end.")
@click.option("--view", type=VIEW, help="For --json: full has what was asked in each line, too. [default: basic]")
@connected
def watch(session: Session, name: str, page: Path | None, view: ViewName | None) -> None:
    """An explanation until it ends; with --json, one line for each change."""
    _check_view(session, view)
    if not session.json:
        return present(session, follow(session, session.client.get(name)), page)

    def report(change: v1.Explanation) -> None:
        session.emit(change, lines=True)

    shown = view or "basic"
    final = follow(session, session.client.get(name, view=shown), report, view=shown)
    if page:
        write_page(page, session.client.get(name))
    succeeded(final)
    return None


@jobs.command()
@click.argument("name")
@connected
def cancel(session: Session, name: str) -> None:
    """Stop an explanation; what it knows so far is kept."""
    explanation = session.client.cancel(name)
    if session.json:
        return session.emit(explanation)
    return say(f"{explanation.name} {words.state(explanation)}")


@jobs.command()
@click.argument("name")
@connected
def delete(session: Session, name: str) -> None:
    """Cancel an explanation where needed, and forget it."""
    reply = session.client.delete(name)
    if session.json:
        return session.emit(reply)
    return say(f"{name} deleted")


def _check_view(session: Session, view: ViewName | None) -> None:
    if view and not session.json:
        raise click.UsageError("--view is for --json; a picture shows what it needs")
