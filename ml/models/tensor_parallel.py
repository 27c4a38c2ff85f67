"""One model over several processes: each computes its part of every layer (tensor parallelism, by transformers' plans).

The processes are ranks of one group. Rank 0 loads the model, and has the tokenizer, the callers and the answers. The
others repeat what it does, call by call: every method that computes is first sent to them, over a pipe, and then all
run it, each on its own part of the weights with caches and slots of its own. What a call computes
depends on its arguments and on the calls before, so the ranks meet in the same collectives in the same order. A pipe
rather than a collective carries the calls, because waiting at one does not end, and an idle server waits for long.

Whatever breaks the step of the group (a rank that dies, an unexpected error) ends the process of rank 0: it
may wait inside a collective, which nothing can interrupt, and its orchestrator knows how to start again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub forgets it
from transformers import AutoConfig

from ml.errors import GlossError, ModelLoadError
from ml.models.base import AttentionSink, Batch, Chunk, Prefix, Runner, StepResult
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading.huggingface import load_huggingface
from ml.models.loading.placement import Placement
from ml.models.log_probabilities import LogitsModel
from ml.models.protocol import RoundedModel

_log = logging.getLogger(__name__)

LOADED = "loaded\n"
REFUSED = "refused "

_CHECKOUT = Path(__file__).parents[2]
_HOST = "127.0.0.1"
_TIMEOUT = timedelta(minutes=30)
"""Of one collective: among them is the first, at which ranks wait for whoever reads its weights the slowest."""


def open_group(port: int = 0, *, first: bool) -> TCPStore:
    """Where the ranks find each other: opened by the first of them on a free port, and by the others on its."""
    return TCPStore(_HOST, port, is_master=first, wait_for_workers=False, timeout=_TIMEOUT)


def enter(group: TCPStore, rank: int, ranks: int, device: torch.device) -> None:
    """Join the group, and wait until all ranks have."""
    os.environ["LOCAL_RANK"] = str(rank)  # transformers computes on the GPU of that number
    if device.type == "cpu":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=group, rank=rank, world_size=ranks, timeout=_TIMEOUT)


class Followers:
    """The processes of ranks 1 and up, which end with this one."""

    def __init__(self, placement: Placement, folder: Path, kind: str, port: int) -> None:
        """Start them."""
        self._closing = False
        path = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, placement.ranks):
            message = {
                "parent": os.getpid(),
                "rank": rank,
                "ranks": placement.ranks,
                "device": placement.device.type,
                "dtype": str(placement.dtype).removeprefix("torch."),
                "port": port,
                "folder": str(folder),
                "kind": kind,
                "threads": torch.get_num_threads(),
            }
            begun: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
            command = [sys.executable, "-m", "ml.models.follower", json.dumps(message)]
            environment = {**os.environ, "PYTHONPATH": path}
            threading.Thread(
                target=self._watch, args=(rank, command, environment, begun), name=f"rank {rank}", daemon=True
            ).start()
            process = begun.get()
            if isinstance(process, OSError):
                raise process
            self._processes.append(process)

    def wait_loaded(self) -> None:
        """Wait until all have read their weights.

        Raises:
            ModelLoadError: one of them could not.
        """
        for process in self._processes:
            line = cast("IO[bytes]", process.stdout).readline().decode()
            if line.startswith(REFUSED):
                raise ModelLoadError(line.removeprefix(REFUSED).strip())

    def tell(self, *call: Any) -> None:
        """Have all of them make a call."""
        line = json.dumps(call).encode() + b"\n"
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):  # whoever watches over it ends us
                pipe = cast("IO[bytes]", process.stdin)
                pipe.write(line)
                pipe.flush()

    def close(self) -> None:
        """End them."""
        self._closing = True
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    cast("IO[bytes]", pipe).close()

    def lost(self, reason: str) -> None:
        """The group is out of step: end this process."""
        if not self._closing:
            _log.critical("%s; this process ends, start it again", reason)
            os._exit(1)

    def _watch(
        self,
        rank: int,
        command: list[str],
        environment: dict[str, str],
        begun: queue.SimpleQueue[subprocess.Popen[bytes] | OSError],
    ) -> None:
        """Start a process and wait for its end. It ends with this thread: the one that loads may be gone earlier."""
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        except OSError as error:
            begun.put(error)
            return
        begun.put(process)
        status = process.wait()
        self.lost(f"rank {rank} of the tensor-parallel model ended with {status}")


class LeadingModel(LogitsModel):
    """Rank 0 of a tensor-parallel model, behind the `LanguageModel` protocol."""

    def __init__(self, model: HuggingFaceModel, followers: Followers) -> None:
        self.info = model.info
        self.tokenizer = model.tokenizer
        self._model = model
        self._followers = followers
        self._numbers = itertools.count()
        self._dropped: list[int] = []

    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Tensor]:
        """As `LanguageModel.logits`."""
        with self.together(
            "logits", [list(ids) for ids in sequences], None if logit_counts is None else list(logit_counts)
        ):
            return self._model.logits(sequences, logit_counts)

    def read_prefix(self, ids: Sequence[int]) -> None:
        """Nothing: explanations have models of their own, which are not divided."""

    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """As `LanguageModel.stream_logits`; the other ranks take each batch when it is asked for here."""
        batches = self._model.stream_logits(sequences, logit_counts, max_tokens=max_tokens, max_logits=max_logits)
        self._followers.tell("stream", [list(ids) for ids in sequences], list(logit_counts), max_tokens, max_logits)
        while True:
            with self.together("next"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def runner(self, max_bytes: int = 0) -> Runner:
        """As `LanguageModel.runner`; each rank caches its own part, and `max_bytes` bounds it."""
        number = next(self._numbers)
        with self.together("make", number, "runner", max_bytes):
            return _LeadingRunner(self, number, self._model.runner(max_bytes))

    @property
    def sequence_bytes(self) -> int:
        """As `LanguageModel.sequence_bytes`, of all ranks together."""
        return self._model.sequence_bytes

    def in_bfloat16(self) -> tuple[RoundedModel, ...]:
        """A part of a model has no copy in bfloat16."""
        return ()

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """As `LanguageModel.attention`; every rank has the heads of its own, and rank 0 collects them."""
        with self.together("attention", list(ids), list(layers), list(queries)):
            self._model.attention(ids, layers, queries, sink)

    def close(self) -> None:
        """End the other ranks and the group."""
        self._followers.close()
        dist.destroy_process_group()

    def drop(self, number: int) -> None:
        """What was made under a number is not needed any more. The others hear of it with the next call: this may be
        any thread."""
        self._dropped.append(number)

    @contextlib.contextmanager
    def together(self, *call: Any) -> Iterator[None]:
        """Make a call at the same time as the other ranks."""
        while self._dropped:
            self._followers.tell("drop", self._dropped.pop())
        self._followers.tell(*call)
        try:
            yield
        except GlossError:
            raise  # every rank met it, at the same place
        except BaseException as error:
            _log.exception("a call of the tensor-parallel model failed")
            self._followers.lost(f"the ranks may be out of step after {type(error).__name__}")
            raise


class _LeadingRunner:
    """Rank 0 of a runner. Sequences have the same numbers on all ranks, as all begin and drop the same ones."""

    def __init__(self, model: LeadingModel, number: int, runner: Runner) -> None:
        self._model = model
        self._number = number
        self._runner = runner

    def begin(self) -> int:
        """As `Runner.begin`."""
        with self._model.together("on", self._number, "begin"):
            return self._runner.begin()

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        """As `Runner.step`."""
        message = [[list(chunk.ids), chunk.logits, chunk.sequence, chunk.namespace] for chunk in chunks]
        with self._model.together("step", self._number, message):
            return self._runner.step(chunks)

    def drop(self, sequence: int) -> None:
        """As `Runner.drop`."""
        with self._model.together("on", self._number, "drop", sequence):
            self._runner.drop(sequence)

    def insert_prefixes(self) -> None:
        """As `Runner.insert_prefixes`."""
        with self._model.together("on", self._number, "insert_prefixes"):
            self._runner.insert_prefixes()

    @property
    def bytes(self) -> int:
        """As `Runner.bytes`, of rank 0."""
        return self._runner.bytes

    @property
    def pads(self) -> bool:
        """As the rank's own."""
        return self._runner.pads

    @property
    def is_preemptible(self) -> bool:
        """No: the other ranks would wait for this one."""
        return False

    def __del__(self) -> None:
        self._model.drop(self._number)


def lead(folder: Path, placement: Placement, name: str, digest: str, kind: str) -> LeadingModel:
    """Load a model as rank 0 of a group, and start the other ranks.

    Raises:
        ModelLoadError: as `load_huggingface`, or the model's layers cannot be divided among so many ranks.
    """
    _check_divisible(folder, placement.ranks)
    group = open_group(first=True)
    followers = Followers(placement, folder, kind, group.port)
    try:
        enter(group, 0, placement.ranks, placement.device)
        model = load_huggingface(folder, placement, name, digest, kind, read_in=followers.wait_loaded)
    except BaseException:
        followers.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    return LeadingModel(model, followers)


def _check_divisible(folder: Path, ranks: int) -> None:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    except Exception:  # noqa: BLE001 - loading meets it again, and says what it is
        return
    if not config.base_model_tp_plan:
        raise ModelLoadError(
            f"transformers has no plan by which to divide the layers of a {config.model_type}; spread the model "
            "over the GPUs instead (device balanced)"
        )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads % ranks:
        raise ModelLoadError(f"{heads} heads of keys cannot be divided among {ranks} processes; choose a divisor")
