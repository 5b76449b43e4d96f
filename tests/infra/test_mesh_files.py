import gzip
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.artifacts import ArtifactError
from infra.mesh_files import read_counts, read_mesh, scorer
from infra.settings import Mesh as MeshSettings
from infra.settings import SettingsError
from infra.settings_file import load
from streams.mesh import Descriptor, MeshError

EXPECTED = (
    Descriptor("D013285", "Strabismus", ("C10.292.562.887", "C11.590.810")),
    Descriptor("D015835", "Ocular Motility Disorders", ("C10.292.562", "C11.590")),
    Descriptor("D005260", "Female"),
    Descriptor("D000080343", "Sjögren's Ωmega", ("C05.550",)),
)

TABLE = """\
D013285\tStrabismus\tSquint|Phorias\tC10.292.562.887|C11.590.810\t
D015835\tOcular Motility Disorders\tEye Movement Disorders\tC10.292.562|C11.590\t
D005260\tFemale\tFemales\t\t
D000080343\tSjögren's Ωmega\t\tC05.550\t9606
"""

ASCII = """\
*NEWRECORD
RECTYPE = D
MH = Strabismus
AQ = BL CF
ENTRY = Squint|T047|NON|EQV|NLM (1966)|990101|abbcdef
MN = C10.292.562.887
MN = C11.590.810
MS = Misalignment of the visual axes. MH = no heading.
UI = D013285

*NEWRECORD
RECTYPE = D
MH = Ocular Motility Disorders
MN = C10.292.562
MN = C11.590
UI = D015835

*NEWRECORD
RECTYPE = Q
SH = blood
UI = Q000097

*NEWRECORD
RECTYPE = D
MH = Female
UI = D005260

*NEWRECORD
RECTYPE = D
MH = Sjögren's Ωmega
MN = C05.550
UI = D000080343
"""


def xml_record(descriptor: Descriptor) -> str:
    numbers = "".join(f"<TreeNumber>{n}</TreeNumber>" for n in descriptor.tree_numbers)
    listed = f"<TreeNumberList>{numbers}</TreeNumberList>" if numbers else ""
    # As in NLM's file, other descriptors are named within a record.
    return f"""
 <DescriptorRecord DescriptorClass="1">
  <DescriptorUI>{descriptor.ui}</DescriptorUI>
  <DescriptorName><String>{descriptor.name}</String></DescriptorName>
  <SeeRelatedList><SeeRelatedDescriptor><DescriptorReferredTo>
   <DescriptorUI>D999999</DescriptorUI><DescriptorName><String>Other</String></DescriptorName>
  </DescriptorReferredTo></SeeRelatedDescriptor></SeeRelatedList>
  {listed}
  <ConceptList><Concept><ConceptName><String>Else</String></ConceptName></Concept></ConceptList>
 </DescriptorRecord>"""


