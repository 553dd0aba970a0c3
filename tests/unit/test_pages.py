"""The pages lead to what is there: links, anchors, and the files that commands name."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRONT_DOOR = ROOT / "README.md"
HISTORY = ROOT / "CHANGELOG.md"  # it names what is no longer there
HIDDEN = {".venv", ".snakemake", "resources", "results", "logs", "benchmarks"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in HIDDEN for part in path.relative_to(ROOT).parts)
)
LONGEST = 180  # lines of the front door
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^()\s]+)\)")
OF_REPOSITORY = re.compile(r"(?<![\w./-])(?:workflow|tests|envs)/[\w./-]+")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose_of(page), re.M):
        shown = LINK.sub("]", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" if number else slug for number in range(len(anchors) + 1))
        anchors.add(next(anchor for anchor in numbered if anchor not in anchors))
    return anchors


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or to no heading."""
    broken = []
    prose = re.sub(r"`[^`\n]*`", "", prose_of(page))
    for link in LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


def commands_of(page: Path) -> str:
    """Return the blocks of commands of a page."""
    return "\n".join(
        block for language, block in FENCE.findall(page.read_text("utf-8")) if language == "bash"
    )


def test_all_pages_are_checked():
    guides = (ROOT / "workflow" / "README.md", ROOT / "workflow" / "studies" / "README.md")
    assert {FRONT_DOOR, HISTORY, *guides} <= set(PAGES)


@every_page
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_files_of_the_repository_that_a_page_names_are_there(page):
    text = prose_of(page) + commands_of(page)
    named = {name.rstrip("./") for name in OF_REPOSITORY.findall(text)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_front_door_is_short():
    assert len(FRONT_DOOR.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("marker", ["run command", "test command"])
def test_the_front_door_marks_its_commands(marker):
    blocks = re.findall(rf"<!-- {marker} -->\n```bash\n.+\n```\n", FRONT_DOOR.read_text("utf-8"))
    assert len(blocks) == 1


@every_page
def test_images_are_light_and_say_what_they_show(page):
    for said, path in re.findall(r"!\[(.*?)\]\((.+?)\)", prose_of(page)):
        assert said
        assert (page.parent / path).stat().st_size < 200_000


def test_what_is_broken_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A *title*, it's `code`\n\n## Twice\n\n## Twice\n\n[a](#a-title-its-code) [b](#twice-1) "
        "[c](#twice-2) [d](page.md#twice) [e](other.md) [f](https://example.org/x) `[g](gone)`\n\n"
        "```bash\n# no heading [h](gone)\n```\n![i](gone.png)\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["#twice-2", "other.md", "gone.png"]
