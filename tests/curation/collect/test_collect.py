"""A corpus from files as people keep them: formats, archives, licences, and what cannot be read."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile

import pytest

from configs.errors import UserError
from curation.cli import main
from curation.collect import archives
from curation.collect.collect import collect
from curation.collect.convert import kind_of, to_markdown
from curation.corpus.finding import find_shards
from curation.corpus.shards import read_shard

try:
    import pypandoc

    pypandoc.get_pandoc_path()
except (ImportError, OSError):
    if not shutil.which("pandoc"):
        pytest.skip("pandoc is not installed", allow_module_level=True)

PAGE = """<html><head><title>Window</title></head><body><div class="navheader"><a href="x">Previous</a></div>
<h1>Weather&nbsp;stations</h1><div class="toc">Contents</div><p>A station measures <a href="w">wind</a>.</p>
<div class="sidebar"><p>Rain is measured too.</p></div><pre>read  --wind</pre>
<table><tr><th>sign</th><th colspan='2'>force</th></tr>
<tr><td><p>gale</p> <p>8 [force]</p></td><td>none</td></tr></table>
<table><tr><td><p>Laid out</p></td></tr></table><footer>Imprint</footer></body></html>"""
MAN = ".TH VANE 1\n.SH NAME\nvane \\- shows the wind\n.SH OPTIONS\n.TP\n.B \\-v\nprints more\n"
MDOC = ".Dd May 1, 2020\n.Dt GAUGE 8\n.Os\n.Sh NAME\n.Nm gauge\n.Nd measures rain\n"
RST = "Rain\n====\n\nIt falls.\n\n.. include:: /etc/passwd\n\n.. code:: python\n\n   x = 1\n"
PROSE = "The keeper of the light house wrote down the weather every morning for thirty years.\n"
COPYRIGHT = "Format: x\n\nFiles: *\nCopyright: nobody\nLicense: CC-BY-SA-3.0\n\nFiles: debian/*\nLicense: GPL-2\n"


def rows_of(folder) -> dict[str, dict]:
    """The rows of all shards, by the path in their source."""
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return {row["path"]: row for row in rows}


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 86_400 * 365
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(files, "w:xz")}
    packed = b"!<arch>\n"
    for name, data in parts.items():
        packed += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return packed


def test_headings_code_and_tables_stay_and_what_surrounds_a_page_goes():
    kind, text = to_markdown("html", PAGE.encode())
    assert kind == "html" and text.startswith("# Weather stations\n\nA station measures wind.\n\nRain is measured too.")
    assert "    read  --wind" in text and "| sign" in text
    assert "| gale 8 [force] | none" in text and text.endswith("\n\nLaid out")
    assert not [word for word in ("Previous", "Contents", "Imprint", "Window") if word in text]
    assert to_markdown("plain", MAN.encode()) == (
        "man",
        "# NAME\n\nvane - shows the wind\n\n# OPTIONS\n\n**-v**  \nprints more",
    )
    kind, text = to_markdown("plain", MDOC.encode())
    assert kind == "man" and "# NAME" in text and "measures rain" in text
    kind, text = to_markdown("rst", RST.encode())
    assert text.startswith("# Rain\n\nIt falls.") and "x = 1" in text and "root:" not in text


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("html", b"", "empty"),
        ("html", b"<html><body><nav>Home</nav></body></html>", "empty"),
        ("plain", b"\0\1\2" * 30, "text of no known encoding|zero bytes"),
        ("plain", b"#!/bin/sh\necho the weather is fine today and tomorrow\n", "no prose"),
        ("plain", b"0.1 0.2 0.3\n" * 9, "no prose"),
        ("docx", b"no archive", "pandoc"),
        ("markdown", b"  \n", "empty"),
    ],
)
def test_what_holds_no_text_says_why(kind, data, reason):
    with pytest.raises(ValueError, match=reason):
        to_markdown(kind, data)


def test_texts_in_older_encodings_are_read():
    assert to_markdown("plain", ("Größe und Übermaß des Gewässers " * 9).encode("latin-1"))[1].startswith("Größe und Ü")
    assert to_markdown("plain", ("天気予報は毎朝新聞に書かれている。" * 9).encode("euc-jp"))[1].startswith("天気予報")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b.HTML", "html"), ("man1/ls.1.gz", "plain"), ("README.Debian", "plain"), ("GPL-2", "plain"),
        ("x.rst", "rst"),
        ("changelog.Debian.gz", None), ("CHANGES.rst", None), ("x.py", None), ("copyright", None),
        ("x.png", None),
    ],
)  # fmt: skip
def test_names_tell_what_is_a_document(path, kind):
    assert kind_of(path) == kind


def test_folders_and_packages_become_shards_that_curate_reads(tmp_path, capsys):
    source = tmp_path / "in"
    (source / "doc/_sources").mkdir(parents=True)
    (source / "doc/page.html").write_text(PAGE)
    (source / "doc/copyright").write_text(COPYRIGHT)
    (source / "doc/_sources/page.rst").write_text(RST)
    (source / "doc/run-test-output").mkdir()
    (source / "doc/run-test-output/page.html").write_text(PAGE)
    (source / "notes.txt").write_text(PROSE * 3)
    (source / "link.txt").symlink_to("notes.txt")
    os.utime(source / "doc/page.html", (0, 86_400))
    vane, gauge = "usr/share/man/man1/vane.1.gz", "usr/share/doc/gauge/gauge.md"
    package = {f"./{vane}": gzip.compress(MAN.encode()), f"./{gauge}": b"# Gauge\n\nIt measures rain.\n"}
    (source / "p.deb").write_bytes(deb_of(package | {"./usr/share/doc/gauge/copyright": COPYRIGHT.encode()}))
    metadata = b"Metadata-Version: 2.4\nName: p\nLicense-Expression: MIT\n"
    (tmp_path / "p-1.tar.gz").write_bytes(tar_of({"p-1/PKG-INFO": metadata, "p-1/docs/rain.rst": RST.encode()}))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("z/read.md", "Setext\n======\n\nWords.\n")
    call = [source, tmp_path / "p-1.tar.gz", tmp_path / "z.zip", "--output", tmp_path / "out", "--licence", "cc0-1.0"]
    assert main(["collect", *map(str, call)]) == 0
    assert "6 documents" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    told = {path: (row["title"], row["licence"], row["format"]) for path, row in rows.items()}
    assert told == {
        "doc/page.html": ("Weather stations", "cc-by-sa-3.0", "html"),
        "notes.txt": ("notes", "cc0-1.0", "plain"),
        vane: ("vane(1)", "cc-by-sa-3.0", "man"),
        gauge: ("Gauge", "cc-by-sa-3.0", "markdown"),
        "p-1/docs/rain.rst": ("Rain", "mit", "rst"),
        "z/read.md": ("Setext", "cc0-1.0", "markdown"),
    }
    assert rows["doc/page.html"]["date"] == "1970-01-02" and rows[vane]["date"] == "1971-01-01"
    assert rows["notes.txt"]["language"] == "en"
    shards = find_shards([str(tmp_path / "out")])
    assert sum(1 for shard in shards for _ in read_shard(shard)) == 6


def test_a_second_call_reads_only_what_changed_and_gives_the_same_bytes(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar.gz").write_bytes(
            tar_of({f"{name}/{n}.md": f"# {name} {n}".encode() for n in range(9)})
        )
    sources, out = [tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"], tmp_path / "out"
    collect(sources, out, limit=4)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(rows_of(out)) == 8
    (out / "b.tar.gz.jsonl").unlink()
    read = []
    monkeypatch.setattr(
        "curation.collect.collect.members", lambda source: read.append(source) or archives.members(source)
    )
    collect(sources, out, limit=4)
    assert set(read) == {tmp_path / "b.tar.gz"} and first == {path.name: path.read_bytes() for path in out.iterdir()}
    collect(sources[:1], out, limit=4)
    assert sorted(path.name for path in out.iterdir()) == ["a.tar.gz.jsonl", "collected.json"]


def test_what_is_broken_is_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 10_000)
    whole = tar_of({f"p/{n}.md": os.urandom(300).hex().encode() for n in range(40)} | {"p/big.md": b"x" * 10_001})
    (tmp_path / "whole.tar.gz").write_bytes(whole)
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "not.deb").write_bytes(b"<html>404</html>")
    (tmp_path / "not.zip").write_bytes(b"PK nothing")
    (tmp_path / "bomb.1.gz").write_bytes(gzip.compress(bytes(20_000)))
    (tmp_path / "half.1.gz").write_bytes(gzip.compress(MAN.encode())[:-20])
    report = json.loads(collect([tmp_path], tmp_path / "out").read_text())
    refused = {record["source"].rpartition("/")[2]: record["refused"] for record in report["sources"]}
    named = {record["source"].rpartition("/")[2]: record["named"] for record in report["sources"]}
    assert refused["whole.tar.gz"] == {"larger than 0 MB": 1} and named["whole.tar.gz"] == {
        "larger than 0 MB": ["p/big.md"]
    }
    for name in ("torn.tar.gz", "not.deb", "not.zip"):
        assert any(reason.startswith("the source cannot be read on") for reason in refused[name]), refused
    assert {name for names in named[tmp_path.name].values() for name in names} == {"bomb.1.gz", "half.1.gz"}
    assert len(rows_of(tmp_path / "out")) >= 40
    # What lies before the break is kept.
    assert 0 < next(r["documents"] for r in report["sources"] if r["source"].endswith("torn.tar.gz")) < 40


def test_each_package_of_an_archive_has_its_own_licence(tmp_path):
    head = "Metadata-Version: 2.1\nLicense: UNKNOWN\n"
    files = {"a/PKG-INFO": f"{head}Classifier: License :: OSI Approved :: MIT License\n", "a/docs/x.md": "# X",
             "a/b/PKG-INFO": "Metadata-Version: 2.1\nLicense: Apache-2.0\n", "a/b/y.md": "# Y",
             "c/PKG-INFO": head, "c/z.md": "# Z"}  # fmt: skip
    (tmp_path / "p.tar.gz").write_bytes(tar_of({name: text.encode() for name, text in files.items()}))
    collect([tmp_path / "p.tar.gz"], tmp_path / "out", licence="cc0-1.0")
    told = {path: row["licence"] for path, row in rows_of(tmp_path / "out").items()}
    assert told == {"a/docs/x.md": "mit", "a/b/y.md": "apache-2.0", "c/z.md": "cc0-1.0"}


def test_a_licence_that_a_package_refers_to_for_a_part_is_not_that_of_all(tmp_path):
    refers = "It is free. See /usr/share/common-licenses/GPL-2.\n"
    for name, text in ("plain", refers), ("manual", f"PSF LICENSE\nAGREEMENT, and one file:\n{refers}"):
        package = {f"./usr/share/doc/{name}/a.md": b"# A", f"./usr/share/doc/{name}/copyright": text.encode()}
        (tmp_path / f"{name}.deb").write_bytes(deb_of(package))
    collect(sorted(tmp_path.glob("*.deb")), tmp_path / "out")
    told = {path.split("/")[3]: row.get("licence") for path, row in rows_of(tmp_path / "out").items()}
    assert told == {"plain": "gpl-2.0", "manual": None}


def test_odd_times_and_names_are_no_end(tmp_path):
    (tmp_path / "in").mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, changed in (("late.md", 1 << 60), ("fine.md", 0)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = 3, changed
            archive.addfile(entry, io.BytesIO(b"# A"))
    with open(os.fsencode(tmp_path / "in") + b"/p\xff.tar", "wb") as file:
        file.write(buffer.getvalue())
    report = json.loads(collect([tmp_path / "in"], tmp_path / "out").read_text())
    [row] = rows_of(tmp_path / "out").values()
    assert (row["path"], row["source"]) == ("fine.md", "p\\xff.tar")
    assert any("late.md" in name for names in report["sources"][1]["named"].values() for name in names)


def test_a_killed_call_remembers_what_it_did_not_reach(tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.md" for name in "abc"]
    for path in paths:
        path.write_text("# A title")
    collect(paths, tmp_path / "out")
    paths[0].write_text("# Another")

    def killed(source):
        if source == paths[1]:
            raise KeyboardInterrupt
        return archives.members(source)

    paths[1].write_text("# Another title")
    monkeypatch.setattr("curation.collect.collect.members", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(paths, tmp_path / "out")
    collect(paths[:1], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.md.jsonl", "collected.json"]


def test_a_call_that_was_killed_before_its_first_report_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "a.md"
    path.write_text("```sh\n# code\n```\n# A title")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("curation.collect.collect.write_json_lines", lambda shard, _: killed(shard.write_text("torn")))
        with pytest.raises(KeyboardInterrupt):
            collect([path], tmp_path / "out")
    assert (tmp_path / "out/a.md.jsonl").read_text() == "torn"
    collect([path], tmp_path / "out")
    assert rows_of(tmp_path / "out")["a.md"]["title"] == "A title"


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        collect([tmp_path / "gone"], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("1 2 3")
    with pytest.raises(UserError, match="holds something else"):
        collect([tmp_path / "other"], tmp_path / "other")
    with pytest.raises(UserError, match="no documents in"):
        collect([tmp_path / "other/mine.txt"], tmp_path / "out")
