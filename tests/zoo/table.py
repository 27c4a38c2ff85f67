"""Keeps the rows of the zoo in docs/models.json and renders docs/models.md: `python -m tests.zoo.table`.

Rows of another device than the CPU, which GLOSS_ZOO_DEVICE names, are kept beside them, in models_cuda.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[2] / "docs"
DEVICE = os.environ.get("GLOSS_ZOO_DEVICE", "cpu")
"""That Gloss computes on; what it is compared with is computed on the CPU."""
ROWS = _DOCS / ("models.json" if DEVICE == "cpu" else f"models_{DEVICE.partition(':')[0]}.json")
TABLE = _DOCS / "models.md"

_HEAD = """# Models

This table shows what Gloss supports for each causal architecture of transformers {version}. Each result comes from a
tiny random model of the architecture. It is compared with the plain forward pass of an untouched copy, with eager
attention. Results agree within 1e-4 of the largest logit, or within ten times the difference between transformers' own
two implementations of attention; gradients within 1e-3 of the largest. `make test-zoo` generates this table again, in
some minutes.

- **ok**: the same result. **no**: refused, for the reason given below the table. **(ok)**: computed, but transformers
  has nothing to compare it with. Nothing: not tried yet.
- *Way*: how prompts are computed, and up to which length. *ragged*: one batch of rows that computes every shared prefix
  once, with the prefix cache and batched decoding. *cached batches*: batches behind one shared prefix. *padded*:
  batches without sharing. *one by one*: only the model's own forward pass. *cache*: generation uses the model's own
  cache; without it, the text is read again for each token.

{counts}
"""


def keep(row: dict[str, Any], features: Sequence[str]) -> None:
    """Put a row in the place of the one that was kept of the same architecture.

    What it lacks of `features`, as only some were tried, stays as it was kept.
    """
    with ROWS.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several processes may run tests
        rows = {each["architecture"]: each for each in _rows()}
        rows[row["architecture"]] = _merged(rows.get(row["architecture"], {}), row, features)
        lines = ",\n".join(json.dumps(rows[name], ensure_ascii=False) for name in sorted(rows))
        file.truncate(0)
        file.write(f"[\n{lines}\n]\n")


def _merged(kept: dict[str, Any], row: dict[str, Any], features: Sequence[str]) -> dict[str, Any]:
    if "features" not in row or "features" not in kept:
        return row
    outcomes, notes = kept["features"] | row["features"], kept["notes"] | row["notes"]
    for each in row["features"]:  # a note of an earlier try
        if each not in row["notes"]:
            notes.pop(each, None)
    return row | {
        "features": {each: outcomes[each] for each in features if each in outcomes},
        "notes": {each: notes[each] for each in features if each in notes},
    }


def _rows() -> list[dict[str, Any]]:
    kept = ROWS.read_text(encoding="utf-8") if ROWS.exists() else ""
    rows: list[dict[str, Any]] = json.loads(kept) if kept else []
    return rows


def render(rows: Sequence[dict[str, Any]], transformers: str) -> str:
    """The table in Markdown."""
    served = [row for row in rows if "features" in row]
    features = max((list(row["features"]) for row in served), key=len)
    whole = [row for row in rows if "refused" in row]
    excluded = [row for row in rows if "excluded" in row]
    outcomes = [outcome.partition(":")[0] for row in served for outcome in row["features"].values()]
    counts = (
        f"{len(served)} architectures are served, {len(whole)} are refused as a whole, and of {len(excluded)} no tiny "
        f"model could be made. Of {len(outcomes)} cells {outcomes.count('ok')} are ok, {outcomes.count('unchecked')} "
        f"unchecked and {outcomes.count('refused')} refused."
    )
    lines = [_HEAD.format(version=transformers, counts=counts)]
    lines += [f"| architecture | way | {' | '.join(features)} |", f"|---|---|{'---|' * len(features)}"]
    for row in served:
        cells = [_cell(row["features"].get(feature)) for feature in features]
        lines.append(f"| {row['architecture']} | {row['way']} | {' | '.join(cells)} |")
    lines += ["", "## Why not ragged", "", _WHY_NOT_RAGGED, *_table("reason", _slow_ways(served))]
    lines += ["", "## Refused as a whole", "", *_table("reason", [(row, _plain(row["refused"], row)) for row in whole])]
    lines += ["", "## Refused methods", "", *_refusals(served)]
    lines += ["", "## Notes", "", *_table("note", _notes(served))]
    lines += ["", "## Not tried out", "", *_table("reason", [(row, _plain(row["excluded"], row)) for row in excluded])]
    return "\n".join(lines) + "\n"


_WHY_NOT_RAGGED = """A ragged batch has tokens of several prompts and no padding. This needs a model in which tokens
meet in attention only, and an attention function that Gloss can replace.
"""
_ROTARY = "beyond 24 tokens: a pass uses one set of rotary factors, which the longest prompt of the batch decides"
_POSITIONS = "positions start after the number of the padding token, and padding tokens are not counted"
_ROBERTAS = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
_MEASURED = {
    **dict.fromkeys(("phi3", "phi3, window"), _ROTARY),
    **dict.fromkeys(("falcon_h1", "zaya"), "each layer has a recurrence in addition to its attention"),
    **dict.fromkeys(("falcon_mamba", "mamba"), "it has no attention"),
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), "its layers choose keys by the mask of the whole batch"),
    "deepseek_v4": "its layers also attend to compressed keys, which belong to no single token",
    "diffllama": "each layer computes two attentions and subtracts one from the other",
    **{f"{kind}, decoder": _POSITIONS for kind in (*_ROBERTAS, "camembert", "data2vec-text", "xmod")},
}
"""The reason where verification measured a difference or a failure, by architecture."""
_VAGUE = re.compile("differs by|fails on rows")
_PLAIN = {
    "layers without a call of the attention function": "some layers, most of them recurrent, call no such function",
    "its code takes no attention function from outside": "its attention is part of its own code, and not replaceable",
    "rows of a ragged batch cannot have attention that layers share": "several layers share one attention",
    "rows of a ragged batch cannot have attention with": "its attention depends on more than queries, keys and values",
    "the model is not causal": "it is not causal: a later token changes the prediction after earlier ones",
    "FOLDER is of model_type": "its language model alone is of a type that transformers cannot load",
    "the model answers the same prompt in two ways": "it answers the same prompt in different ways",
    "the model has no attention": "it has no attention",
    "the model has layers without attention": "tokens cannot be followed through its layers without attention",
    "attention of the model is to other keys": "it attends to keys that are not the prompt's tokens",
    "the code of the model gives no shares of its value vectors": "its value vectors are not those of the tokens",
    "the code of the model takes no embeddings in place of tokens": "it cannot read embeddings in place of tokens",
    "the code of the model gives no gradients at these embeddings": "it cannot read embeddings between those of tokens",
    "the layers of the model cannot be told apart": "Gloss does not find its layers",
    "the explanation came out without a number": "values of this tiny model are too large, too small or too alike",
    "transformers' generate is not what": "transformers' `generate` contradicts its own forward pass",
    "transformers' generate fails": "transformers' `generate` fails",
    "it reads bytes": "it reads bytes in patches, which another model cuts",
    "only its full depth says": "the sizes of its layers are defined for its full depth only",
    "it reads or writes images or sound": "it reads or writes images or sound; its language model is another type",
    "it drafts tokens for another model": "it drafts tokens for another model, and reads that model's hidden states",
}
"""How reasons begin, and what readers of a table are told instead."""


def _plain(reason: str, row: dict[str, Any]) -> str:
    """A reason for readers who do not know the code."""
    name = row["architecture"].replace(", ", "-").replace(" ", "-")
    reason = reason.replace(f"model {name!r}", "the model").replace(repr(name), "the model")
    return next((plain for start, plain in _PLAIN.items() if reason.startswith(start)), reason)


def _slow_ways(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Architectures without ragged batches, or not at all lengths, each with the reason."""
    for row in rows:
        for logged in row.get("slow", "").split("; "):
            if found := re.match(r"ragged batches( beyond \d+ tokens)? \((.*)\)", logged):
                vague = _VAGUE.search(logged) and row["architecture"] in _MEASURED
                yield row, _MEASURED[row["architecture"]] if vague else _plain(found[2], row)


