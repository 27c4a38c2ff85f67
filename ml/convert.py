"""Make a folder of safetensors, which Gloss serves, of a model in another format.

    python -m ml.convert models/tiny.Q8_0.gguf tiny        # a GGUF file; needs the package gguf
    python -m ml.convert owner/name/tiny.Q8_0.gguf tiny    # one of the Hugging Face Hub
    python -m ml.convert models/old new                    # a folder with pytorch_model.bin

Numbers of a quantized model are what they stand for, in float32: the folder is larger than the file, and says the same.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml.errors import GlossError, ModelLoadError
from ml.models.loading.formats import CONVERT, GGUF


def convert(source: str, target: Path) -> None:
    """Write what is at `source` to the folder `target`, as safetensors with a tokenizer.

    No code of the model's own runs, and pickled weights are read as tensors alone.

    Raises:
        ModelLoadError: `target` holds something, or `source` is of no format or architecture that transformers reads,
            or lacks weights.
    """
    if target.is_dir() and any(target.iterdir()):
        raise ModelLoadError(f"{target} holds something already; name a new folder")
    if source.endswith(GGUF) and find_spec("gguf") is None:
        raise ModelLoadError("reading GGUF takes the package gguf: pip install gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415 - it takes seconds

    where, how = source, dict[str, Any](use_safetensors=False)
    words = dict[str, Any](trust_remote_code=False)
    if source.endswith(GGUF):
        where = str(Path(source).parent)
        words["gguf_file"] = Path(source).name
        how = {"quantization_config": GgufConfig(dequantize=True)}
    auto: Any = AutoModelForCausalLM  # its annotations do not know loading info
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **words)
        module, report = auto.from_pretrained(where, **words, **how, dtype="float32", output_loading_info=True)
    except Exception as error:  # each format and architecture has its own ways to fail
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelLoadError(f"{source} cannot be converted: {reason}") from error
    # transformers would put random numbers in their place.
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(f"{source} lacks {len(missing)} of its weights, such as {missing[0]}; nothing was written")
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=CONVERT, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help="a GGUF file, OWNER/NAME/FILE.gguf on the Hub, or a folder of pickled weights")
    parser.add_argument("target", type=Path, help="a folder that is new or empty")
    chosen = parser.parse_args()
    try:
        convert(chosen.source, chosen.target)
    except GlossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{chosen.target} is ready: GLOSS_MODEL={chosen.target} make up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
