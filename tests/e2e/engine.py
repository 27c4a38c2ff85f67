"""``python -m tests.e2e.engine``: the engine of the tests in a container, behind the arguments that vLLM's image gets.

It serves random weights under the name of a shipped model, whose tokenizer it has.
"""

from __future__ import annotations

import argparse
import os
import signal

from transformers import AutoTokenizer

from ml.model_folders import PRETRAINED
from tests.fixtures.engine import SmallModel, TestEngine


def main() -> None:
    """Serve until the container stops."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # the first process of a container is not ended by them otherwise
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-logprobs", type=int, required=True)
    parser.add_argument("--scheduling-policy", choices=["priority"], required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(PRETRAINED / options.model)
    engine = TestEngine(
        tokenizer,
        SmallModel(len(tokenizer), kept=0),
        name=options.model,
        origin=options.model,
        longest=512,
        max_logprobs=options.max_logprobs,
        key=os.environ["VLLM_API_KEY"],
        at=("0.0.0.0", 8000),  # noqa: S104 -- of a container
    )
    signal.sigwait(stops)
    engine.close()


if __name__ == "__main__":
    main()
