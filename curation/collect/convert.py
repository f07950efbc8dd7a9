"""What a file is, and its text as Markdown with its headings, so that a splitter can cut it where its sections end.

pandoc converts (https://pandoc.org, in its sandbox: it opens no file that a document includes); Markdown and plain text
stay as they are.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import PurePosixPath

import charset_normalizer
from lxml import etree, html

from configs.errors import UserError
from student.text.headings import find_headings

KINDS = {
    "html": "html", "htm": "html", "xhtml": "html", "md": "markdown", "markdown": "markdown", "rst": "rst",
    "txt": "plain", "text": "plain", "docx": "docx", "odt": "odt", "epub": "epub", "org": "org", "ipynb": "ipynb",
}  # fmt: skip
"""Kinds of documents by suffix. `man` is known by its first line."""
_CODE_OR_ESCAPE = re.compile(r"(```.*?```|`[^`\n]*`|^    [^\n]*$)|\\([\[\]<>$~])", re.M | re.S)
_IN_CELLS = "p div ul ol li dl dt dd blockquote br".split()
BINARY = ("docx", "odt", "epub")
NO_PROSE = frozenset(
    "authors buildinfo changelog changes copying copyright credits contributors history install license licence "
    "makefile maintainers manifest news pkg-info releases release-notes requirements thanks todo version".split()
)
"""First parts of names whose files are lists of changes and names, or a licence again and again."""
_ROFF = re.compile(rb"\s*(?:['.]\\\"|\.(?:TH|Dd|so|de|ds|nr|if|ie|ig)\b)")
LETTERS = 0.85
"""Least share of letters and spaces in plain text: licences and books have 0.92 to 0.97, tables 0.5 to 0.84."""
_MDOC = re.compile(rb"^\.(?:Dd|Sh) ", re.M)
_SECTION = re.compile(r"[0-9][a-z0-9]*|[nlp]")
_FRAME = "script style nav footer aside form img svg button noscript".split()
_FRAME_NAMES = frozenset(
    "banner breadcrumb breadcrumbs docnav footer headerlink indexterm navbar navfooter navheader navpath navigation "
    "related sphinxsidebar toc toctree-wrapper".split()
)
"""Classes and ids of what stands around a page's text, as DocBook, Sphinx, Doxygen and Texinfo write them. `sidebar` is
none: DocBook's are text."""
SECONDS = 300.0
"""A page takes pandoc a tenth of a second; what stands still so long never ends."""


def kind_of(path: str) -> str | None:
    """The kind of the document with this name, None for what is none. Names tell but for manual pages, which have their
    section as a suffix, and for files without one: both are `plain` until their first bytes are seen."""
    name = PurePosixPath(path).name.lower().removesuffix(".gz")
    stem, _, suffix = name.rpartition(".")
    if (stem or name).split(".")[0] in NO_PROSE or name.startswith(("genindex", "py-modindex")):
        return None
    if suffix in KINDS and stem:
        return KINDS[suffix]
    return "plain" if not stem or name.startswith("readme") or _SECTION.fullmatch(suffix) else None


