"""``python -m ml.models.follower``: a rank that follows rank 0; see `ml.models.tensor_parallel`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Load a part of the model, then make every call that rank 0 makes until it closes the pipe or dies."""
    config: dict[str, Any] = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != config["parent"]:  # it died before the wish was made
        return 1
    # Ctrl-C and an orchestrator's SIGTERM may reach the whole process group. Stopping is rank 0's business.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr from here on

    # Only now: torch takes seconds to import, and until here nobody watched over this process.
    import torch  # noqa: PLC0415

    from ml.errors import ModelLoadError  # noqa: PLC0415
    from ml.models.loading.huggingface import load_huggingface  # noqa: PLC0415
    from ml.models.loading.placement import DTYPES, Placement  # noqa: PLC0415
    from ml.models.tensor_parallel import LOADED, REFUSED, enter, open_group  # noqa: PLC0415
    from ml.runtime.device import choose_attention_kernels  # noqa: PLC0415
    from ml.threads import give_threads_to_torch  # noqa: PLC0415

    give_threads_to_torch(config["threads"])
    choose_attention_kernels()
    device = torch.device(f"cuda:{config['rank']}" if config["device"] == "cuda" else "cpu")
    folder = Path(config["folder"])
    enter(open_group(config["port"], first=False), config["rank"], config["ranks"], device)
    try:
        model = load_huggingface(
            folder,
            Placement(device, ranks=config["ranks"], chosen_dtype=DTYPES[config["dtype"]]),
            folder.name,
            "",
            config["kind"],
            read_in=lambda: print(LOADED, end="", file=replies, flush=True),
        )
    except ModelLoadError as error:
        print(f"{REFUSED}{error}", file=replies, flush=True)
        sys.stdin.buffer.read()  # rank 0 says it, and ends us
        return 1
    follow(model, (json.loads(line) for line in sys.stdin.buffer))
    return 0


def follow(model: Any, calls: Iterator[list[Any]]) -> None:
    """Make the calls of rank 0, for what they do to this rank; their results are rank 0's business."""
    from ml.errors import GlossError  # noqa: PLC0415
    from ml.models.base import Chunk  # noqa: PLC0415

    made: dict[int, Any] = {}
    batches: Iterator[Any] = iter(())
    for name, *arguments in calls:
        try:
            match name:
                case "logits":
                    model.logits(*arguments)
                case "stream":
                    sequences, logit_counts, max_tokens, max_logits = arguments
                    batches = model.stream_logits(sequences, logit_counts, max_tokens=max_tokens, max_logits=max_logits)
                case "next":
                    next(batches, None)
                case "attention":
                    model.attention(*arguments, lambda *_: None)
                case "make":  # a runner, under a number
                    number, kind, *rest = arguments
                    made[number] = getattr(model, kind)(*rest)
                case "on":
                    number, method, *rest = arguments
                    getattr(made[number], method)(*rest)
                case "step":
                    number, chunks = arguments
                    made[number].step([Chunk(*chunk) for chunk in chunks])
                case "drop":
                    made.pop(arguments[0], None)
        except GlossError:
            continue  # rank 0 met it too, and reports it to its caller


if __name__ == "__main__":
    # Not sys.exit: taking torch apart takes seconds, and there is nothing to tidy up.
    os._exit(main())
