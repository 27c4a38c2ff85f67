"""Draws InferenceService's replies on a rich console."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gloss import v1
from gloss.durations import milliseconds
from gloss.render import figures, words
from gloss.render.escaping import token_text, visible
from gloss.render.paint import WEIGHT, Shaded, plain, quoted, shares
from gloss.tensors import unpack

_UNKNOWN = "?"
"""For a number that an external engine does not give."""


def next_token(prompt: str, prediction: v1.NextTokenPrediction) -> Group:
    """The next tokens that the model expects after a prompt, as bars."""
    rows = [(quoted(token_text(top)), top.probability, figures.number(top.log_probability)) for top in prediction.top]
    parts: list[RenderableType] = [
        Text.assemble((visible(prompt), "bold"), (" …", "dim")),
        Padding(shares(rows), (1, 0)),
    ]
    if prediction.HasField("entropy"):
        parts.append(Text(f"entropy {figures.number(prediction.entropy)} nats", "dim"))
    return Group(*parts)


def answered(reply: v1.NextTokenResponse | v1.ScoreResponse | v1.GenerateResponse | v1.AttentionResponse) -> Text:
    """The model that answered, its timings, and the number of tokens."""
    return Text(f"{words.model(reply.model)} · {_timings(reply.timings)}\n{_usage(reply.usage)}", "dim")


def _usage(found: v1.Usage) -> str:
    """``tokens: 12 prompt (8 cached), 5 completion``, without zeros."""
    line = f"tokens: {found.prompt_tokens:,} prompt"
    if found.cached_tokens:
        line += f" ({found.cached_tokens:,} cached)"
    return f"{line}, {found.completion_tokens:,} completion" if found.completion_tokens else line


def _timings(found: v1.Timings) -> str:
    """``3.4 ms (waiting 0.1, tokenizing 0.2, model 3.0)``."""
    queue, tokenize, model = map(milliseconds, (found.queue_duration, found.tokenize_duration, found.model_duration))
    total = queue + tokenize + model + milliseconds(found.reply_duration)
    return f"{total:.1f} ms (waiting {queue:.1f}, tokenizing {tokenize:.1f}, model {model:.1f})"


def spelled(tokens: Sequence[v1.Token]) -> Iterator[tuple[str, str]]:
    """Each token with the white space before it that is not part of it."""
    end = 0
    for token in tokens:
        gap = token.span.start - end if token.HasField("span") else 0
        yield (" " * gap if gap > 0 and not token.text.startswith(" ") else ""), token_text(token)
        if token.HasField("span"):
            end = max(end, token.span.end)


def attention(reply: v1.AttentionResponse, *, rollout: bool = False, top: int = 5) -> Iterator[RenderableType]:
    """For each layer, head and query: the prompt shaded by weight, and the tokens with the largest weights."""
    layers, heads, queries, _ = reply.weights.shape
    weights: Any = unpack(reply.weights).tolist()
    keys: Any = unpack(reply.keys).tolist() if reply.HasField("keys") else None
    texts = list(spelled(reply.tokens))
    for layer in range(layers):
        for head in range(heads):
            for query in range(queries):
                row = weights[layer][head][query]
                positions = keys[layer][head][query] if keys else range(len(row))
                found = {place: weight for place, weight in zip(positions, row, strict=True) if place >= 0}
                name = _name(reply, layer, head, rollout)
                title = Text.assemble((name, "bold"), (" · read from ", "dim"), quoted(texts[reply.queries[query]][1]))
                yield _attention_row(title, texts, found, top)


def _name(reply: v1.AttentionResponse, layer: int, head: int, rollout: bool) -> str:
    if rollout:
        return f"rollout up to layer {reply.layers[layer]}"
    which = f"head {reply.heads[head]}" if reply.heads else "mean of heads"
    return f"layer {reply.layers[layer]}, {which}"


def _attention_row(title: Text, texts: Sequence[tuple[str, str]], found: dict[int, float], top: int) -> RenderableType:
    maximum = max(found.values(), default=0.0) or 1.0
    segments: list[tuple[str, float | None, str]] = []
    for place, (gap, text) in enumerate(texts):
        weight = found.get(place, 0.0)
        segments += [(gap, None, ""), (text, weight / maximum, figures.percent(weight))]
    heaviest = sorted(found, key=lambda place: -found[place])[:top]
    names = Text(" · ", "dim").join(
        Text.assemble(quoted(texts[place][1]), (f" {figures.percent(found[place])}", "dim")) for place in heaviest
    )
    return Padding(Group(title, Padding(Shaded(segments, WEIGHT), (0, 2)), Padding(names, (0, 2))), (0, 0, 1, 0))


def score(reply: v1.ScoreResponse) -> Iterator[RenderableType]:
    """Each token of each continuation: its probability and rank, and the alternatives if asked for."""
    for found in reply.scores:
        listed = any(token.top for token in found.tokens)
        table = _table("token", "log p", "p", "rank", *(("entropy", "alternatives") if listed else ()))
        for token in found.tokens:
            cells = [*_likely(token), f"{token.rank:,}" if token.HasField("rank") else _UNKNOWN]
            if listed:
                entropy = figures.number(token.entropy) if token.HasField("entropy") else _UNKNOWN
                cells += [entropy, _alternatives(token.top)]
            table.add_row(*cells)
        yield table
        share = figures.percent(math.exp(found.log_probability))
        yield Text.assemble(
            "together ", (f"log p {figures.number(found.log_probability)}", "bold"), (f" · {share}", "dim"), end="\n"
        )
        if found.overlap:
            yield Text.assemble(
                "The prompt ends inside a token: the first token begins with the prompt's end, ",
                quoted(found.overlap),
                ".",
                style="yellow",
            )


def generated(replies: Iterable[v1.GenerateResponse]) -> Table:
    """Each generated token: its probability, and the alternatives if asked for."""
    table = _table("token", "log p", "p", "alternatives")
    for reply in replies:
        table.add_row(*_likely(reply.token), _alternatives(reply.top))
    return table


def _table(*titles: str) -> Table:
    """An empty table of tokens; all columns but the token and its alternatives are numbers."""
    table = Table.grid(padding=(0, 2))
    table.add_row(*titles, style="dim")
    for title, column in zip(titles, table.columns, strict=True):
        column.justify = "left" if title in {"token", "alternatives"} else "right"
    return table


def _likely(token: v1.TokenProbability | v1.TokenScore) -> list[RenderableType]:
    """A token, its log-probability and its probability."""
    log_p = token.log_probability
    return [quoted(token_text(token)), figures.number(log_p), figures.percent(math.exp(log_p))]


def _alternatives(top: Iterable[v1.TokenProbability]) -> Text:
    """The most likely tokens in a row, with their probabilities."""
    return Text(" · ", "dim").join(
        Text.assemble(quoted(token_text(one)), (f" {figures.percent(one.probability)}", "dim")) for one in top
    )


def tokens(reply: v1.TokenizeResponse) -> Group:
    """The tokens in a row of boxes with their ids, and their number."""
    boxes = Text(" ").join(Text.assemble(quoted(token_text(token)), (f" {token.id}", "dim")) for token in reply.tokens)
    length = f"{len(reply.tokens)} tokens; {words.model(reply.model)} reads up to {reply.context_length:,}"
    lines = [Text(length, "dim")]
    if reply.has_start_token and reply.tokens[0].HasField("span"):
        lines.append(Text("The text already contains the start token, so it was not added again.", "dim"))
    return Group(boxes, *lines)


def models(found: Iterable[v1.ModelInfo], *, verbose: bool = False) -> Iterator[RenderableType]:
    """Each model in two lines: its name, and its properties. `verbose`: also how it is computed."""
    for info in found:
        name = Text(words.model(info.version), "bold")
        if info.is_default:
            name.append(" default", "green")
        size = [
            f"{info.parameter_count:,} parameters",
            f"{info.layer_count} layers" + (f" × {info.head_count} heads" if info.head_count else ""),
        ]
        facts = [
            info.architecture,
            *([f"served by {info.engine}"] if info.engine else size),
            f"context {info.context_length:,}",
            f"vocabulary {info.vocabulary_size:,}",
            f"top {info.max_top_k}" if info.engine else f"{info.dtype} on {info.device}",
            "attention" if info.has_attention else "no attention",
            *(["chat"] if info.has_chat_template else []),
            f"removes by {info.mask_token}" if info.mask_token else "removes by deletion",
        ]
        yield name
        yield Padding(plain(" · ".join(facts), "dim"), (0, 0, 0, 2))
        if verbose:
            yield from (Padding(plain(line), (0, 0, 0, 2)) for line in _capabilities(info))


def _capabilities(info: v1.ModelInfo) -> Iterator[str]:
    """A line for each capability of a model."""
    for each in info.capabilities:
        yield f"✔ {each.name}" + (f" up to {each.max_tokens:,} tokens" if each.HasField("max_tokens") else "")
    if info.unused_capabilities:
        yield f"not used: {info.unused_capabilities}"
