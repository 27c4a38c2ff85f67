"""A served model's perplexity through gRPC, beside the one measured in process.

    python -m benchmarks.served_perplexity --data DIR [--address HOST:PORT] [--model NAME] [--lines N]

Scores the test split with `Score` in overlapping windows of token ids, and compares with
`ml/pretrained/NAME/evaluation.json`, which `python -m ml.evaluate NAME --data DIR --json` wrote. Ends with status 1 if
the two differ by more than 1 %. The whole split is compared; with --lines, its first N lines are scored both ways.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import ml
from gloss import Client
from gloss.connection import DEFAULT_ADDRESS
from ml.evaluate import evaluate, stream
from ml.models.loading import load
from ml.train.corpus import count_words, read_split
from ml.train.perplexity import windows

TOLERANCE = 0.01


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--address", help=f"HOST:PORT (default: GLOSS_ADDRESS, else {DEFAULT_ADDRESS})")
    parser.add_argument("--model", default="transformer", help="a shipped model that the server serves")
    parser.add_argument("--lines", type=int, default=0, help="only the first lines of the split; default: all")
    options = parser.parse_args()

    lines = read_split(options.data, "test")[: options.lines or None]
    model = load(options.model, device="cpu")
    start, ids = stream(model, lines)
    # Prompt and continuation together fit the context.
    size = model.info.context_length - 1
    nats = 0.0
    with Client(options.address, timeout=300) as client:
        pending = list(windows(len(ids), size, size // 2))
        for group in (pending[at : at + 4] for at in range(0, len(pending), 4)):
            items = [
                ([start, *ids[window.begin : window.first].tolist()], ids[window.first : window.end].tolist())
                for window in group
            ]
            reply = client.score_many(items, model=options.model)
            nats -= sum(score.log_probability for score in reply.scores)
            if reply.model.digest != model.info.digest:
                sys.exit(f"the server serves another {options.model}: digest {reply.model.digest[:12]}")
    served = math.exp(nats / count_words(lines))
    expected = evaluate(model, lines).per_word if options.lines else _recorded(options.model)
    difference = served / expected - 1
    print(f"{options.model}: perplexity per word {served:.2f} served, {expected:.2f} measured ({difference:+.2%})")
    return int(abs(difference) > TOLERANCE)


def _recorded(model: str) -> float:
    path = Path(ml.__file__).parent / "pretrained" / model / "evaluation.json"
    figures = [json.loads(line) for line in path.read_text().splitlines()]
    return next(float(found["per_word"]) for found in figures if found["split"] == "test")


if __name__ == "__main__":
    sys.exit(main())
