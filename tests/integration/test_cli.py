"""Every command against a real server and a real worker, as a picture and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gloss.cli import main

PROMPT = "The capital of France is"

Gloss = Callable[..., Result]


@pytest.fixture
def gloss(stack: str) -> Gloss:
    """Run ``gloss ARGUMENTS``, with the exit code that is expected."""

    def run(*arguments: str, code: int = 0, stdin: str = "") -> Result:
        done = CliRunner().invoke(main, arguments, input=stdin, env={"GLOSS_ADDRESS": stack, "COLUMNS": "100"})
        assert done.exit_code == code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    return run


@pytest.mark.parametrize(
    ("arguments", "drawn", "key"),
    [
        (["next", PROMPT, "--top-k", "3"], "█", "predictions"),
        (["attention", PROMPT, "--layer", "0"], "layer 0, mean of heads", "weights"),
        (["attention", PROMPT, "--rollout", "--top-n", "2"], "rollout up to layer 1", "keys"),
        (["score", PROMPT, " Paris", "--top-k", "2"], "alternatives", "scores"),
        (["tokenize", PROMPT], "reads up to 128", "tokens"),
        (["models"], "tiny-llama", "models"),
    ],
)
def test_answers_at_once(gloss: Gloss, arguments: list[str], drawn: str, key: str) -> None:
    assert drawn in gloss(*arguments).stdout
    assert json.loads(gloss(*arguments, "--json").stdout)[key]


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_explain(gloss: Gloss, method: str, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    shown = gloss("explain", PROMPT, "--method", method, "--html", str(page)).stdout
    assert "with every word replaced by '<unk>'" in shown
    assert "Faithful?" in shown
    assert "France" in page.read_text(encoding="utf-8")

    found = json.loads(gloss("explain", "-", "--method", method, "--json", stdin=PROMPT).stdout)
    result = found["result"]
    assert [part["text"] for part in result["attributions"]] == PROMPT.split()
    assert all("standard_error" in part for part in result["attributions"])
    assert result["faithfulness"]["comprehensiveness"]["aopc"]["random_deviation"] >= 0


@pytest.mark.parametrize(
    "method", ["input-times-gradient", "integrated-gradients", "attention-rollout", "value-zeroing"]
)
def test_explain_by_what_is_inside(gloss: Gloss, method: str) -> None:
    result = json.loads(gloss("explain", PROMPT, "--method", method, "--json").stdout)["result"]
    assert [part["text"] for part in result["attributions"]] == PROMPT.split()
    assert any(part["attribution"] for part in result["attributions"])
    assert result["converged"]


def test_the_mean_embedding_takes_a_words_place(gloss: Gloss) -> None:
    assert "replaced by the mean embedding" in gloss("explain", PROMPT, "--removal", "mean-embedding").stdout


def test_bias(gloss: Gloss) -> None:
    arguments = ("bias", "The {} of France is", "A {} of", "--group", "a=capital,king", "--group", "b=music,film")
    shown = gloss(*arguments, "--target", " Paris", "--against", " Rome").stdout
    assert "a − b" in shown
    found = json.loads(gloss(*arguments, "--target", " Paris", "--json").stdout)["study_result"]
    [difference] = found["bias_probe"]["differences"]
    assert difference["pairs"] == 4


def test_surrogate(gloss: Gloss) -> None:
    words = PROMPT.split()
    prompts = "\n".join(" ".join(words[i % 5 :] + words[: i % 3]) + f" word{i % 4}" for i in range(40))
    shown = gloss("surrogate", "-", "--target", " Paris", stdin=prompts).stdout
    assert "Words over all prompts" in shown
    shown = gloss("surrogate", "-", "--surrogate", "decision-tree", "--json", stdin=prompts).stdout
    found = json.loads(shown)["study_result"]["global_surrogate"]
    assert found["surrogate"]["nodes"]
    assert found["held_out_prompts"] == 8


def test_explain_with_everything_said(gloss: Gloss) -> None:
    done = gloss(
        *("explain", "The film was long. The music was dull.", "--method", "lime", "--surrogate", "decision-tree"),
        *("--continuation", " Paris", "--unit", "sentence", "--removal", "delete", "--max-evaluations", "40"),
        *("--max-duration", "30", "--seed", "3", "--scale", "probability", "--no-faithfulness", "--fresh", "--json"),
    )
    result = json.loads(done.stdout)["result"]
    assert len(result["attributions"]) == 2
    assert result["removal"]["kind"] == "REMOVAL_KIND_DELETE"
    assert result["surrogate"]["nodes"]
    assert result.get("faithfulness") is None

    shown = gloss("explain", PROMPT, "--target", " Paris", "--against", " Rome", "--span", "4:11", "--span", "15:21")
    assert "log p" in shown.stdout
    windows = gloss("explain", PROMPT, "--window", "2", "--stride", "1", "--removal", "text= x", "--unit", "token")
    assert "' x'" in windows.stdout


def test_a_dry_run_tells_what_the_explanation_then_costs(gloss: Gloss) -> None:
    asked = ("explain", f"{PROMPT} dry", "--method", "occlusion", "--no-faithfulness")
    logged = json.loads(gloss(*asked, "--dry-run", "--json").stdout)["progress"]
    done = json.loads(gloss(*asked, "--json").stdout)
    assert logged["evaluations_planned"] == done["progress"]["evaluations_done"]
    assert logged["tokens_planned"] == done["progress"]["tokens_planned"]

    again = gloss(*asked, "--dry-run").stdout  # the worker has reported its speed meanwhile
    assert again.startswith("at most")
    assert "model evaluations" in again
    assert ", about" in again


def test_jobs(gloss: Gloss) -> None:
    queued = json.loads(gloss("explain", f"{PROMPT} jobs", "--no-wait", "--json").stdout)
    name = queued["name"]
    assert name.removeprefix("explanations/") in gloss("jobs", "list").stdout
    listed = json.loads(gloss("jobs", "list", "--json", "--limit", "5").stdout)["explanations"]
    assert name in [one["name"] for one in listed]

    assert "Occlusion" in gloss("jobs", "watch", name).stdout
    last = json.loads(gloss("jobs", "watch", name, "--json").stdout.splitlines()[-1])
    assert last["state"] == "EXPLANATION_STATE_SUCCEEDED"
    assert "model evaluations" in gloss("jobs", "get", name).stdout
    assert json.loads(gloss("jobs", "get", name, "--json").stdout)["result"]

    assert "succeeded" in gloss("jobs", "cancel", name, code=1).stderr.lower()
    gloss("jobs", "delete", name)
    assert "no explanation" in gloss("jobs", "get", name, code=1).stderr


def test_a_job_is_cancelled(gloss: Gloss) -> None:
    long = " ".join(f"word{number}" for number in range(16))
    budget = ("--max-evaluations", "1000000", "--no-wait")
    name = gloss("explain", long, "--method", "lime", "--fresh", *budget).stdout.strip()
    cancelled = json.loads(gloss("jobs", "cancel", name, "--json").stdout)
    assert cancelled["state"] == "EXPLANATION_STATE_CANCELLED"
    assert "cancelled" in gloss("jobs", "watch", name, code=3).stderr
    gloss("jobs", "delete", name, "--json")


def test_tour(gloss: Gloss, stack: str) -> None:
    env = {**os.environ, "GLOSS_ADDRESS": stack, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "gloss", "tour"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=True).stdout
    for part in (
        "Who is there?",
        "What comes next?",
        "Where does it look?",
        "Occlusion ·",
        "LIME ·",
        "gloss cite",
        "More to try",
    ):
        assert part in shown
    found = json.loads(gloss("tour", PROMPT, "--json").stdout)
    assert found["attention"]["tokens"]
    assert found["occlusion"]["result"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["next", " "], "prompts[0].text"),
        (["next", PROMPT, "--top-k", "-1"], "top_k"),
        (["attention", PROMPT, "--head", "77"], "heads[0]"),
        (["explain", PROMPT, "--span", "2:4", "--span", "3:9"], "spans[1]"),
        (["explain", PROMPT, "--method", "integrated-gradients", "--removal", "delete"], "equally many tokens"),
        (["generate", PROMPT, "--max-tokens", "0"], "max_tokens"),
        (["next", PROMPT, "--model", "nobody"], "nobody"),
        (["jobs", "get", "unknown"], "unknown"),
    ],
)
def test_errors_are_one_clear_line(gloss: Gloss, arguments: list[str], line: str) -> None:
    for more in ([], ["--json"]):
        done = gloss(*arguments, *more, code=1)
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert line in done.stderr
