"""Any Hugging Face causal language model behind the `LanguageModel` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from ml.errors import ModelLoadError, NoAttentionError
from ml.language_model import AttentionSink, ModelInfo
from ml.models import attention_capture
from ml.tokens import Tokenizer


class HuggingFaceModel:
    """A causal language model of transformers, resident and in evaluation mode."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, info: ModelInfo) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.info = info

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]], tails: Sequence[int] | None = None) -> list[Tensor]:
        """Next-token logits after each of the last `tails[i]` positions of sequence i; see `LanguageModel.logits`."""
        lengths = [len(ids) for ids in sequences]
        tails = [1] * len(sequences) if tails is None else tails
        longest = max(lengths)
        # Padding stands on the left, so that all that is read out stands at the end, whatever the model does behind
        # its last layer. Without padding there is no mask, and SDPA takes its causal fast path.
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, seen, sequence in zip(ids, mask, sequences, strict=True):
            row[longest - len(sequence) :] = torch.as_tensor(sequence)
            seen[longest - len(sequence) :] = 1
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        padding = (
            {}
            if min(lengths) == longest
            else {
                "attention_mask": mask,
                "position_ids": (mask.cumsum(1) - 1).clamp_(min=0),
            }
        )
        out = self.model(input_ids=ids, use_cache=False, logits_to_keep=max(tails), **padding).logits.float()
        return [row[row.shape[0] - tail :] for row, tail in zip(out, tails, strict=True)]

    @torch.inference_mode()
    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` to `sink`; see `LanguageModel.attention`."""
        if not self.info.heads:
            raise NoAttentionError(self.info.name)
        attention_capture.capture(self.model, ids, layers, queries, sink)


def load_huggingface(folder: Path, device: torch.device, name: str, digest: str) -> HuggingFaceModel:
    """Load a model's folder: safetensors only, no code of the model's own, float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelLoadError: the files are incomplete, corrupt or of a kind that transformers does not know.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"{folder} cannot be loaded: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{folder} has no fast tokenizer (tokenizer.json), which gives tokens their places")
    model = model.to(device)
    config = model.config.get_text_config()
    info = ModelInfo(
        name=name,
        digest=digest,
        architecture=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        heads=getattr(config, "num_attention_heads", 0) or 0,
        hidden_size=config.hidden_size,
        vocabulary_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
    )
    wrapped = Tokenizer(tokenizer, info.context_length, vocabulary_size=info.vocabulary_size, model=name)
    return HuggingFaceModel(model, wrapped, info)
