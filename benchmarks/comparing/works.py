"""One checkout's side of `benchmarks.compare`: does works of one model when asked to, and reports how long each took.

    PYTHONPATH=CHECKOUT python -P works.py FOLDER THREADS SHARE

Run as a script, with another checkout's packages in place of those beside it. So it asks for nothing but what both
have: the model as `load` gives it, explanations, attention. It answers in lines of JSON: first its works' names, then
for each line `[work, times]` that it reads, a `Turn`'s numbers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch

from benchmarks.serving.figures import prompts
from benchmarks.subjects import TEXT
from ml.attention import AttentionSpec, Reduction, resolve
from ml.explain import Run
from ml.memory import expect_to_stay, keep_freed_memory
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    Features,
    IntegratedGradients,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Occlusion,
    PrecisionPolicy,
    Prompt,
    Removal,
    RemovalKind,
    Target,
    Unit,
)

Numbers = Sequence[float]
Work = Callable[[], Numbers]
"""Does its work once, and returns some of its numbers: both checkouts are to give the same."""

STREAMS, GENERATED = 8, 32
KNOWN, NEW = 480, 32


class Works:
    """One model's works, of `benchmarks.explain`, `.serve` and `.attention`, without a server."""

    def __init__(self, model: Any, share: float) -> None:
        """Prepare. `share`: of the samples that explanations of words ask for."""
        self._model, self._share = model, share
        self._random = np.random.default_rng(0)
        self.named: dict[str, Work] = dict([*self._serving(), *self._explaining(), *self._attending()])

    def _serving(self) -> Iterator[tuple[str, Work]]:
        vocabulary = self._model.info.vocabulary_size
        of_all_lengths = prompts(32, vocabulary)
        prompts_of = _reading(self._model, 0)

        def read(texts: list[list[int]]) -> Work:
            return lambda: _some(prompts_of(texts))

        yield "next token after 8", read([of_all_lengths[0][:8]])
        for length in (16, 64, 256):
            yield f"next token after {length}", read([prompts(1, vocabulary, seed=length)[0][:1] * length])
        for count in (8, 32):
            yield f"next tokens of {count} prompts of 16 to 256", read(of_all_lengths[:count])
        yield (
            "next tokens of 8 prompts after 100",
            read([self._random.integers(2, vocabulary, 100).tolist() for _ in range(8)]),
        )
        for streams in (1, STREAMS):
            yield f"{GENERATED} tokens of {streams} streams", partial(self._generate, streams)
        yield f"{KNOWN} known tokens + {NEW} new ones", self._known_prefix()

    def _generate(self, streams: int) -> Numbers:
        random = np.random.default_rng(1)
        texts = random.integers(2, self._model.info.vocabulary_size, (streams, 32)).tolist()
        start, step = _decoding(self._model)
        tokens = [int(start(ids).argmax()) for ids in texts]
        for _ in range(GENERATED - 1):
            logits = step(tokens)
            tokens = logits.argmax(-1).tolist()
        return _some(logits)

    def _known_prefix(self) -> Work:
        vocabulary = self._model.info.vocabulary_size
        read = _reading(self._model, 1 << 28)
        shared = self._random.integers(2, vocabulary, KNOWN).tolist()
        read([shared])

        def work() -> Numbers:
            read([shared + self._random.integers(2, vocabulary, NEW).tolist()])
            return ()

        return work

    def _explaining(self) -> Iterator[tuple[str, Work]]:
        encode = self._model.tokenizer.ids
        longest = min(512, self._model.info.context_length)
        words = " ".join(TEXT.split()[:32])
        for tokens, last in ((64, 64), (longest, 32)):
            ids = tuple(encode(TEXT * 8)[:tokens])
            within = self._within(ids, last)
            yield f"occlusion of {last} of {tokens} tokens", self._explain(Prompt(token_ids=ids), Occlusion(), within)
            yield (
                f"integrated gradients of {last} of {tokens} tokens",
                self._explain(
                    Prompt(token_ids=ids),
                    IntegratedGradients(max(2, round(50 * self._share))),
                    within,
                    removal=Removal(RemovalKind.MEAN_EMBEDDING),
                ),
            )
        methods: tuple[tuple[Method, int], ...] = ((Lime(), 1000), (KernelShap(), 500))
        for method, full in methods:
            samples = round(full * self._share)
            budget = {"budget": Budget(max_evaluations=samples), "estimator": Estimator.TEXTBOOK}
            for policy in PrecisionPolicy:
                name = f"{type(method).__name__}, {samples} samples of 32 words, {policy.value}"
                yield name, self._explain(Prompt(text=words), method, None, precision=policy, **budget)
        budget = {"budget": Budget(max_evaluations=round(500 * self._share) // 3)}
        budget["estimator"] = Estimator.CONTROL_VARIATES
        yield "KernelShap with control variates", self._explain(Prompt(text=words), KernelShap(), None, **budget)

    def _within(self, ids: Sequence[int], last: int) -> tuple[int, int] | None:
        """The characters of the last `last` tokens; None for all of them."""
        tokenizer = self._model.tokenizer
        first = None if last == len(ids) else tokenizer.encode(Prompt(token_ids=tuple(ids))).spans[-last]
        return (first[0], len(tokenizer.decode(ids))) if first else None

    def _explain(self, prompt: Prompt, method: Method, within: tuple[int, int] | None, **more: Any) -> Work:
        if "estimator" in more and hasattr(method, "estimator"):  # in older checkouts it is the spec's
            method = replace(method, estimator=more.pop("estimator"))
        unit = Unit.TOKEN if prompt.token_ids else Unit.WORD
        ids = prompt.token_ids or self._model.tokenizer.encode(prompt).ids
        likeliest = int(self._model.logits([ids])[0][-1].argmax())
        spec = ExplanationSpec(
            prompt,
            method,
            target=Target(NextTokenTarget(id=likeliest)),
            features=Features(unit, within=within),
            **_without_faithfulness(),
            **{"precision": PrecisionPolicy.FLOAT32, **more},
        )

        def work() -> Numbers:
            *_, last = Run(self._model, spec)
            result: Any = last.result
            return [each.attribution if hasattr(each, "attribution") else each.value for each in result.attributions]

        return work

    def _attending(self) -> Iterator[tuple[str, Work]]:
        ids = self._model.tokenizer.ids(TEXT * 8)[:256]
        specs = {
            "one middle layer's last query": AttentionSpec(layers=(self._model.info.layers // 2,)),
            "all layers' last queries": AttentionSpec(),
            "all layers and queries, top 8": AttentionSpec(queries=tuple(range(len(ids))), top_n=8),
            "rollout": AttentionSpec(reduction=Reduction.ROLLOUT),
        }
        attend = _first_of("attend", "ml.models.internals.attention_maps", "ml.attention")
        for name, spec in specs.items():
            plan = resolve(spec, self._model.info, len(ids))
            yield f"attention over 256, {name}", partial(_nothing_of, attend, self._model, ids, plan)


def _without_faithfulness() -> dict[str, Any]:
    """The spec's fields that leave the quality block out; older checkouts have one of their own for it."""
    spec = import_module("ml.spec")
    return {"quality": spec.Quality(faithfulness=False)} if hasattr(spec, "Quality") else {"faithfulness": False}


def _reading(model: Any, prefix_bytes: int) -> Callable[[list[list[int]]], Any]:
    """A function from prompts to the logits after each, with a prefix cache of so many bytes."""
    if hasattr(model, "runner"):
        runner, chunk = model.runner(prefix_bytes), _first_of("Chunk", "ml.models.base")

        def read(texts: list[list[int]]) -> Any:
            logits = runner.step([chunk(ids) for ids in texts]).logits
            runner.insert_prefixes()
            return logits

        return read
    reader = model.reader(prefix_bytes)

    def read_by_reader(texts: list[list[int]]) -> Any:
        logits = reader.read(texts, [1] * len(texts)).logits
        reader.settle()
        return logits

    return read_by_reader


def _decoding(model: Any) -> tuple[Callable[[list[int]], Any], Callable[[list[int]], Any]]:
    """Functions that begin a text, and that add a token to each: the logits after it, [texts, vocabulary]."""
    if not hasattr(model, "runner"):
        decoder = model.decoder(model.reader(0))
        return decoder.start, decoder.step
    runner, chunk, numbers = model.runner(0), _first_of("Chunk", "ml.models.base"), []

    def start(ids: list[int]) -> Any:
        numbers.append(runner.begin())
        return runner.step([chunk(ids, 1, numbers[-1])]).logits[0]

    def step(tokens: list[int]) -> Any:
        chunks = [chunk([token], 1, number) for token, number in zip(tokens, numbers, strict=True)]
        return torch.cat(list(runner.step(chunks).logits))

    return start, step


def _first_of(name: str, *modules: str) -> Any:
    """What the first module that has it, newest first, calls `name`: things move between checkouts."""
    for module in modules:
        with suppress(ImportError, AttributeError):
            return getattr(import_module(module), name)
    raise SystemExit(f"no {name} in {', '.join(modules)}")


def _nothing_of(function: Callable[..., object], *arguments: object) -> Numbers:
    """Call `function`, whose result is not compared."""
    function(*arguments)
    return ()


def _some(logits: Any) -> Numbers:
    """Some numbers of logits."""
    return [number for row in logits for number in row.flatten()[:4].tolist()]


def main() -> None:
    """Load the model, list the works, and do what is asked until standard input ends."""
    folder, threads, share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints does not answer
    keep_freed_memory()  # as server and worker do
    load = _first_of("load", "ml.models.loading", "ml.models")
    works = Works(load(folder, device="cpu", threads=threads), share).named
    expect_to_stay()

    def answer(what: object) -> None:
        print(json.dumps(what), file=answers, flush=True)

    answer(list(works))
    for line in sys.stdin:
        name, times = json.loads(line)
        taken, values = [], list[float]()
        for _ in range(times):
            wall, processor = time.perf_counter(), time.process_time()
            values = list(works[name]())
            taken.append((time.perf_counter() - wall, time.process_time() - processor))
        answer((*map(min, zip(*taken, strict=True)), values))


if __name__ == "__main__":
    main()