def _notes(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """What was compared with something else than usual."""
    for row in rows:
        for feature, note in row["notes"].items():
            yield row, f"{feature}: {_plain(note, row)}; Gloss was compared with the forward pass"


def _cell(outcome: str | None) -> str:
    if outcome is None:
        return ""
    return {"ok": "ok", "unchecked": "(ok)", "refused": "no"}.get(outcome.partition(":")[0], f"**{outcome[:60]}**")


def _refusals(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Refused methods: each reason once, with the methods and architectures that it is given for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for feature, outcome in row["features"].items():
            kind, _, reason = outcome.partition(": ")
            if kind == "refused":
                reasons.setdefault(_plain(reason, row), []).append(feature)
        for reason, features in reasons.items():
            found.setdefault((reason, ", ".join(features)), []).append(row["architecture"])
    yield from ("| reason | methods | architectures |", "|---|---|---|")
    for (reason, refused), names in sorted(found.items(), key=lambda each: (each[0][0], -len(each[1]))):
        yield f"| {reason} | {refused} | {'; '.join(names)} |"


def _table(title: str, reasons: Iterable[tuple[dict[str, Any], str]]) -> Iterator[str]:
    """Each reason once, the most frequent first, with the architectures that it is given for."""
    found: dict[str, list[str]] = {}
    for row, reason in reasons:
        found.setdefault(reason, []).append(row["architecture"])
    yield from (f"| {title} | architectures |", "|---|---|")
    for reason, names in sorted(found.items(), key=lambda each: -len(each[1])):
        yield f"| {reason} | {'; '.join(names)} |"


def main() -> None:
    """Render what is kept."""
    TABLE.write_text(render(_rows(), version("transformers")), encoding="utf-8")


if __name__ == "__main__":
    main()
