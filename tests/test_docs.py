"""The manual's Python blocks run: one namespace a page, in the order of the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def _blocks(page):
    """The code blocks of a page, moved down so that line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield "\n" * text.count("\n", 0, match.start(1)) + match.group(1)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(_blocks(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for code in _blocks(page):
        exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_between_pages(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_begins_with_the_quickstart():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert next(_blocks(ROOT / "README.md")).strip() == script.strip()
    labels = re.findall(r'print\(f?"([^"{]+):', script)
    assert len(labels) == 3
    assert all(f"{label}: " in readme for label in labels)


def test_manual_builds(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
