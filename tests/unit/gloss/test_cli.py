"""The command line against a scripted server: what it prints, where, and its exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner, Result

from gloss import v1
from gloss.cli import COMMANDS, main, studies
from gloss.durations import duration
from tests.fixtures.certificates import Authority
from tests.unit.gloss import fake

Run = Callable[..., Result]


@pytest.fixture
def run(address: str) -> Run:
    """Run a command against the scripted server."""

    def invoke(*arguments: str, **more: object) -> Result:
        return CliRunner().invoke(main, [*arguments], env={"GLOSS_ADDRESS": address, "COLUMNS": "100"}, **more)

    return invoke


def output(result: Result) -> str:
    """What a command that went well printed."""
    assert result.exit_code == 0, result.output
    return result.stdout


def test_next_draws_bars_and_shows_white_space(run: Run) -> None:
    shown = output(run("next", "The capital of France is", "--top-k", "3"))
    assert "␣Paris" in shown
    assert "⏎" in shown
    assert "70.0%" in shown
    assert "█" in shown
    assert "fake 01234567" in shown


def test_answers_say_what_they_took(run: Run) -> None:
    for arguments in (["next", "a b"], ["score", "a b", " c"]):
        assert "tokens: 5 prompt (3 cached)" in output(run(*arguments))
        assert "3.4 ms (waiting 0.1, tokenizing 0.2, model 3.0)" in output(run(*arguments))
    assert "tokens: 3 prompt, 2 completion" in output(run("generate", "a b"))


def test_placeholders_are_generated_unless_refused(run: Run, script: fake.Script) -> None:
    for options in ([], ["--no-placeholders"]):
        output(run("generate", "a b", *options))
    assert [request.no_placeholders for request in script.requests["Generate"]] == [False, True]


def test_alternatives_are_asked_for_and_shown(run: Run, script: fake.Script) -> None:
    for arguments, alternative in ((["score", "a b", " Paris"], "␣Rome 25.0%"), (["generate", "a"], "␣Rome 25.0%")):
        assert alternative not in output(run(*arguments))
        assert alternative in output(run(*arguments, "--top-k", "1"))
    for method in ("Score", "Generate"):
        without, with_ = script.requests[method]
        assert not without.HasField("top_k")
        assert with_.top_k == 1


def test_next_takes_several_texts(run: Run, script: fake.Script) -> None:
    output(run("next", "one", "two"))
    assert [prompt.text for prompt in script.requests["NextToken"][0].prompts] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["next", "hello"], "predictions"),
        (["attention", "hello world"], "weights"),
        (["score", "hello", " world"], "scores"),
        (["tokenize", "hello world"], "tokens"),
        (["models"], "models"),
        (["explain", "hello world"], "result"),
        (["bias", "The {} said", "--group", "a=b", "--group", "c=d"], "study_result"),
        (["jobs", "list"], "explanations"),
        (["tour"], "lime"),
    ],
)
def test_json_is_alone_on_standard_output(run: Run, arguments: list[str], key: str) -> None:
    assert key in json.loads(output(run(*arguments, "--json")))


def test_a_citation_of_standard_input(run: Run) -> None:
    asked = ("cite", "--context", "-", "--question", "Why?")
    found = json.loads(output(run(*asked, "--json", input="One line.\n\nAnother.\n")))
    [sentence] = found["sentences"]
    assert [(each["file"], each["first_line"]) for each in sentence["citations"]] == [
        ("standard input", 1),
        ("standard input", 3),
    ]
    assert "[1]" in output(run(*asked, input="One line.\n\nAnother.\n"))


def test_a_citation_of_a_file_whose_name_no_encoding_has(run: Run, tmp_path: Path) -> None:
    """Its name is shown as well as it can be, in each kind of output, and in a line where it cannot be read."""
    path, page = tmp_path / os.fsdecode(b"caf\xe9.txt"), tmp_path / "page.html"
    asked = ("cite", "--context", str(path), "--question", "Why?")
    missing = run(*asked)
    assert missing.exit_code == 2
    assert "caf\ufffd.txt: No such file" in missing.stderr
    try:
        path.write_text("One line.\n")
    except OSError:
        pytest.skip("this file system has no such names")
    assert "caf\ufffd.txt:1" in output(run(*asked, "--html", str(page)))
    assert "caf\ufffd.txt:1" in page.read_text(encoding="utf-8")
    printed = output(run(*asked, "--json"))
    assert "\\ud" not in printed
    assert json.loads(printed)["sources"][0]["file"].endswith("caf\ufffd.txt")


def test_a_terminal_shows_what_is_done_after_a_citation_is_explained(address: str) -> None:
    env = {"GLOSS_ADDRESS": address, "FORCE_COLOR": "1", "COLUMNS": "100"}
    asked = ["cite", "--context", "-", "--question", "Why?"]
    done = CliRunner().invoke(main, asked, env=env, input="One line.\n\nAnother.\n")
    assert done.exit_code == 0
    assert "leaving out what is cited" in done.stderr


def test_json_keeps_zeros_and_the_contracts_names(run: Run) -> None:
    found = json.loads(output(run("explain", fake.TEXT, "--json")))
    last = found["result"]["attributions"][-1]
    assert last["attribution"] == 0
    assert last["standard_error"] == 0
    assert found["result"]["faithfulness"]["random_rankings"] == 10


def test_text_from_standard_input(run: Run, script: fake.Script) -> None:
    output(run("next", "-", input="from a pipe\n"))
    assert script.requests["NextToken"][0].prompts[0].text == "from a pipe"


def test_text_that_is_no_utf8_is_a_usage_error(run: Run) -> None:
    assert run("next", "-", input=b"\xff\xfe").exit_code == 2
    assert run("next", "caf\udce9").exit_code == 2


def test_attend_asks_for_what_it_draws(run: Run, script: fake.Script) -> None:
    shown = output(run("attention", fake.TEXT, "--layer", "1", "--head", "0", "--query", "-2", "--top-n", "2"))
    request = script.requests["Attention"][0]
    assert (request.layers, request.heads, request.queries, request.top_n) == ([1], [0], [-2], 2)
    assert request.reduction == v1.ATTENTION_REDUCTION_RAW
    assert "layer 1, head 0" in shown

    assert "mean of heads" in output(run("attention", fake.TEXT))
    assert "rollout up to layer 1" in output(run("attention", fake.TEXT, "--rollout"))


def test_attend_json_holds_numbers(run: Run) -> None:
    found = json.loads(output(run("attention", fake.TEXT, "--top-n", "2", "--json")))
    assert found["weights"]["shape"] == [2, 1, 1, 2]
    assert found["keys"]["values"][0][0][0] == [4, 3]


def test_generate_streams(run: Run) -> None:
    assert output(run("generate", "The capital is")).startswith("The capital is Paris.\n\nfake ")
    lines = output(run("generate", "The capital is", "--json")).splitlines()
    assert [json.loads(line)["text"] for line in lines] == [" Paris", "."]


def test_explain_builds_the_spec(run: Run, script: fake.Script) -> None:
    output(
        run(
            *("explain", "one two three", "--method", "lime", "--surrogate", "lasso"),
            *("--target", " a", "--against", " b", "--span", "0:3", "--span", "4:7"),
            *("--removal", "text= ", "--max-evaluations", "50", "--max-duration", "2.5", "--standard-error", "0.1"),
            *("--seed", "7", "--no-faithfulness", "--fresh"),
        )
    )
    request = script.requests["CreateExplanation"][0]
    assert request.fresh
    assert request.request_id
    assert request.spec == v1.ExplanationSpec(
        prompt=v1.Prompt(text="one two three"),
        target=v1.Target(
            contrast=v1.ContrastTarget(chosen=v1.Continuation(text=" a"), rejected=v1.Continuation(text=" b"))
        ),
        features=v1.Features(spans=[v1.CharacterSpan(start=0, end=3), v1.CharacterSpan(start=4, end=7)]),
        removal=v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=" "),
        lime=v1.Lime(surrogate=v1.SURROGATE_LASSO),
        budget=v1.Budget(max_evaluations=50, max_duration=duration(2.5), standard_error=0.1, seed=7),
        quality=v1.Quality(faithfulness=False),
    )


def test_explain_draws_words_table_and_verdict(run: Run) -> None:
    shown = output(run("explain", fake.TEXT, "--method", "lime"))
    assert "France[+2.50]" in shown
    assert "± 0.20" in shown
    assert "R² 0.83" in shown
    assert "✔ Trusted" in shown
    assert "✘ sufficiency" in shown
    assert "32 model evaluations" in shown


def test_explain_says_its_state_on_standard_error(run: Run) -> None:
    assert run("explain", fake.TEXT).stderr.splitlines() == [
        "explanations/1 queued",
        "explanations/1 running",
        "explanations/1 succeeded",
    ]


def test_a_job_that_yields_to_others_says_each_state_once(run: Run, script: fake.Script) -> None:
    job = v1.Explanation(name="explanations/1", state=v1.EXPLANATION_STATE_RUNNING)
    yielded = v1.Explanation(name="explanations/1", state=v1.EXPLANATION_STATE_QUEUED)
    script.watches.append([job, yielded, job])
    said = run("explain", fake.TEXT).stderr.splitlines()
    assert said == [f"explanations/1 {state}" for state in ("queued", "running", "succeeded")]


def test_explain_writes_a_page(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    output(run("explain", fake.TEXT, "--html", str(page)))
    assert "France" in page.read_text(encoding="utf-8")


def with_pages() -> Iterator[list[str]]:
    """Every command that writes a page, with the least that it takes."""
    needed = {
        "explain": [fake.TEXT],
        "cite": ["--context", "-", "--question", "Why?"],
        "bias": ["The {}", "--group", "a=x", "--group", "b=y"],
        "surrogate": ["-"],
        "get": ["1"],
        "watch": ["1"],
    }
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        for each in getattr(command, "commands", {"": command}).values():
            if any("--html" in parameter.opts for parameter in each.params):
                yield [name, *([each.name] if each is not command else []), *needed[each.name]]


@pytest.mark.parametrize("command", list(with_pages()), ids=lambda command: command[0])
def test_a_page_that_cannot_be_written_is_told_before_anything_is_asked(
    run: Run, script: fake.Script, tmp_path: Path, command: list[str]
) -> None:
    result = run(*command, "--html", str(tmp_path / "missing" / "page.html"), input="x\n" * 20)
    assert result.exit_code == 2, result.output
    assert f"there is no folder '{tmp_path / 'missing'}'" in result.stderr
    assert not script.attempts


def test_a_page_that_cannot_be_written_any_more_is_told_in_a_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    result = run("explain", fake.TEXT, "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 1
    assert "France" in result.stdout, "what was computed is shown"
    assert result.stderr.splitlines()[-1].endswith("No space left on device")


@pytest.mark.parametrize(
    "arguments",
    [
        ["cite", "--context", "-", "--context", "-", "--question", "Why?"],
        ["cite", "--context", "-", "--question", "-"],
        ["score", "-", "-"],
    ],
)
def test_standard_input_is_one_text(run: Run, arguments: list[str]) -> None:
    refused = run(*arguments, input="A text.")
    assert refused.exit_code == 2
    assert "standard input can be one text only" in refused.stderr


def test_a_file_that_is_named_twice_is_one_document(run: Run, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("One line.\n")
    (tmp_path / "link").symlink_to("a")
    names = ["a", "b", "a", "../" + tmp_path.name + "/b", "link"]
    named = [part for name in names for part in ("--context", f"{tmp_path}/{name}")]
    found = json.loads(output(run("cite", *named, "--question", "Why?", "--json")))
    assert found["sources_looked_at"] == 2
    assert "the name of the file is empty" in run("cite", "--context", "", "--question", "Why?").stderr


def test_output_in_an_encoding_that_lacks_characters(address: str) -> None:
    env = os.environ | {"GLOSS_ADDRESS": address, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    gloss = [sys.executable, "-m", "gloss"]
    shown = subprocess.run([*gloss, "explain", fake.TEXT], env=env, capture_output=True, check=True)
    assert b"\nlog p(" in shown.stdout
    assert re.search(rb"#+ +\+\d", shown.stdout), "bars and numbers are legible"
    assert b"= -1.00; with" in shown.stdout, "a minus sign stays one"
    cited = [*gloss, "cite", "--context", "-", "--question", "Où est 👩‍👧?", "--json"]
    found = subprocess.run(cited, env=env, input=b"One.", capture_output=True, check=True)
    assert json.loads(found.stdout)["question"] == "Où est 👩‍👧?"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--json"], ["generate", "a b"]])
def test_an_output_that_cannot_be_written_is_told_in_a_line(address: str, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "gloss", *arguments],
            env=os.environ | {"GLOSS_ADDRESS": address},
            stdout=full,
            check=False,
            stderr=subprocess.PIPE,
        )
    assert ended.stderr == b"error: No space left on device\n"
    assert ended.returncode == 1


def test_integrated_gradients_have_steps(run: Run, script: fake.Script) -> None:
    output(run("explain", fake.TEXT, "--method", "integrated-gradients", "--steps", "20"))
    assert script.requests["CreateExplanation"][0].spec.integrated_gradients == v1.IntegratedGradients(steps=20)


def test_bias_builds_the_spec(run: Run, script: fake.Script) -> None:
    output(
        run(
            *("bias", "The {} said", "So {} was", "--group", "men=king, father", "--group", "women=queen,mother"),
            *("--target", " he", "--against", " she", "--max-duration", "9"),
        )
    )
    assert script.requests["CreateExplanation"][0].study == v1.StudySpec(
        target=v1.Target(
            contrast=v1.ContrastTarget(chosen=v1.Continuation(text=" he"), rejected=v1.Continuation(text=" she"))
        ),
        bias_probe=v1.BiasProbe(
            templates=["The {} said", "So {} was"],
            groups=[
                v1.SwapSet(label="men", words=["king", "father"]),
                v1.SwapSet(label="women", words=["queen", "mother"]),
            ],
        ),
        budget=v1.Budget(max_duration=duration(9)),
    )


def test_surrogate_reads_its_prompts_line_by_line(run: Run, script: fake.Script, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\n two \nthree\n", encoding="utf-8")
    options = ("--target", " x", "--surrogate", "decision-tree", "--held-out", "0.5", "--max-depth", "2", "--seed", "3")
    output(run("surrogate", str(prompts), *options))
    assert script.requests["CreateExplanation"][0].study == v1.StudySpec(
        target=v1.Target(next_token=v1.NextTokenTarget(text=" x")),
        global_surrogate=v1.GlobalSurrogate(
            prompts=[v1.Prompt(text=text) for text in ("one", "two", "three")],
            surrogate=v1.SURROGATE_DECISION_TREE,
            held_out=0.5,
            max_depth=2,
        ),
        budget=v1.Budget(seed=3),
    )
    output(run("surrogate", "-", "--no-wait", input="one\ntwo\n"))
    prompts = script.requests["CreateExplanation"][1].study.global_surrogate.prompts
    assert [prompt.text for prompt in prompts] == ["one", "two"]


def test_surrogates_take_token_ids_and_chats(run: Run, script: fake.Script) -> None:
    output(run("surrogate", "-", "--ids", "--target", "7", "--no-wait", input="1,2\n3\n"))
    output(run("surrogate", "-", "--chat", "--no-wait", input='hi\n[{"role": "system", "content": "be kind"}]\n'))
    ids, chats = (request.study for request in script.requests["CreateExplanation"])
    assert [list(prompt.token_ids.ids) for prompt in ids.global_surrogate.prompts] == [[1, 2], [3]]
    assert ids.target.next_token.id == 7
    assert [prompt.chat.messages[0].role for prompt in chats.global_surrogate.prompts] == ["user", "system"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["bias", "The {} said"],
        ["bias", "The {} said", "--group", "men"],
        ["bias", "The {} said", "--group", "men=a", "--group", "men=b"],
        ["bias", "The {} said", "--group", "men=a", "--group", "women=b", "--against", " x"],
        ["bias", "The {} said", "--group", "men=a", "--group", "women=b", "--target", " x", "--continuation", " y"],
        ["bias", "The {} said", "--group", "men=a", "--group", "women=b", "--no-wait", "--html", "x.html"],
        ["bias", "The {} said", "--group", "men=a", "--group", "women=b", "--chat"],
        ["surrogate", "no such file"],
        ["surrogate", "-", "--ids", "--target", "1,2"],
    ],
)
def test_studies_that_make_no_sense(run: Run, script: fake.Script, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert script.attempts["CreateExplanation"] == 0


def test_explain_without_waiting(run: Run, script: fake.Script) -> None:
    assert output(run("explain", fake.TEXT, "--no-wait")) == "explanations/1\n"
    assert script.attempts["WatchExplanation"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unit", "word", "--span", "0:2"],
        ["--continuation", " x", "--target", " y"],
        ["--against", " y"],
        ["--method", "lime", "--window", "2"],
        ["--surrogate", "ridge"],
        ["--steps", "20"],
        ["--method", "kernel-shap", "--alpha", "1"],
        ["--generation", "3", "--target", " y"],
        ["--generation", "3", "--target", " x", "--against", " y"],
        ["--ids"],
        ["--chat", "--target", "1", "--ids"],
        ["--method", "magic"],
        ["--span", "3"],
        ["--span", "-1:3"],
        ["--removal", "text"],
        ["--removal", "burn"],
        ["--no-wait", "--html", "x.html"],
        ["--max-evaluations", "99999999999"],
        ["--seed", "-1"],
        ["--max-duration", "nan"],
        ["--max-duration", "1e300"],
        ["--max-duration", "soon"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run: Run, script: fake.Script, arguments: list[str]) -> None:
    result = run("explain", fake.TEXT, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert script.attempts["CreateExplanation"] == 0


@pytest.mark.parametrize("end", [v1.EXPLANATION_STATE_FAILED, v1.EXPLANATION_STATE_CANCELLED])
def test_an_explanation_that_ends_badly_exits_with_3(run: Run, script: fake.Script, end: int) -> None:
    script.end = end
    result = run("explain", fake.TEXT)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("error: ")

    result = run("jobs", "watch", "1", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout.splitlines()[-1])["state"] == v1.ExplanationState.Name(end)


def test_server_errors_name_the_field_and_exit_with_1(run: Run, script: fake.Script) -> None:
    script.failures["NextToken"].append(fake.bad_field("top_k", "must be between 1 and 1000, not 0"))
    result = run("next", "hello", "--top-k", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: top_k: must be between 1 and 1000, not 0\n"


def test_errors_say_when_to_try_again(run: Run, script: fake.Script) -> None:
    script.failures["CreateExplanation"].append(fake.queue_full())
    assert run("explain", fake.TEXT).stderr.splitlines()[1].strip() == "Try again in 2.5 s."


def test_no_server_says_how_to_start_one() -> None:
    result = CliRunner().invoke(main, ["models", "--address", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no Gloss server answers at 127.0.0.1:1 (Failed to connect" in result.stderr
    assert "make up" in result.stderr


def test_an_address_without_a_port_is_told_what_it_lacks() -> None:
    result = CliRunner().invoke(main, ["models", "--address", "localhost"])
    assert result.exit_code == 1
    assert "Name its port, too: localhost:50051." in result.stderr


@pytest.mark.parametrize(
    "asked",
    [
        ["explain", fake.TEXT, "--method", "lime"],
        ["bias", "The {} said", "--group", "a=king", "--group", "b=queen"],
        ["surrogate", "-"],
        ["cite", "--context", "-", "--question", "Why?"],
        ["cite", "--context", "-", "--question", "Why?", "--answer", "Because.", "--share", "0.5", "--fresh"],
    ],
)
def test_a_dry_run_says_the_cost_and_queues_nothing(run: Run, script: fake.Script, asked: list[str]) -> None:
    shown = output(run(*asked, "--dry-run", input="one\ntwo\n"))
    assert shown == "at most 32 model evaluations, 1,600 tokens, about 500 ms\n"
    printed = json.loads(output(run(*asked, "--dry-run", "--json", input="one\ntwo\n")))
    assert (printed["name"], printed["progress"]["evaluations_planned"]) == ("", "32")
    assert not script.explanations
    assert not script.requests["Generate"]
    for contradiction in (["--no-wait"], ["--html", "page.html"]):
        assert run(*asked, "--dry-run", *contradiction, input="one\n").exit_code == 2


def test_what_was_asked_is_sent_for_json_in_full_only(run: Run, tmp_path: Path) -> None:
    output(run("explain", fake.TEXT))
    page = tmp_path / "page.html"
    for view, has_spec in ((), False), (("--view", "basic"), False), (("--view", "full"), True):
        [listed] = json.loads(output(run("jobs", "list", "--json", *view)))["explanations"]
        lines = output(run("jobs", "watch", "1", "--json", "--html", str(page), *view)).splitlines()
        for seen in (listed, *map(json.loads, lines)):
            assert bool(seen.get("spec")) is has_spec
            assert (seen["method"], seen["prompt_preview"]) == ("occlusion", fake.TEXT)
        assert "France" in page.read_text(encoding="utf-8")
    for view, has_spec in ((), True), (("--view", "full"), True), (("--view", "basic"), False):
        assert bool(json.loads(output(run("jobs", "get", "1", "--json", *view))).get("spec")) is has_spec
    for command in (["list"], ["get", "1"], ["watch", "1"]):
        assert run("jobs", *command, "--view", "full").exit_code == 2


def test_jobs_from_list_to_delete(run: Run, script: fake.Script) -> None:
    assert "nothing yet" in run("jobs", "list").stderr
    for prompt in ("first prompt", "second prompt"):
        output(run("explain", prompt, "--no-wait"))
    listed = output(run("jobs", "list"))
    assert listed.index("second prompt") < listed.index("first prompt")
    assert len(json.loads(output(run("jobs", "list", "--json", "--limit", "1")))["explanations"]) == 1
    assert "queued" in output(run("jobs", "get", "1"))

    assert "second" in output(run("jobs", "watch", "2"))
    assert "succeeded" in output(run("jobs", "list", "--state", "succeeded"))
    assert json.loads(output(run("jobs", "get", "2", "--json")))["state"] == "EXPLANATION_STATE_SUCCEEDED"

    assert output(run("jobs", "cancel", "explanations/1")) == "explanations/1 cancelled\n"
    assert run("jobs", "get", "1").exit_code == 3
    assert output(run("jobs", "delete", "1")) == "1 deleted\n"
    assert run("jobs", "get", "1").exit_code == 1


def test_jobs_get_of_an_unknown_explanation(run: Run) -> None:
    result = run("jobs", "get", "nope")
    assert result.exit_code == 1
    assert "explanations/nope does not exist" in result.stderr


def test_tour_shows_every_stop_and_the_command_for_it(run: Run) -> None:
    shown = output(run("tour", fake.TEXT))
    for command in ("models", "next", "attention", "explain", "cite"):
        assert f"$ gloss {command}" in shown
    assert "Occlusion ·" in shown
    assert "LIME ·" in shown

    long = "word " * 40 + "end"
    assert f"$ gloss explain '{long}' --method lime\n" in output(run("tour", long)), "a command is copied in one piece"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_json(run: Run, command: str) -> None:
    arguments = ["jobs", "list", "--help"] if command == "jobs" else [command, "--help"]
    shown = output(run(*arguments))
    for option in ("--address", "--timeout", "--json"):
        assert option in shown


def test_version(run: Run) -> None:
    assert output(run("--version")).startswith("gloss")


def test_the_key_is_read_from_the_environment(address: str, script: fake.Script) -> None:
    result = CliRunner().invoke(main, ["models"], env={"GLOSS_ADDRESS": address, "GLOSS_KEY": "secret"})
    assert result.exit_code == 0
    assert script.metadata["authorization"] == "Bearer secret"


def test_interrupting_a_wait_leaves_the_job_and_says_so(address: str, script: fake.Script) -> None:
    env = {**os.environ, "GLOSS_ADDRESS": address, "GLOSS_TEST": "1"}
    endless = v1.Explanation(name="explanations/1", state=v1.EXPLANATION_STATE_RUNNING)
    script.watches += [[endless]] * 10_000  # every connection ends at once, so the wait goes on
    process = subprocess.Popen(
        [sys.executable, "-m", "gloss", "explain", "hello world"], env=env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.readline() == "explanations/1 queued\n"
        process.send_signal(signal.SIGINT)
        rest = stderr.read()
    assert process.wait(10) == 130
    assert "gloss jobs watch explanations/1" in rest
    assert "gloss jobs cancel explanations/1" in rest
    assert "Traceback" not in rest
    assert script.attempts["CancelExplanation"] == 0


@pytest.mark.parametrize(
    ("arguments", "method", "logged"),
    [
        (["generate", "hello"], "Generate", "--max-tokens"),
        (["generate", "hello", "--json"], "Generate", "--max-tokens"),
        (["explain", "hello"], "CreateExplanation", "`gloss jobs list`"),
        (["tokenize", "hello"], "Tokenize", "interrupted"),
    ],
)
def test_interrupting_a_command_ends_it_as_shells_expect(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], method: str, logged: str
) -> None:
    begun = threading.Event()

    def stuck(self: object, request: object, context: grpc.ServicerContext) -> None:
        begun.set()
        while context.is_active():
            time.sleep(0.005)

    def stuck_stream(self: object, request: object, context: grpc.ServicerContext) -> Iterator[v1.GenerateResponse]:
        yield v1.GenerateResponse(text=" word")
        stuck(self, request, context)

    service = fake.Explanations if method == "CreateExplanation" else fake.Inference
    monkeypatch.setattr(service, method, stuck_stream if method == "Generate" else stuck)
    with fake.serve() as (address, _):
        process = subprocess.Popen(
            [sys.executable, "-m", "gloss", *arguments],
            env={**os.environ, "GLOSS_ADDRESS": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert begun.wait(30)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 130
    assert logged in rest
    assert "Traceback" not in rest
    assert "Aborted" not in rest


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ("log", v1.TARGET_SCALE_LOG_PROBABILITY),
        ("log-probability", v1.TARGET_SCALE_LOG_PROBABILITY),
        ("probability", v1.TARGET_SCALE_PROBABILITY),
    ],
)
@pytest.mark.parametrize("command", ["explain", "surrogate", "bias"])
def test_a_scale_has_the_same_names_everywhere(
    run: Run, script: fake.Script, command: str, given: str, scale: int
) -> None:
    arguments = {
        "explain": ["hello"],
        "surrogate": ["-"],
        "bias": ["The {} said", "--group", "a=b", "--group", "c=d"],
    }[command]
    output(run(command, *arguments, "--scale", given, "--no-wait", input="one\ntwo\n"))
    request = script.requests["CreateExplanation"][0]
    asked = request.study if request.HasField("study") else request.spec
    assert asked.target.scale == scale
    refused = run(command, *arguments, "--scale", "decibel", input="one\ntwo\n")
    assert refused.exit_code == 2
    assert "'decibel' is none of log-probability, probability" in refused.stderr


def test_a_connection_that_tls_prevents_is_told_with_its_cause(authority: Authority, tmp_path: Path) -> None:
    pair = [(authority.server.key.read_bytes(), authority.server.certificate.read_bytes())]
    tls = grpc.ssl_server_credentials(pair)
    mutual = grpc.ssl_server_credentials(pair, authority.ca.read_bytes(), require_client_auth=True)
    trusting = ["--ca", str(authority.ca)]
    stranger = ["--certificate", str(authority.stranger.certificate), str(authority.stranger.key)]
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    cases = [
        (None, ["--tls"], "speaks no TLS", "Leave out --tls"),
        (tls, [], "closed the connection", "--tls, or by --ca"),
        (tls, ["--tls"], "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "--ca or GLOSS_CA"),
        (tls, ["--ca", str(nonsense)], "PEM files cannot be used", "--ca and --certificate"),
        (mutual, trusting, "closed the connection", "may want a certificate"),
        (mutual, [*trusting, *stranger], "closed the connection", "may not trust this client's certificate"),
    ]
    for secured, options, what, advice in cases:
        with fake.serve(credentials=secured) as (address, _):
            result = CliRunner().invoke(main, ["models", "--address", address, *options])
        assert result.exit_code == 1
        first, second = result.stderr.splitlines()
        assert what in first
        assert address in first
        assert advice in second
        assert "make up" not in result.stderr
    with fake.serve(credentials=tls) as (address, _):
        named = address.replace("127.0.0.1", "127.0.0.2")  # which is this machine, and is not in the certificate
        result = CliRunner().invoke(main, ["models", "--address", named, *trusting])
    assert "its certificate is for another name" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("options", "what", "advice"),
    [
        (["--tls"], "speaks no TLS", "Leave out --tls"),
        (["--ca", __file__], "this client's PEM files cannot be used", "Look at --ca"),
    ],
)
def test_only_our_own_lines_say_that_tls_failed(options: list[str], what: str, advice: str) -> None:
    with fake.serve() as (address, _):
        arguments = [sys.executable, "-m", "gloss", "models", *options, "--address", address]
        env = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        ended = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    first, second = ended.stderr.splitlines()
    assert what in first
    assert advice in second


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--key", "a\nb"], "printable ASCII"),
        (["--key", "é"], "printable ASCII"),
        (["--key", "\udcff"], "printable ASCII"),
        (["--address", "\udcff:1"], "is not valid Unicode"),
        (["--timeout", "nan"], "a timeout is a number of seconds"),
    ],
)
def test_a_connection_that_cannot_be_is_refused_in_a_line(options: list[str], what: str) -> None:
    result = CliRunner().invoke(main, ["models", *options])
    assert result.exit_code == 2
    assert what in result.stderr


@pytest.mark.parametrize(
    "arguments", [["tokenize", "-"], ["surrogate", "-"], ["cite", "--context", "-", "--question", "Why?"]]
)
def test_standard_input_that_is_closed_is_no_text(arguments: list[str]) -> None:
    ended = _without(0, arguments)
    assert ended.returncode == 2
    assert "standard input is closed" in ended.stderr


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["generate", "hello", "--json"]])
def test_standard_output_that_is_closed_gets_nothing(address: str, arguments: list[str]) -> None:
    ended = _without(1, [*arguments, "--address", address])
    assert (ended.returncode, ended.stderr) == (0, "")


def _without(descriptor: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without one of its standard files."""
    code = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", code, str(descriptor), "-m", "gloss", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_deadline_is_explained(run: Run, script: fake.Script) -> None:
    script.failures["Tokenize"].append(grpc.StatusCode.DEADLINE_EXCEEDED)
    assert "--timeout" in run("tokenize", "hello").stderr


def test_a_study_offers_only_surrogates_that_it_takes() -> None:
    [option] = [each for each in studies.surrogate.params if each.name == "surrogate"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["ridge", "decision-tree"]
