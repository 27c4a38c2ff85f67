"""What the documents ask a reader to type does what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gloss import Client, GlossError
from tests.integration.serving import serve

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: str, language: str = "") -> list[str]:
    """A document's blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_the_environment_that_make_demo_makes(path: Path) -> None:
    for block in blocks(str(path.relative_to(ROOT))):
        for line in block.splitlines():
            command = re.sub(r"^\s*(\$ )?([A-Z_]+=\S* )*", "", line)
            assert not re.match(r"(python3?|pip|gloss|pytest) ", command), line


@pytest.mark.parametrize(
    ("document", "example", "shown"),
    [
        ("README.md", 0, r"Manchester .*±"),
        ("README.md", 1, r"Manchester .*±"),
        ("docs/citations.md", 0, ""),
        ("docs/methods.md", 0, ""),
        ("docs/methods.md", 1, "men women"),
    ],
)
def test_the_examples_of_the_client_run(  # noqa: PLR0917
    document: str,
    example: int,
    shown: str,
    stack: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each in a folder with a text of the name that the page of citations has, short enough for the small model."""
    (tmp_path / "pump.txt").write_text("The handle was removed in 1854.\nSnow had a map.\n")
    monkeypatch.chdir(tmp_path)
    code = blocks(document, "python")[example]
    assert "127.0.0.1:50051" in code
    exec(compile(code.replace("127.0.0.1:50051", stack), document, "exec"), {})  # noqa: S102
    assert re.search(shown, capsys.readouterr().out)


def test_every_example_of_the_client_is_run() -> None:
    """How many each document has; the test above runs them."""
    counts = {path.name: len(blocks(str(path.relative_to(ROOT)), "python")) for path in DOCUMENTS}
    held = {name: count for name, count in counts.items() if count}
    assert held == {"README.md": 2, "citations.md": 1, "methods.md": 2}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_recipe_for_certificates_serves_both_kinds_of_tls(tiny_gpt2: Path, tmp_path: Path) -> None:
    (recipe,) = [block for block in blocks("docs/operations.md") if "openssl" in block]
    subprocess.run(["bash", "-euc", recipe], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    made = tmp_path / "certificates"
    tls = {"tls_certificate": made / "server.pem", "tls_key": made / "server.key"}
    own = (made / "client.pem", made / "client.key")
    with serve([tiny_gpt2], **tls) as served, Client(f"localhost:{served.server.port}", ca=made / "ca.pem") as client:
        assert client.next_token("A word").predictions
    with serve([tiny_gpt2], **tls, tls_client_ca=made / "ca.pem") as served:
        address = f"127.0.0.1:{served.server.port}"
        with Client(address, ca=made / "ca.pem", certificate=own) as client:
            assert client.next_token("A word").predictions
        with Client(address, ca=made / "ca.pem", timeout=5) as client, pytest.raises(GlossError):
            client.next_token("A word")
