"""The check that a server serves the model that was measured."""

from __future__ import annotations

import sys

from benchmarks.served_perplexity import main
from tests.fixtures.models import SENTENCES
from tests.integration.serving import Served


def test_the_server_that_the_environment_names_is_asked(served: Served, tiny_gpt2, tmp_path, monkeypatch, capsys):
    (tmp_path / "test.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    monkeypatch.setenv("GLOSS_ADDRESS", f"127.0.0.1:{served.server.port}")
    monkeypatch.chdir(tiny_gpt2.parent)  # the model's name is a folder here
    monkeypatch.setattr(
        sys, "argv", ["served_perplexity", "--data", str(tmp_path), "--model", tiny_gpt2.name, "--lines", "2"]
    )
    assert main() == 0
    assert f"{tiny_gpt2.name}: perplexity per word" in capsys.readouterr().out
