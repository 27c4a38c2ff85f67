"""The commands that answer at once: next, attention, score, generate, tokenize, models."""

from __future__ import annotations

from typing import Any

import click

from gloss import v1
from gloss.calls.inference import ReductionName
from gloss.cli.session import INT32, TEXT, Session, as_dict, connected, emit, interrupted, with_model
from gloss.render import inference
from gloss.render.escaping import visible
from gloss.tensors import unpack


@click.command("next", short_help="List the most likely next tokens.")
@click.argument("texts", metavar="TEXT...", type=TEXT, nargs=-1, required=True)
@click.option("--top-k", type=INT32, help="How many tokens to list. [default: 10]")
@click.option(
    "--temperature", type=float, help="Divides the logits; values below 1 sharpen the distribution. [default: 1]"
)
@with_model
@connected
def next_(session: Session, texts: tuple[str, ...], top_k: int | None, temperature: float | None, model: str) -> None:
    """List the most likely next tokens after each TEXT.

    \b
    gloss next "The capital of France is" --top-k 5
    """
    reply = session.client.next_token(list(texts), top_k=top_k, temperature=temperature, model=model)
    if session.json:
        return session.emit(reply)
    for text, prediction in zip(texts, reply.predictions, strict=True):
        session.show(inference.next_token(text, prediction))
    return session.show(inference.answered(reply))


@click.command(short_help="Show where the model looks: attention over the text.")
@click.argument("text", type=TEXT)
@click.option(
    "--layer",
    "layers",
    type=INT32,
    multiple=True,
    help="Layer to show, 0 is the lowest; may be repeated. [default: all]",
)
@click.option(
    "--head", "heads", type=INT32, multiple=True, help="Head to show, from 0; may be repeated. [default: all]"
)
@click.option(
    "--query",
    "queries",
    type=INT32,
    multiple=True,
    help="Query position; -1 is the last; may be repeated. [default: -1]",
)
@click.option(
    "--mean",
    "reduction",
    flag_value="head-mean",
    help="Show the mean over the heads. The default unless --head is given.",
)
@click.option("--raw", "reduction", flag_value="raw", help="Show every head separately.")
@click.option(
    "--rollout",
    "reduction",
    flag_value="rollout",
    help="Show attention rollout: attention multiplied through the layers.",
)
@click.option("--top-n", type=INT32, help="Fetch only the N tokens with the largest weights of each row.")
@with_model
@connected
def attention(
    session: Session,
    text: str,
    *,
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    queries: tuple[int, ...],
    reduction: ReductionName | None,
    top_n: int | None,
    model: str,
) -> None:
    """Show the attention of the last token of TEXT, or of any other, to the tokens before it.

    \b
    gloss attention "The capital of France is" --layer 1 --head 0
    """
    chosen: ReductionName = reduction or ("raw" if heads else "head-mean")
    reply = session.client.attention(
        text, layers=layers, heads=heads, queries=queries, reduction=chosen, top_n=top_n, model=model
    )
    if session.json:
        return emit(_with_numbers(reply))
    session.show(*inference.attention(reply, rollout=chosen == "rollout"))
    return session.show(inference.answered(reply))


def _with_numbers(reply: v1.AttentionResponse) -> dict[str, Any]:
    """The reply for machines, its tensors as nested lists instead of packed bytes."""
    shown = as_dict(reply)
    for name in ("weights", "keys"):
        if reply.HasField(name):
            tensor: v1.Tensor = getattr(reply, name)
            shown[name] = {"shape": list(tensor.shape), "values": unpack(tensor).tolist()}
    return shown


@click.command(short_help="Show how likely a continuation is.")
@click.argument("text", type=TEXT)
@click.argument("continuations", metavar="CONTINUATION...", type=TEXT, nargs=-1, required=True)
@click.option("--top-k", type=INT32, help="Number of alternatives to list at each position. [default: 0]")
@with_model
@connected
def score(session: Session, text: str, continuations: tuple[str, ...], top_k: int | None, model: str) -> None:
    """Show the log-probability of each CONTINUATION after TEXT.

    Write the space that separates the two.

    \b
    gloss score "The capital of France is" " Paris" " London" --top-k 3
    """
    items = [(text, continuation) for continuation in continuations]
    reply = session.client.score_many(items, top_k=top_k, model=model)
    if session.json:
        return session.emit(reply)
    session.show(*inference.score(reply))
    return session.show(inference.answered(reply))


@click.command(short_help="Generate text.")
@click.argument("text", type=TEXT)
@click.option("--max-tokens", type=INT32, help="Maximum number of tokens to generate. [default: 64]")
@click.option(
    "--temperature", type=float, help="0 is greedy; above 0, tokens are drawn at this temperature. [default: 0]"
)
@click.option(
    "--top-p",
    type=float,
    help="Draw only from the most likely tokens that together have this probability. [default: 1]",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Random seed. [default: chosen by the server]")
@click.option("--stop", type=TEXT, multiple=True, help="Stop before this text; may be repeated.")
@click.option("--top-k", type=INT32, help="Number of alternatives to list for each token. [default: 0]")
@click.option("--no-placeholders", is_flag=True, help="Never generate the model's mask token or its unknown token.")
@with_model
@connected
def generate(
    session: Session,
    text: str,
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    top_k: int | None,
    no_placeholders: bool,
    model: str,
) -> None:
    """Generate text: continue TEXT, token by token."""
    replies = session.client.generate(
        text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        top_k=top_k,
        no_placeholders=no_placeholders,
        model=model,
    )
    seen: list[v1.GenerateResponse] = []
    try:
        for reply in replies:
            if session.json:
                session.emit(reply, lines=True)
                continue
            if not seen:
                session.out.print(visible(text, keep_lines=True), style="dim", end="", soft_wrap=True)
            session.out.print(visible(reply.text, keep_lines=True), end="", soft_wrap=True)
            seen.append(reply)
    except KeyboardInterrupt:
        interrupted("Interrupted; the server stops as well. --max-tokens N asks for fewer tokens.")
    if seen:
        session.out.print("\n")
        session.show(*([inference.generated(seen)] if top_k else []), inference.answered(seen[-1]))


@click.command(short_help="Show the tokens of a text.")
@click.argument("text", type=TEXT)
@with_model
@connected
def tokenize(session: Session, text: str, model: str) -> None:
    """Show the tokens of TEXT, with their ids."""
    reply = session.client.tokenize(text, model=model)
    if session.json:
        return session.emit(reply)
    return session.show(inference.tokens(reply))


@click.command(short_help="List the models of the server.")
@click.option("--verbose", is_flag=True, help="Also show which fast ways of computing each model uses.")
@connected
def models(session: Session, verbose: bool) -> None:
    """List the models of the server."""
    reply = session.client.models()
    if session.json:
        return session.emit(reply)
    return session.show(*inference.models(reply.models, verbose=verbose))
