"""Filters in languages that are not English."""

import pytest
from datatrove.data import Document

from configs.errors import UserError
from configs.schema.curation import Curation, Filters
from curation.corpus.filters import Cleaner, Refusal
from curation.corpus.languages import SEGMENTER, Signatures
from curation.pipeline.dedup import MINHASH

pytestmark = pytest.mark.wild

PAGES = {
    "zh": "那条河曾经是两个王国的边界。他们建了一座桥！它屹立了三百年？直到洪水把它冲走。没人知道谁出的钱。",
    "ja": "川は二つの王国の国境であった。橋は三百年立っていた。洪水が来た！誰が払ったのか？誰も知らない。",
    "hi": "यह नदी दो राज्यों की सीमा थी। उन्होंने एक पुल बनाया। वह सौ साल तक खड़ा रहा। फिर बाढ़ आई। किसी को पता नहीं।",
    "ar": "كان النهر حدا بين مملكتين. بنوا جسرا من خشب. وقف مئة عام. ثم جاء الفيضان. هل يعرف أحد من دفع ثمنه؟",
    "de": "Der Fluss war die Grenze. Sie bauten eine Brücke. Sie stand lange. Dann kam die Flut. Wer hat sie bezahlt?",
}


def clean(language: str, text: str, **filters: bool) -> Refusal | None:
    with Cleaner(Curation(language=language, licence="mit", filters=Filters(**filters))) as cleaner:
        return cleaner.clean(Document(text, "a#0"))


@pytest.mark.parametrize("language", PAGES)
def test_full_stops_of_other_scripts_end_sentences(language: str) -> None:
    page = PAGES[language]
    assert clean(language, page, c4=True) is None
    assert clean(language, page[: len(page) // 3] + page[-1], c4=True) == Refusal("filter", "c4/too_few_sentences")
    document = Document(f"{page}\nMenu\n{page} lorem", "a#0")
    with Cleaner(Curation(language=language, licence="mit", filters=Filters(c4=True))) as cleaner:
        assert cleaner.clean(document) is None and document.text == page


@pytest.mark.parametrize("language", [*PAGES, "th", "ko", "km", "he", "sw"])
def test_rules_on_repetition_need_no_other_package(language: str) -> None:
    text = PAGES.get(language, "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย")
    assert clean(language, "\n".join([text] * 9), gopher_repetition=True).stage == "filter"
    assert SEGMENTER.word_tokenize(text)


def test_stop_words_are_those_of_the_language() -> None:
    german = PAGES["de"] * 4
    assert clean("de", german, gopher_quality=True) is None
    assert clean("fi", german, gopher_quality=True) in (None, Refusal("filter", "gopher_quality/enough_stop_words"))
    assert clean("de", "Zebra Quitten Jubel Vertrag Kaktus " * 12, gopher_quality=True) == Refusal(
        "filter", "gopher_quality/enough_stop_words"
    )


@pytest.mark.parametrize(
    ("language", "rule", "message"),
    [
        *[(language, "gopher_quality", "length of words") for language in ("zh", "ja", "th", "ko", "my")],
        ("eo", "gopher_quality", "stop words"),
        ("th", "c4", "ends of its sentences"),
        ("lo", "fineweb", "ends of its sentences"),
    ],
)
def test_a_filter_without_rules_is_refused_by_name(language: str, rule: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"filters\.{rule} has no rules .*={language}: .*{message}.*{rule}=false"):
        Cleaner(Curation(language=language, filters=Filters(**{rule: True})))


@pytest.mark.parametrize(
    ("language", "near"),
    [("english", "en"), ("German", "de"), ("germn", "de"), ("en-", "en"), ("xx", "en"), ("x-foo", "en"), ("", "en")],
)
def test_a_language_has_a_code(language: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"is no code or tag of a language .* did you mean '{near}'"):
        Cleaner(Curation(language=language))


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *[("tha", "th"), ("eng", "en"), ("EN", "en"), ("deu", "de"), ("ger", "de"), ("zho", "zh"), ("cmn", "zh")],
        *[("pt-BR", "pt"), ("zh-Hant", "zh"), ("zh_CN", "zh"), ("cmn-Hans-CN", "zh"), ("en-US", "en"), ("arb", "ar")],
        *[("tl", "fil"), ("iw", "he"), ("mo", "ro"), ("in", "id"), ("yue", "yue"), ("i-klingon", "tlh")],
        *[(code, code) for code in ("aa", "ae", "ii", "na", "pi", "no", "nb", "grc", "und")],
        (False, "no"),  # as YAML reads `no`
    ],
)
def test_a_language_has_one_form_in_all_its_spellings(tag: object, code: str) -> None:
    curation = Curation(language=tag, filters=Filters(languages=(tag,)))  # type: ignore[arg-type]
    assert curation.language == code and curation.filters.languages == (code,)
    assert clean(tag, "A text.") is None  # type: ignore[arg-type]


def test_rules_are_those_of_the_language_in_any_spelling() -> None:
    assert clean("deu", PAGES["de"] * 4, gopher_quality=True) == clean("de-AT", PAGES["de"] * 4, gopher_quality=True)
    assert clean("zho", PAGES["zh"], c4=True) is clean("zh-Hant", PAGES["zh"], c4=True) is None
    with pytest.raises(UserError, match="=th: it does not mark"):
        clean("tha", "x", c4=True)
    for tag in ("tl", "fil"):
        with Cleaner(Curation(licence="mit", filters=Filters(languages=(tag,), min_language_probability=0))) as cleaner:
            tagalog = (
                "Ang ilog na ito ay dating hangganan ng dalawang kaharian at walang nakakaalam kung sino ang nagbayad."
            )
            assert cleaner.clean(Document(tagalog, "a#0")) is None
            assert cleaner.clean(Document(PAGES["de"], "a#1")) == Refusal("filter", "language/de")


@pytest.mark.parametrize("language", [*PAGES, "th", "ko"])
def test_signatures_of_texts_that_differ_in_signs_are_equal(language: str, tmp_path) -> None:
    step = Signatures(str(tmp_path), MINHASH, language)
    text = PAGES.get(language, PAGES["zh"])
    same = step.get_signature(step.get_shingles(text)) == step.get_signature(step.get_shingles(f"“{text}”"))
    assert same and len(step.get_shingles(text)) > 10
