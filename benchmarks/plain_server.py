"""What one would write instead of Gloss: transformers behind grpc.aio, one request at a time.

    python -m benchmarks.plain_server FOLDER PORT

Answers `NextToken` of Gloss's own contract, so that both are asked by the same client. The model runs in a thread, with
SDPA and the head at the last position only.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Any

import grpc
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gloss import v1 as pb
from gloss.v1 import inference_service_pb2_grpc as rpc


class PlainService(rpc.InferenceServiceServicer):
    """Tokenize, run, take the top."""

    def __init__(self, folder: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lock = asyncio.Lock()

    async def NextToken(self, request: pb.NextTokenRequest, context: Any) -> pb.NextTokenResponse:  # noqa: N802
        """One prompt after the other."""
        predictions = []
        for prompt in request.prompts:
            async with self._lock:
                top = await asyncio.to_thread(self._predict, prompt)
            predictions.append(pb.NextTokenPrediction(top=top))
        return pb.NextTokenResponse(predictions=predictions)

    @torch.inference_mode()
    def _predict(self, prompt: pb.Prompt) -> list[pb.TokenProbability]:
        ids = list(prompt.token_ids.ids) or self._tokenizer(prompt.text)["input_ids"]
        logits = self._model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
        values, best = torch.log_softmax(logits, -1).topk(10)
        return [
            pb.TokenProbability(id=i, text=str(self._tokenizer.decode([i])), probability=math.exp(p), log_probability=p)
            for i, p in zip(best.tolist(), values.tolist(), strict=True)
        ]


async def main(folder: str, port: str) -> None:
    """Serve until the process is stopped."""
    server = grpc.aio.server()
    # One method is all that it has.
    rpc.add_InferenceServiceServicer_to_server(PlainService(folder), server)  # type: ignore[abstract]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
