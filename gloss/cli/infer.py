"""The commands that answer at once: next, attention, score, generate, tokenize, models."""

from __future__ import annotations

from typing import Any

import click

from gloss import v1
from gloss.calls.inference import ReductionName
from gloss.cli.session import INT32, TEXT, Session, as_dict, connected, emit, interrupted, with_model
from gloss.render import inference, words
from gloss.tensors import unpack


@click.command("next", short_help="The most likely next tokens.")
@click.argument("texts", metavar="TEXT...", type=TEXT, nargs=-1, required=True)
@click.option("--top-k", type=INT32, help="How many tokens to list. [default: 10]")
@click.option("--temperature", type=float, help="Divides the logits; below 1 sharpens. [default: 1]")
@with_model
@connected
def next_(session: Session, texts: tuple[str, ...], top_k: int | None, temperature: float | None, model: str) -> None:
    """What comes next? The most likely tokens after each TEXT.

    \b
    gloss next "The capital of France is" --top-k 5
    """
    reply = session.client.next_token(list(texts), top_k=top_k, temperature=temperature, model=model)
    if session.json:
        return session.emit(reply)
    for text, prediction in zip(texts, reply.predictions, strict=True):
        session.show(inference.next_token(text, prediction))
    return session.show(inference.answered(reply))


@click.command(short_help="Where the model looks: attention over the text.")
@click.argument("text", type=TEXT)
@click.option(
    "--layer", "layers", type=INT32, multiple=True, help="Repeat for several; 0 is the lowest. [default: all]"
)
@click.option("--head", "heads", type=INT32, multiple=True, help="Repeat for several. [default: all]")
@click.option(
    "--query", "queries", type=INT32, multiple=True, help="Position that reads; -1 is the last. [default: -1]"
)
@click.option(
    "--mean", "reduction", flag_value="head-mean", help="The mean over heads; so it is drawn unless --head is given."
)
@click.option("--raw", "reduction", flag_value="raw", help="Every head by itself.")
@click.option("--rollout", "reduction", flag_value="rollout", help="Attention multiplied up through the layers.")
@click.option("--top-n", type=INT32, help="Fetch only the n heaviest tokens of each row.")
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
    """Where does it look? Attention of the last token, or of any other, over TEXT.

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


@click.command(short_help="How likely a continuation is.")
@click.argument("text", type=TEXT)
@click.argument("continuations", metavar="CONTINUATION...", type=TEXT, nargs=-1, required=True)
@click.option("--top-k", type=INT32, help="List so many alternatives at each position. [default: 0]")
@with_model
@connected
def score(session: Session, text: str, continuations: tuple[str, ...], top_k: int | None, model: str) -> None:
    """How likely is that? The log-probability of each CONTINUATION after TEXT.

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
@click.option("--max-tokens", type=INT32, help="[default: 64]")
@click.option("--temperature", type=float, help="0 is greedy. [default: 0]")
@click.option("--top-p", type=float, help="[default: 1]")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="[default: drawn by the server]")
@click.option("--stop", type=TEXT, multiple=True, help="Stop before this text; repeat for several.")
@click.option("--top-k", type=INT32, help="List so many alternatives to each token. [default: 0]")
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
    model: str,
) -> None:
    """Generate text: continue TEXT as the model does, token by token."""
    replies = session.client.generate(
        text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
        top_k=top_k,
        model=model,
    )
    seen: list[v1.GenerateResponse] = []
    try:
        for reply in replies:
            if session.json:
                session.emit(reply, lines=True)
                continue
            if not seen:
                session.out.print(words.visible(text, keep_lines=True), style="dim", end="", soft_wrap=True)
            session.out.print(words.visible(reply.text, keep_lines=True), end="", soft_wrap=True)
            seen.append(reply)
    except KeyboardInterrupt:
        interrupted("Interrupted; the server stops as well. --max-tokens N asks for fewer tokens.")
    if seen:
        session.out.print("\n")
        session.show(*([inference.generated(seen)] if top_k else []), inference.answered(seen[-1]))


@click.command(short_help="The tokens it reads.")
@click.argument("text", type=TEXT)
@with_model
@connected
def tokenize(session: Session, text: str, model: str) -> None:
    """How does it read? The tokens of TEXT with their ids."""
    reply = session.client.tokenize(text, model=model)
    if session.json:
        return session.emit(reply)
    return session.show(inference.tokens(reply))


@click.command(short_help="The models that are served.")
@click.option("--verbose", is_flag=True, help="Also show how each is computed, as found when it was loaded.")
@connected
def models(session: Session, verbose: bool) -> None:
    """Who is there? The models that the server holds."""
    reply = session.client.models()
    if session.json:
        return session.emit(reply)
    return session.show(*inference.models(reply.models, verbose=verbose))
