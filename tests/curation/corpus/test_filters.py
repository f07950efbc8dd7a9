"""Each step before the teacher: a document that it keeps, one that it refuses or repairs, and the reason."""

import os
import signal
import time
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.extractors.trafilatura import Trafilatura

from configs.errors import UserError
from configs.schema.curation import Curation, Filters
from curation.corpus import filters
from curation.corpus.filters import Cleaner, Refusal

PROSE = (
    "The river that runs through the old town was once the border between two kingdoms, and the people who lived on "
    "its banks had to learn to speak with both of them. They built a bridge of oak in the spring of a dry year.\n"
    "It stood for three hundred years before the flood took it. The stones of the piers can still be seen when the "
    "water is low, and children jump from one to the next with their shoes in their hands.\n"
    "Nobody knows who paid for it. The records that should have named the builder were burnt in the war, and what is "
    "left of them speaks only of nails, rope and beer.\n"
    "A new bridge was opened by the mayor in the autumn. It is made of steel, and it sings when the wind comes.\n"
)
GERMAN = (
    "Der Fluss, der durch die alte Stadt fließt, war früher die Grenze zwischen zwei Königreichen, sagen die Leute."
)
ALL = {"ftfy": True, "gopher_repetition": True, "gopher_quality": True, "c4": True, "fineweb": True, "secrets": True}


def clean(text: str, filters: dict[str, Any], **metadata: Any) -> tuple[Refusal | None, str]:
    document = Document(text, "a#0", metadata={"licence": "mit", **metadata})
    with Cleaner(Curation(filters=Filters(**filters))) as cleaner:
        return cleaner.clean(document), document.text


def test_prose_passes_every_step_unchanged() -> None:
    refusal, text = clean(PROSE, ALL | {"languages": ("en",), "pii": True})
    # C4 strips the line end at the end of the text.
    assert refusal is None and text == PROSE.strip()


@pytest.mark.parametrize(
    ("filters", "text", "reason"),
    [
        ({"gopher_quality": True}, "Too short to learn from.", "gopher_quality/short_doc"),
        ({"gopher_repetition": True}, "The same line again and again.\n" * 20, "gopher_repetition/dup_line_frac"),
        ({"c4": True}, PROSE + "Lorem ipsum dolor sit amet.", "c4/lorem_ipsum"),
        ({"c4": True}, "Home\nAbout us\nContact", "c4/too_few_sentences"),
        ({"fineweb": True}, "A list\nof short\nlines that\nend without\na stop\n" * 4, "fineweb/line_punct_ratio"),
        ({"languages": ("en",)}, GERMAN, "language/de"),
        ({"languages": ("de",)}, PROSE, "language/en"),
        ({"secrets": True}, PROSE + "key: AKIAIOSFODNN7EXAMPLE", "secrets/AWS Access Key"),
        ({"ftfy": True}, "\x00\x07\x08", "ftfy/empty"),
    ],
)
def test_a_refused_document_has_the_reason(filters: dict[str, Any], text: str, reason: str) -> None:
    assert clean(text, {})[0] is None
    assert clean(text, filters)[0] == Refusal("filter", reason)


def test_repairs() -> None:
    assert clean("sch\u00c3\u00b6n \u00e2\u20ac\u201c it is", {"ftfy": True})[1] == "schön – it is"
    masked = clean("ann@uni.edu, bob@uni.edu at 8.8.8.8 and 192.168.0.1", {"pii": True})[1]
    # The same replacement each time: another one from document to document would not survive a resume.
    assert masked == "email@example.com, email@example.com at 22.214.171.124 and 192.168.0.1"


def test_licences() -> None:
    assert clean(PROSE, {}, licence=None)[0] == Refusal("filter", "unknown_licence")
    assert clean(PROSE, {}, licence="Unknown")[0] == Refusal("filter", "unknown_licence")
    assert clean(PROSE, {}, licence=None, license="cc0-1.0")[0] is None
    with Cleaner(Curation(allow_unknown_licence=True)) as cleaner:
        assert cleaner.clean(Document(PROSE, "a#0")) is None


def test_pages_are_extracted() -> None:
    body = "".join(f"<p>{line}</p>" for line in PROSE.splitlines())
    menu = "<nav><a href='/'>Home</a> <a href='/login'>Log in</a></nav>"
    page = f"<html><body>{menu}<article>{body}</article></body></html>"
    refusal, text = clean(page, {}, html=True)
    assert refusal is None and "sings when the wind" in text and "Log in" not in text and "<p>" not in text
    assert clean("<html><body></body></html>", {}, html=True)[0] == Refusal("filter", "extract/empty")


def test_a_page_is_limited_by_the_work_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by how long a busy machine lets it wait. The pages after one that ended its process are extracted too."""

    def extract(_: Trafilatura, page: str) -> str:
        match page:
            case "waits":
                time.sleep(2)
            case "never ends":
                while True:
                    pass
            case "crashes":
                os.kill(os.getpid(), signal.SIGKILL)
        return page

    monkeypatch.setattr(filters, "PAGE_SECONDS", 1.0)
    monkeypatch.setattr(Trafilatura, "extract", extract)
    with Cleaner(Curation(allow_unknown_licence=True)) as cleaner:
        found = [cleaner.clean(Document(page, "a#0", metadata={"html": True})) for page in (
            "waits", "never ends", "crashes", "waits",
        )]  # fmt: skip
    assert [refusal and refusal.reason for refusal in found] == [None, "extract/timeout", "extract/crash", None]


def test_unknown_language() -> None:
    with pytest.raises(UserError, match=r"curation\.filters\.languages: 'english' is none of .*, de, .*, en,"):
        clean(PROSE, {"languages": ("english",)})


def test_numbers_of_sections_are_no_addresses():
    sections = "### 12.2.1. Guests\n\n#### 12.2.1.4. Xen"
    document = Document(f"{sections}\n\nAsk 8.8.8.8, or me@here.org.\n\n# 1.1.1.1 is here\n\n8.8.4.4 too", "1")
    with Cleaner(Curation(allow_unknown_licence=True, filters=Filters(pii=True))) as cleaner:
        assert cleaner.clean(document) is None
    told = "Ask 22.214.171.124, or email@example.com.\n\n# 22.214.171.124 is here\n\n22.214.171.124 too"
    assert document.text == f"{sections}\n\n{told}"
