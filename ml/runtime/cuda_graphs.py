"""Work that is recorded once as a CUDA graph, and launched at once from then on.

A pass of a small model over a few rows takes longer to launch, kernel by kernel from Python, than to compute. On a CPU
nothing here does anything.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UPS = 3
_TOLERANCE = 5e-2
"""Of the largest logit: half precision rounds differently in another order, and a wrong pass is wrong at once."""


class Recorder:
    """Records work on one device. What it records shares memory, so no two of them may run at a time."""

    def __init__(self, device: torch.device) -> None:
        """Prepare to record on `device`."""
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record `run`, which reads from memory that stays where it is. Returns what runs it, and what that writes to.

        Raises:
            RuntimeError: the work does what cannot be recorded, such as waiting for a result.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream), torch.inference_mode():
                for _ in range(_WARM_UPS):  # libraries choose and load their kernels, which cannot be recorded
                    run()
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                # Other threads of the process may use the device meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    out = run()
        except RuntimeError:
            self._reset_generator()
            raise
        torch.cuda.synchronize(self._device)
        return graph.replay, out

    def _reset_generator(self) -> None:
        """Let random numbers be drawn on the device again: a recording that failed leaves its generator locked."""
        generator = torch.cuda.default_generators[self._device.index or 0]
        generator.graphsafe_set_state(generator.clone_state())


def agree(replayed: Tensor, computed: Tensor) -> bool:
    """Whether the logits of a recorded pass are those of a computed one, but for rounding."""
    return bool((replayed - computed).abs().max() <= _TOLERANCE * computed.abs().max())


def rounded_up(number: int, sizes: Sequence[int]) -> int | None:
    """The smallest of the ascending `sizes` that is at least `number`; None where there is none."""
    place = bisect.bisect_left(sizes, number)
    return sizes[place] if place < len(sizes) else None
