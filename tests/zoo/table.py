"""Keeps the rows of the zoo in docs/models.json and renders docs/models.md: `python -m tests.zoo.table`.

Rows of another device than the CPU, which GLOSS_ZOO_DEVICE names, are kept beside them, in models_cuda.json.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
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
  has nothing to compare it with.
- *Way*: how prompts are computed, and up to which length. *ragged*: one batch of rows that computes every shared prefix
  once, with the prefix cache and batched decoding. *cached batches*: batches behind one shared prefix. *padded*:
  batches without sharing. *one by one*: only the model's own forward pass. *cache*: generation uses the model's own
  cache; without it, the text is read again for each token.

{counts}
"""


def keep(row: dict[str, Any]) -> None:
    """Put a row in the place of the one that was kept of the same architecture."""
    with ROWS.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several processes may run tests
        rows = {each["architecture"]: each for each in _rows()}
        rows[row["architecture"]] = row
        lines = ",\n".join(json.dumps(rows[name], ensure_ascii=False) for name in sorted(rows))
        file.truncate(0)
        file.write(f"[\n{lines}\n]\n")


def _rows() -> list[dict[str, Any]]:
    kept = ROWS.read_text(encoding="utf-8") if ROWS.exists() else ""
    rows: list[dict[str, Any]] = json.loads(kept) if kept else []
    return rows


def render(rows: Sequence[dict[str, Any]], version: str) -> str:
    """The table in Markdown."""
    served = [row for row in rows if "features" in row]
    features = list(served[0]["features"])
    whole = [row for row in rows if "refused" in row]
    excluded = [row for row in rows if "excluded" in row]
    outcomes = [outcome.partition(":")[0] for row in served for outcome in row["features"].values()]
    counts = (
        f"{len(served)} architectures are served, {len(whole)} are refused as a whole, and of {len(excluded)} no tiny "
        f"model could be made. Of {len(outcomes)} cells {outcomes.count('ok')} are ok, {outcomes.count('unchecked')} "
        f"unchecked and {outcomes.count('refused')} refused."
    )
    lines = [_HEAD.format(version=version, counts=counts)]
    lines += [f"| architecture | way | {' | '.join(features)} |", f"|---|---|{'---|' * len(features)}"]
    lines += [
        f"| {row['architecture']} | {row['way']} | {' | '.join(map(_cell, row['features'].values()))} |"
        for row in served
    ]
    lines += ["", "## Why not ragged", "", *_slow_ways(served)]
    lines += ["", "## Refused as a whole", ""]
    lines += [f"- {row['architecture']}: {_reason(row['refused'], row)}" for row in whole]
    lines += ["", "## Refused methods", "", *_refusals(served)]
    lines += ["", "## Notes", ""]
    lines += [f"- {row['architecture']}, {each}: {note}" for row in served for each, note in row["notes"].items()]
    lines += ["", "## Not tried out", ""]
    lines += [f"- {row['architecture']}: {row['excluded']}" for row in excluded]
    return "\n".join(lines) + "\n"


_ROTARY = "one forward has one set of rotary factors, that of its longest prompt"
_POSITIONS = "positions begin behind the number of its padding token, and leave such tokens out"
_BOTH = "each layer has a recurrence beside its attention"
_ROBERTAS = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
_WHY = {
    **dict.fromkeys(("phi3", "phi3, window"), _ROTARY),
    **dict.fromkeys(("falcon_h1", "zaya"), _BOTH),
    **dict.fromkeys(("falcon_mamba", "mamba"), "it has no attention"),
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), "its layers pick keys by the mask of a batch"),
    "deepseek_v4": "its layers attend to compressed keys beside the tokens'",
    "diffllama": "each layer attends twice",
    **{f"{kind}, decoder": _POSITIONS for kind in (*_ROBERTAS, "camembert", "data2vec-text", "xmod")},
}
"""Where a measured difference, or the message of a failure, does not say it."""
_VAGUE = re.compile("differs by|fails on rows")


def _slow_ways(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each reason once why ragged batches are not used, or not at all lengths, with the architectures."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for logged in row.get("slow", "").split("; "):
            if logged.startswith(("ragged batches", "prefix cache and batched decoding")):
                if _VAGUE.search(logged) and (why := _WHY.get(row["architecture"])):
                    logged = re.sub(r"\(.*\)", f"({why})", logged)  # noqa: PLW2901
                found.setdefault(logged, []).append(row["architecture"])
    for reason, names in sorted(found.items(), key=lambda each: -len(each[1])):
        yield f"- {reason}: {', '.join(names)}"


def _cell(outcome: str) -> str:
    return {"ok": "ok", "unchecked": "(ok)", "refused": "no"}.get(outcome.partition(":")[0], f"**{outcome[:60]}**")


def _refusals(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each reason once, with the architectures and methods that it is given for."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for feature, outcome in row["features"].items():
            kind, _, reason = outcome.partition(": ")
            if kind == "refused":
                found.setdefault(_reason(reason, row), {}).setdefault(row["architecture"], []).append(feature)
    for reason, where in found.items():
        yield f"- {reason}: " + "; ".join(f"{name} ({', '.join(each)})" for name, each in where.items())


def _reason(reason: str, row: dict[str, Any]) -> str:
    name = row["architecture"].replace(", ", "-").replace(" ", "-")
    return reason.replace(f"model {name!r}", "the model").replace(repr(name), "the model")


def main() -> None:
    """Render what is kept."""
    import transformers

    TABLE.write_text(render(_rows(), transformers.__version__), encoding="utf-8")


if __name__ == "__main__":
    main()
