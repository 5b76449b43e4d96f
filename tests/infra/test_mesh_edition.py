"""Another edition of MeSH put in use while the service runs."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumers.score import score
from fakes.records import contexts, passage, retrieval, source
from infra import mesh_edition, mesh_use
from infra.mesh_edition import ScorerInUse
from infra.settings import Settings
from streams.mesh import MeshError

OLD = "D000001\tAspirin\t\tD02.100\t\nD000002\tPlatelets\t\tA11.100\t\nD000003\tBlood\t\tA11\t\n"
# One more than before, one moved, one that is gone.
NEW = "D000001\tAspirin\t\tD02.200\t\nD000002\tPlatelets\t\tA11.100\t\nD000004\tStatins\t\tD03\t\n"

XML = """<?xml version="1.0"?>
<!DOCTYPE DescriptorRecordSet SYSTEM
 "https://www.nlm.nih.gov/databases/dtd/nlmdescriptorrecordset_{year}0101.dtd">
<DescriptorRecordSet LanguageCode="eng">
 <DescriptorRecord>
  <DescriptorUI>D000001</DescriptorUI>
  <DescriptorName><String>Aspirin</String></DescriptorName>
 </DescriptorRecord>
</DescriptorRecordSet>
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    old = tmp_path / "old.tsv"
    old.write_text(OLD)
    return Settings(data=tmp_path / "data", mesh={"edition": "2024", "source": str(old)})


def use(settings: Settings, path: Path, edition: str | None = None, **how: Any) -> str:
    """The exit status and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    status = mesh_use.use(settings, path, edition, force=how.get("force", False), console=console)
    return f"[{status}] {console.file.getvalue()}"  # type: ignore[attr-defined]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_a_choice_the_settings_say_it(settings):
    assert mesh_edition.current(settings) == settings.mesh
    assert mesh_edition.stamp(settings) is None


def test_a_choice_tells_how_it_differs_and_is_kept_under_data(settings, tmp_path):
    text = use(settings, written(tmp_path / "new.tsv", NEW), "2025", force=True)
    assert text.startswith("[0] against MeSH 2024 (3 descriptors):")
    assert "1 added: D000004 Statins" in text
    assert "1 removed: D000003 Blood" in text
    assert "1 moved: D000001 Aspirin" in text
    assert "MeSH 2025 is in use" in text
    (tmp_path / "new.tsv").unlink()
    now = mesh_edition.current(settings)
    assert now.edition == "2025"
    assert Path(now.source).read_text() == NEW
    assert now.frequency == settings.mesh.frequency


def test_each_switch_has_another_stamp(settings, tmp_path):
    stamps = set()
    for edition, text in (("2024", OLD), ("2025", NEW), ("2024", OLD)):
        use(settings, written(tmp_path / "some.tsv", text), edition, force=True)
        stamps.add(mesh_edition.stamp(settings))
    assert len(stamps) == 3


@pytest.mark.parametrize(
    ("name", "year", "edition"),
    [
        ("desc2025.xml", "2025", "2025"),
        ("mesh.xml", "2026", "2026"),
    ],
)
def test_nlms_files_say_which_edition_they_are(settings, tmp_path, name, year, edition):
    path = written(tmp_path / name, XML.format(year=year))
    assert use(settings, path, force=True).startswith("[0]")
    assert mesh_edition.current(settings).edition == edition


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("desc2025.xml", XML.format(year="2024"), "named as the edition of 2025 and written as"),
        ("new.tsv", NEW, "does not say which edition of MeSH it is: give --edition NAME"),
        ("notes.txt", "nothing of MeSH\n", "expected NLM's XML or ASCII"),
        ("page.xml", "<html></html>", "no descriptors"),
        ("cut.xml", XML.format(year="2025")[:300], "not well-formed XML"),
    ],
)
def test_a_wrong_file_is_one_line_and_changes_nothing(settings, tmp_path, name, text, said):
    printed = use(settings, written(tmp_path / name, text))
    assert printed.startswith("[1] ")
    assert said in printed
    assert printed.count("\n") == 1
    assert mesh_edition.chosen(settings) is None


def test_a_name_that_is_no_file_name_is_refused(settings, tmp_path):
    printed = use(settings, written(tmp_path / "new.tsv", NEW), "../2025")
    assert "--edition '../2025': expected" in printed
    assert mesh_edition.chosen(settings) is None


def test_a_file_that_lacks_much_of_the_edition_in_use_is_refused_unless_forced(settings, tmp_path):
    part = written(tmp_path / "part.tsv", "".join(OLD.splitlines(keepends=True)[:1]))
    assert "lacks 2 descriptors of the edition in use" in use(settings, part, "2025")
    assert mesh_edition.chosen(settings) is None
    assert use(settings, part, "2025", force=True).startswith("[0]")


def test_an_edition_in_use_that_cannot_be_read_can_be_replaced(settings, tmp_path):
    Path(settings.mesh.source).unlink()
    printed = use(settings, written(tmp_path / "new.tsv", NEW), "2025")
    assert printed.startswith("[0] not compared")
    assert mesh_edition.current(settings).edition == "2025"


def test_a_choice_that_was_tampered_with_is_one_line(settings, tmp_path):
    use(settings, written(tmp_path / "new.tsv", NEW), "2025", force=True)
    written(mesh_edition.directory(settings) / "edition.json", "{}")
    with pytest.raises(MeshError, match=r"edition\.json: .*choose again"):
        mesh_edition.current(settings)


async def test_a_running_scorer_goes_over_without_mixing_editions(settings, tmp_path, monkeypatch):
    """Records are scored all the while: each row is of one edition, and the new one comes."""
    monkeypatch.setattr(mesh_edition, "LOOK_EVERY", 0.01)
    in_use = ScorerInUse(settings)
    record = contexts(
        source=source(mesh=("D000001",)),
        retrievals=(retrieval(passages=(passage(mesh=("D000001",)),)),) * 2,
    )

    async def rows(many: int) -> list[tuple[str, tuple[float | None, ...]]]:
        made = []
        for _ in range(many):
            scored = score(record, await in_use.get())
            made.append((scored.edition, tuple(a.score for a in scored.alignments)))
            await asyncio.sleep(0.001)
        return made

    working = [asyncio.create_task(rows(300)) for _ in range(4)]
    await asyncio.sleep(0.05)
    new = written(tmp_path / "new.tsv", NEW.replace("D000001", "D000009"))
    await asyncio.to_thread(mesh_edition.choose, settings, new, "2025")
    for made in await asyncio.gather(*working):
        editions = [edition for edition, _ in made]
        assert editions[0] == "2024"
        assert editions[-1] == "2025"
        assert editions == sorted(editions)
        # The new edition does not have the record's descriptor.
        assert set(made) == {("2024", (1.0, 1.0)), ("2025", (None, None))}


async def test_a_scorer_goes_on_with_what_it_has_when_the_new_edition_cannot_be_read(
    settings, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(mesh_edition, "LOOK_EVERY", 0.0)
    in_use = ScorerInUse(settings)
    choice = mesh_edition.choose(settings, written(tmp_path / "new.tsv", NEW), "2025")
    kept = mesh_edition.directory(settings) / choice.file
    kept.rename(tmp_path / "elsewhere")
    assert (await in_use.get()).edition == "2024"
    assert (await in_use.get()).edition == "2024"
    assert caplog.text.count("goes on with MeSH 2024") == 1
    (tmp_path / "elsewhere").rename(kept)
    monkeypatch.setattr(mesh_edition, "TRY_EVERY", 0.0)
    in_use._look_at = 0.0
    assert (await in_use.get()).edition == "2025"
