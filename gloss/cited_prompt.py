"""What `cite` asks a model: documents and a question as the model reads them, and where the sources are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import grpc

from gloss import build, documents, sources, v1
from gloss.calls import inference
from gloss.documents import CHAT, Span
from gloss.errors import GlossError
from gloss.plans import Steps

SourceUnit = Literal["sentence", "item", "line", "paragraph"]


@dataclass(frozen=True)
class CitedPrompt:
    """Context and question as the model reads them.

    Attributes:
        text: what it reads, in which `question` has its place, with the white space before it.
        answer_tokens: how many an answer can have.
        stop: what the model's answer ends before.
    """

    prompt: v1.Prompt
    text: str
    answer_tokens: int
    sources: sources.Sources
    question: Span
    stop: tuple[str, ...]


@contextmanager
def length_errors() -> Iterator[None]:
    """Let the error of a prompt that is too long say by how many tokens."""
    try:
        yield
    except GlossError as error:
        if error.reason != "PROMPT_TOO_LONG":
            raise
        tokens, limit = (int(error.metadata[name]) for name in ("tokens", "limit"))
        raise _too_long(tokens, limit, error.message) from error


def _too_long(tokens: int, limit: int, why: str) -> GlossError:
    least = "at least " if f"more than {tokens}" in why else ""
    excess = f"{tokens - limit:,} token{'' if tokens == limit + 1 else 's'}"
    return GlossError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"this does not fit the model's context by {least}{excess}: {why}",
        reason="PROMPT_TOO_LONG",
        metadata={"tokens": str(tokens), "limit": str(limit)},
    )


def prepared_prompt(plain: documents.Prompt, unit: SourceUnit, model: str, *, is_plain: bool) -> Steps[CitedPrompt]:
    """Find out how the model reads a question and its context, and where the sources are.

    Args:
        plain: both in a template of text; `is_plain` says to use it even where the model has a chat template.

    Raises:
        ValueError: a source cannot be such a unit.
    """
    if unit not in get_args(SourceUnit):
        raise ValueError(f"unit: {unit!r} is unknown; choose from {', '.join(get_args(SourceUnit))}")
    written, prompt = plain, build.prompt(plain.text)
    if not is_plain:
        served: v1.ListModelsResponse = yield inference.models()
        meant = [info for info in served.models if (info.version.name == model if model else info.is_default)]
        if any(info.has_chat_template for info in meant):
            written = documents.prompt(CHAT, plain.documents, plain.text[slice(*plain.question)])
            prompt = build.prompt([("user", written.text)])
    with length_errors():
        read: v1.TokenizeResponse = yield inference.tokenize(prompt, model=model)
    answer_tokens = read.context_length - len(read.tokens)
    if answer_tokens < 1:
        why = f"the prompt has {len(read.tokens)} tokens, and nothing is left of {read.context_length} for an answer"
        raise _too_long(len(read.tokens) + 1, read.context_length, why)
    start = sources.begin(written, read.text)
    sources.check_commands(written, read, start)
    units: list[Sequence[v1.CharacterSpan]] = []
    for document in written.documents:
        cut: v1.TokenizeResponse = yield inference.tokenize(document.text, unit=unit, model=model)
        units.append(cut.units)
    found = sources.sources(written, read, start, units)
    last = written.question[1]
    first = len(written.text[: written.question[0]].rstrip())  # without it, nothing stands where it was
    stop = (written.next_question,) if written.next_question else ()
    return CitedPrompt(prompt, read.text, answer_tokens, found, (start + first, start + last), stop)
