"""What the documents point at is there: files, folders, headings, and the modules that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "ml/pretrained").rglob("*.md")])
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings; equal ones are counted."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        shown = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, times in found.items() for number in range(times)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_are_named_exist(document: Path) -> None:
    named = re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|lua|proto|yml|yaml))`", document.read_text(encoding="utf-8"))
    within = [ROOT, ROOT / "ml/explain"]  # the packages of the explainers are also named from there
    assert not [name for name in named if "NAME" not in name and not any((root / name).exists() for root in within)]


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), {ROOT / "README.md"}
    while waiting:
        document = waiting.pop()
        reached.add(document)
        for target in LINK.findall(document.read_text(encoding="utf-8")):
            file = (document.parent / target.partition("#")[0]).resolve()
            if file.suffix == ".md" and file.is_file() and file not in reached:
                waiting.add(file)
    assert {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")} <= reached
