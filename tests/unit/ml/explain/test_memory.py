"""A long prompt on a model of GPT-2's size is explained in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
from ml.memory import keep_freed_memory
keep_freed_memory()
from ml.models.loading import load
from ml.explain import Run
from ml.spec import Budget, ExplanationSpec, Features, Lime, Prompt, Quality, Unit

model = load(sys.argv[1], device="cpu")
model.logits([[1, 2, 3]])
def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024
before = status("VmRSS")
words = ["the bridge was built in the old town by the river"] * 400
ids = model.tokenizer.ids(" ".join(words))[:2000]
text = model.tokenizer.decode(ids)
encoding = model.tokenizer.encode(Prompt(text=text))
start = 0
for start in range(0, len(text)):
    if len(text[start:].split()) <= 200:
        break
spec = ExplanationSpec(
    Prompt(text=text), Lime(), features=Features(Unit.WORD, within=(start, len(text))),
    budget=Budget(max_evaluations=60), quality=Quality(False),
)
*_, last = Run(model, spec)
assert len(encoding.ids) > 1900, len(encoding.ids)
assert len(last.result.attributions) >= 190, len(last.result.attributions)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_long_prompt_stays_within_bounds(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from ml.model_folders import PRETRAINED

    torch.manual_seed(0)
    folder = tmp_path / "gpt2-small"
    config = GPT2Config(n_positions=2048, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PRETRAINED / "transformer").save_pretrained(folder)
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 1.5 * 2**30