def decoded(data: bytes) -> str:
    """Text as UTF-8, else in the encoding that its bytes make likely. Raises ValueError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(data).best()
    if best is None or "\0" in str(best):
        raise ValueError("text of no known encoding")
    return str(best)


def to_markdown(kind: str, data: bytes) -> tuple[str, str]:
    """The document's kind, now that its content is known, and its text. Raises ValueError with the reason where it has
    none or cannot be converted."""
    content = data if kind in BINARY else decoded(data).replace("\r\n", "\n").encode()
    if b"\0" in content and kind not in BINARY:
        raise ValueError("no text: it holds zero bytes")
    if kind == "plain" and _ROFF.match(content):
        kind = "man"
    if kind == "html":
        text = _pandoc("html", _inside(content))
    elif kind == "man":
        text = _pandoc("mdoc" if _MDOC.search(content) else "man", content)
    else:
        text = content.decode() if kind in ("markdown", "plain") else _pandoc(kind, content)
    # Spaces that do not break are layout, and would make words of their own.
    text = re.sub(r"\n{3,}", "\n\n", text.replace("\xa0", " ").replace("&nbsp;", " ")).strip("\n").rstrip()
    if not text.strip():
        raise ValueError("empty")
    if kind == "plain" and (text.startswith("#!") or _letters(text) < LETTERS):
        raise ValueError("no prose: code, tables or lists of names")
    return kind, text


def _letters(text: str) -> float:
    return sum(char.isalpha() or char.isspace() for char in text) / len(text)


def title_of(kind: str, path: str, text: str) -> str:
    """The first heading; of plain text its first line where that is short, of a manual page `name(section)`."""
    stem, _, suffix = PurePosixPath(path).name.removesuffix(".gz").rpartition(".")
    if kind == "man":
        return f"{stem}({suffix})"
    heading = None if kind == "plain" else next(find_headings(text), None)
    first = text.strip().partition("\n")[0].strip()
    title = heading.title if heading else first if len(first) <= 80 else stem or suffix
    return re.sub(r"[*`\\]", "", title).strip()[:200] or stem


@cache
def pandoc() -> str:
    """The program. Raises UserError where there is none."""
    if path := shutil.which("pandoc"):
        return path
    try:
        import pypandoc

        return pypandoc.get_pandoc_path()
    except (ImportError, OSError):
        raise UserError(
            "collecting needs pandoc: `pip install notewright[collect]`, or your system's package"
        ) from None


@cache
def pandoc_version() -> str:
    """`pandoc 3.9`. Raises UserError."""
    return subprocess.run([pandoc(), "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def _inside(page: bytes) -> bytes:
    """A page's text without what stands around it, its links and its pictures."""
    try:
        tree = html.document_fromstring(page, parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, ValueError):
        raise ValueError("empty") from None
    for element in list(tree.iter(etree.Element)):
        names = f"{element.get('class', '')} {element.get('id', '')}".lower().split()
        framing = element.get("role") == "navigation" or not _FRAME_NAMES.isdisjoint(names)
        if (element.tag in _FRAME or framing) and element.getparent() is not None and element.tag != "body":
            element.drop_tree()
    body = tree.find(".//body")
    body = tree if body is None else body
    size = len(body.text_content())
    for main in body.xpath(".//main | .//*[@role='main'] | .//article"):
        if 2 * len(main.text_content()) >= size:
            body = main
            break
    etree.strip_tags(body, "a", "span", "font")
    for table in list(body.iter("table")):
        _flatten(table)
    return b"<html><body>" + etree.tostring(body, encoding="utf-8", method="html") + b"</body></html>"


def _flatten(table: etree._Element) -> None:
    """Makes a table one of plain cells, which Markdown has: pandoc would leave nothing of any other. One that only lays
    out the page becomes what its cells hold."""
    rows = [sum(bool(cell.text_content().strip()) for cell in row.iter("td", "th")) for row in table.iter("tr")]
    # Of a table with one full cell a row the others hold the picture of a note, or nothing.
    if table.find(".//table") is not None or table.find(".//pre") is not None or max(rows, default=0) < 2:
        for cell in table.iter("td", "th"):
            cell.tag = "div"
        etree.strip_tags(table, "tr", "tbody", "thead", "tfoot", "caption")
        table.tag = "div"
        return
    for cell in table.iter("td", "th"):
        etree.strip_tags(cell, *_IN_CELLS)
        for name in ("colspan", "rowspan"):
            cell.attrib.pop(name, None)


def _pandoc(kind: str, content: bytes) -> str:
    command = [pandoc(), "--sandbox", "-f", kind, "-t", "gfm-raw_html", "--wrap=none", "+RTS", "-M2G", "-RTS"]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError("pandoc does not end") from None
    if done.returncode:
        why = " ".join(done.stderr.decode(errors="replace").split())
        raise ValueError(f"pandoc cannot read it: {why[:200] or done.returncode}")
    # Escapes that readers of the text do not need, and breaks of lines that stand alone.
    text = re.sub(r"^\\\n", "", done.stdout.decode(), flags=re.M)
    return _CODE_OR_ESCAPE.sub(lambda found: found[1] or found[2], text)