XML = f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE DescriptorRecordSet SYSTEM "nowhere/nlmdescriptorrecordset_20240101.dtd">
<DescriptorRecordSet LanguageCode = "eng">{"".join(map(xml_record, EXPECTED))}
</DescriptorRecordSet>
"""


@pytest.mark.parametrize("text", [TABLE, ASCII, XML], ids=["table", "ascii", "xml"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_every_format_gives_the_same_edition(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / "mesh"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    mesh = read_mesh(path, "2024")
    assert mesh.descriptors == EXPECTED
    assert mesh.edition == "2024"


def test_windows_line_ends(tmp_path: Path) -> None:
    for text in (TABLE, ASCII):
        path = tmp_path / "mesh"
        path.write_bytes(text.replace("\n", "\r\n").encode())
        assert read_mesh(path, "2024").descriptors == EXPECTED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "{path}: no descriptors"),
        (b"D000001\tOne\t\tA01\nD000002\tTwo\n", "{path}:2: expected NLM's XML or ASCII, or tab-"),
        (b"D000001\tOne\t\tA1\n", "{path}:1: descriptor D000001: tree number 'A1': expected one"),
        (b"D000001\tOne\t\tA01\nX1\tTwo\t\t\n", "{path}:2: descriptor UI 'X1': expected D and"),
        (b"D000001\tOne\t\tA01\nD000002\tOne\t\t\n", "{path}: descriptors D000001 (One) and"),
        (b"D000001\t\xff\t\tA01\n", "{path}:1: not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "{path}:1: not UTF-8"),
        (b"*NEWRECORD\nRECTYPE = D\nMH = One\n", "{path}:1: descriptor UI '': expected D and"),
        (b"*NEWRECORD\nRECTYPE = D\nUI = D000001\n", "{path}:1: descriptor D000001: the name is"),
        (b"<DescriptorRecordSet/>", "{path}: no descriptors"),
        (b"<html><body>Not found</body></html>", "{path}: no descriptors"),
        (XML.encode()[:900], "{path}: not well-formed XML: "),
        (
            b"<DescriptorRecordSet>\n<DescriptorRecord><DescriptorUI>D1</DescriptorUI>"
            b"</DescriptorRecord></DescriptorRecordSet>",
            "{path}:2: descriptor UI 'D1': expected D and",
        ),
        (gzip.compress(TABLE.encode(), mtime=0)[:60], "{path}: cannot be read: "),
        (gzip.compress(XML.encode(), mtime=0)[:200], "{path}: cannot be read: "),
        (b"\x1f\x8bnot gzip", "{path}: cannot be read: "),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "mesh"
    path.write_bytes(data)
    with pytest.raises(MeshError) as caught:
        read_mesh(path, "2024")
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="cannot be read: No such file or directory"):
        read_mesh(tmp_path / "desc2024.xml", "2024")
    with pytest.raises(MeshError, match="cannot be read: Is a directory"):
        read_mesh(tmp_path, "2024")


def test_entities_are_not_resolved(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("C01.777")
    path = tmp_path / "mesh"
    path.write_text(
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}">]><DescriptorRecordSet>'
        "<DescriptorRecord><DescriptorUI>D000001</DescriptorUI><DescriptorName><String>One"
        "</String></DescriptorName><TreeNumberList><TreeNumber>&e;</TreeNumber></TreeNumberList>"
        "</DescriptorRecord></DescriptorRecordSet>"
    )
    assert read_mesh(path, "2024").descriptors == (Descriptor("D000001", "One"),)


@given(st.binary(max_size=200))
@example(b"<\x00")
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    message = ""
    try:
        read_mesh(path, "2024")
    except MeshError as error:
        message = str(error)
    assert not message or (message.startswith(str(path)) and "\n" not in message)


def test_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text("D013285\t12\nD005260\t0\n")
    assert read_counts(path) == {"D013285": 12, "D005260": 0}


@pytest.mark.parametrize(
    "line", ["D013285 12", "D013285\t-1", "D013285\t1.5", "D013285", "\xff\t?"]
)
def test_a_damaged_count_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text(f"D005260\t3\n{line}\n")
    with pytest.raises(
        MeshError, match=r"counts\.tsv:2: expected a descriptor UI, a tab and a count"
    ):
        read_counts(path)


def test_the_scorer_is_what_the_settings_name(tmp_path: Path) -> None:
    table, counts = tmp_path / "mesh.tsv", tmp_path / "counts.tsv"
    table.write_text(TABLE)
    counts.write_text("D013285\t12\n")
    made = scorer(
        MeshSettings(
            edition="2031", source=str(table), frequency="corpus", terms="set", counts=counts
        )
    )
    assert (made.edition, made.frequency, made.terms) == ("2031", "corpus", "set")
    assert made.pair("D013285", "D013285") == 1.0


def test_a_scorer_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    table, counts = tmp_path / "mesh.tsv", tmp_path / "counts.tsv"
    table.write_text(TABLE)
    counts.write_text("D999999\t12\n")
    with pytest.raises(MeshError, match=r"mesh\.frequency = 'corpus': no annotation count is of"):
        scorer(MeshSettings(source=str(table), frequency="corpus", counts=counts))
    with pytest.raises(ArtifactError, match="pypi://nothing"):
        scorer(MeshSettings(source="pypi://nothing"))


def test_corpus_needs_counts(tmp_path: Path) -> None:
    path = tmp_path / "kailin.toml"
    path.write_text('[mesh]\nfrequency = "corpus"\n')
    with pytest.raises(SettingsError, match="frequency corpus needs counts"):
        load(path)
