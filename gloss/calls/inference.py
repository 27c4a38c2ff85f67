"""The methods that ask a model at once: its predictions, its attention, how it cuts a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from gloss import build, v1
from gloss.build import ContinuationLike, PromptLike, TextUnitName
from gloss.plans import INFERENCE, Stream, Unary
from gloss.values import fill

ReductionName = Literal["raw", "head-mean", "rollout"]


def next_token(
    prompts: PromptLike | Sequence[PromptLike],
    *,
    top_k: int | None = None,
    temperature: float | None = None,
    model: str = "",
    timeout: float | None = None,
) -> Unary[v1.NextTokenResponse]:
    """The most likely next tokens of one prompt or of a batch.

    Args:
        prompts: text, token ids or chat messages, or a list of prompts.
        top_k: how many tokens to list for each prompt. Default: 10.
        temperature: divides the logits before the softmax. Default: 1.
        model: name of the model. Default: the server's.
        timeout: seconds. Default: the client's.
    """
    asked = {"model": model, "prompts": build.prompts(prompts), "top_k": top_k, "temperature": temperature}
    request = fill(v1.NextTokenRequest(), asked)
    return Unary(INFERENCE, "NextToken", request, v1.NextTokenResponse, timeout)


def score(
    prompt: PromptLike,
    continuation: ContinuationLike,
    *,
    top_k: int | None = None,
    model: str = "",
    timeout: float | None = None,
) -> Unary[v1.ScoreResponse]:
    """The log-probability and rank of each token of a continuation.

    Args:
        prompt: text, token ids or chat messages.
        continuation: text, with the space that separates it from the prompt (" Paris"), or token ids.
        top_k: how many alternatives to list at each position; above 0, each position also has its entropy. Default: 0.
        model: name of the model. Default: the server's.
        timeout: seconds. Default: the client's.
    """
    return score_many([(prompt, continuation)], top_k=top_k, model=model, timeout=timeout)


def score_many(
    items: Iterable[tuple[PromptLike, ContinuationLike]],
    *,
    top_k: int | None = None,
    model: str = "",
    timeout: float | None = None,
) -> Unary[v1.ScoreResponse]:
    """As `score`, for a batch of (prompt, continuation) pairs; the scores come in the pairs' order."""
    pairs = [v1.ScoreItem(prompt=build.prompt(p), continuation=build.continuation(c)) for p, c in items]
    request = fill(v1.ScoreRequest(), {"model": model, "items": pairs, "top_k": top_k})
    return Unary(INFERENCE, "Score", request, v1.ScoreResponse, timeout)


def generate(
    prompt: PromptLike,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    top_k: int | None = None,
    no_placeholders: bool = False,
    model: str = "",
    timeout: float | None = None,
) -> Stream[v1.GenerateResponse]:
    """Continues a prompt, one message a token. Leaving the loop stops the server's work.

    Args:
        prompt: text, token ids or chat messages.
        max_tokens: the most tokens. Default: 64.
        temperature: 0 (the default) is greedy; above 0, tokens are drawn.
        top_p: draw from the smallest set of tokens with this probability. Default: 1.
        seed: the same seed gives the same text. Default: drawn by the server.
        stop: generation stops before the first of these texts.
        top_k: how many alternatives to list at each position. Default: 0.
        no_placeholders: never generate the model's mask token or its unknown token, however likely.
        model: name of the model. Default: the server's.
        timeout: seconds for the whole generation. Default: the client's.
    """
    asked = {
        "model": model,
        "prompt": build.prompt(prompt),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": build.texts(stop),
        "top_k": top_k,
        "no_placeholders": no_placeholders,
    }
    request = fill(v1.GenerateRequest(), asked)
    return Stream(INFERENCE, "Generate", request, v1.GenerateResponse, timeout)


def attention(
    prompt: PromptLike,
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    queries: Sequence[int] = (),
    reduction: ReductionName = "raw",
    top_n: int | None = None,
    half: bool = False,
    model: str = "",
    timeout: float | None = None,
) -> Unary[v1.AttentionResponse]:
    """Self-attention weights; `gloss.tensors.unpack` reads the reply's tensors.

    Args:
        prompt: text, token ids or chat messages.
        layers: 0 is the lowest. Default: all.
        heads: from 0. Default: all.
        queries: positions that attend, negative ones from the end. Default: the last.
        reduction: each head by itself, their mean, or attention rollout.
        top_n: send only the n largest weights of each row. Default: all.
        half: send float16 instead of float32.
        model: name of the model. Default: the server's.
        timeout: seconds. Default: the client's.
    """
    asked = {
        "model": model,
        "prompt": build.prompt(prompt),
        "layers": layers,
        "heads": heads,
        "queries": queries,
        "reduction": reduction,
        "top_n": top_n,
        "type": v1.TENSOR_TYPE_FLOAT16 if half else v1.TENSOR_TYPE_FLOAT32,
    }
    request = fill(v1.AttentionRequest(), asked)
    return Unary(INFERENCE, "Attention", request, v1.AttentionResponse, timeout)


def tokenize(
    prompt: PromptLike,
    *,
    unit: TextUnitName | None = None,
    model: str = "",
    timeout: float | None = None,
) -> Unary[v1.TokenizeResponse]:
    """The tokens of a prompt, with their places in its text.

    Args:
        prompt: text, token ids or chat messages.
        unit: answer with the spans of these parts of the text too. Default: none.
        model: name of the model. Default: the server's.
        timeout: seconds. Default: the client's.
    """
    request = fill(v1.TokenizeRequest(), {"model": model, "prompt": build.prompt(prompt), "unit": unit})
    return Unary(INFERENCE, "Tokenize", request, v1.TokenizeResponse, timeout)


def models(*, timeout: float | None = None) -> Unary[v1.ListModelsResponse]:
    """The models that the server holds, the default one first."""
    return Unary(INFERENCE, "ListModels", v1.ListModelsRequest(), v1.ListModelsResponse, timeout)
