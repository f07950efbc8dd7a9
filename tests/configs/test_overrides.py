"""A text that is given on the command line arrives to the letter, whatever YAML or OmegaConf would make of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from configs.load import load_config
from configs.schema.section import at_home

pytestmark = pytest.mark.wild

ECHO = Path(__file__).parents[2] / "configs/curate-echo.yaml"
# Printable, with what shells, globs, YAML, OmegaConf, URLs and markup read in their own way.
TEXTS = st.text(st.sampled_from(list("ab7 #:%@!&*?-,{}()$\\~|>'\"[]=/.\t日é\u2028\U0001f600")), min_size=1, max_size=12)
# Quotes around a text are YAML's, brackets around it make a list, and `???` is OmegaConf's word for a missing value.
# A `~` that begins a path is the home folder.
PLAIN = TEXTS.filter(
    lambda text: (
        text.strip()
        and not (text[0] in "'\"" and text[0] == text[-1])
        and text[0] != "["
        and text != "???"
        and at_home(text) == text
    )
)


def given_input(value: str) -> tuple[str, ...]:
    return load_config(ECHO, [f"curation.input={value}"]).curation.input


@given(PLAIN)
def test_a_text_is_taken_to_the_letter(text: str) -> None:
    assert given_input(text) == (text,)
    config = load_config(ECHO, [f"student.prompt_template={text}{{question}}"])
    assert config.student.prompt_template == text + "{question}"


@given(
    st.lists(PLAIN.filter(lambda text: not set(text) & set("[]{},'\"\t\u2028") and text.strip() == text), max_size=4)
)
def test_so_are_the_entries_of_a_list(texts: list[str]) -> None:
    for between in (",", " , "):
        assert given_input(f"[{between.join(texts)}]") == tuple(texts)
    quoted = ["'" + text.replace("'", "''") + "'" for text in texts]
    assert given_input(f"[{', '.join(quoted)}]") == tuple(texts)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("d/my # dir", ["d/my # dir"]),
        ("[1].jsonl", ["[1].jsonl"]),
        ("[a]/x[b]", ["[a]/x[b]"]),
        ("[a", ["[a"]),
        ("2024: x/a.jsonl", ["2024: x/a.jsonl"]),
        ("'it''s'", ["it's"]),
        ('"a\\tb"', ["a\tb"]),
        ("[x[1,2].jsonl, {a,b}.jsonl]", ["x[1,2].jsonl", "{a,b}.jsonl"]),
        ("['a, b', 2024, 1: 2]", ["a, b", "2024", "1: 2"]),
        ("[]", []),
        ("[a, b,]", ["a", "b"]),
        ("[a,\t]", ["a"]),
        ("[[1]]", ["[1]"]),
        ("[???, x]", ["???", "x"]),
        ("${oc.env:HOME}", ["${oc.env:HOME}"]),
    ],
)
def test_lists_and_quotes(value: str, expected: list[str]) -> None:
    assert given_input(value) == tuple(expected)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("curation.input=???", r"\?\?\? is no value"),
        (f"curation.input={os.fsdecode(bytes([255]))}.jsonl", "not UTF-8"),
        (f"curation.output={os.fsdecode(bytes([255]))}", "not UTF-8"),
        ("curation.output=a\0b", "no NUL"),
        ("curation.output=", "expected a path"),
        ("curation.input=[a,'',]", "no empty text"),
        ("data.train=['a\0b']", "no NUL"),
        ("student.steps=true", "another value than true or false"),
        ("data.train=a.jsonl", r"expected a list, e.g. \[a, b\]"),
    ],
)
def test_what_no_file_can_be_called_is_refused(override: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load_config(ECHO, [override])


def test_a_file_can_hold_half_a_character(tmp_path: Path) -> None:
    for setting in (r'output: "a\ud83d"', r'input: ["a\ud83d"]', r'licence: "\ud83d"'):
        path = tmp_path / "config.yaml"
        path.write_text(f"curation: {{{setting}}}\n")
        with pytest.raises(UserError, match=r"config\.yaml"):
            load_config(path)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    overrides = ["curation.output=~/out", "run.dir=~", "teacher.model=~/teacher", "student.models=[~/a, org/b]"]
    config = load_config(ECHO, overrides)
    assert (config.curation.output, config.run.dir) == (Path("/home/ann/out"), Path("/home/ann"))
    assert (config.teacher.model, config.student.models) == ("/home/ann/teacher", ("/home/ann/a", "org/b"))
    overrides = [
        "data.train=[~/a.jsonl, b~.jsonl]", "teacher.strategies=[~/a.txt, cloze+~/b.txt]",
        "curation.strategies={~/a.txt: 2}", "reward.benchmarks=[file:~/q.jsonl, lm-eval:~/t.yaml]",
        "reward.credit=shard", "reward.retention_texts=~/r.jsonl",
        "evaluation.arms=[file:~/r.jsonl, trained:~/run, strategy:~/a.txt]", "validity.target_file=~/t.jsonl",
    ]  # fmt: skip
    config = load_config(ECHO, overrides)
    assert config.data.train == ("/home/ann/a.jsonl", "b~.jsonl")
    assert config.teacher.strategies == ("/home/ann/a.txt", "cloze+/home/ann/b.txt")
    assert config.curation.strategies == {"/home/ann/a.txt": 2}
    assert config.reward.benchmarks == ("file:/home/ann/q.jsonl", "lm-eval:/home/ann/t.yaml")
    assert config.evaluation.arms == ("file:/home/ann/r.jsonl", "trained:/home/ann/run", "strategy:/home/ann/a.txt")
    assert config.reward.retention_texts == Path("/home/ann/r.jsonl")
    assert config.validity.target_file == Path("/home/ann/t.jsonl")
    # What has no such home is a name like any other.
    config = load_config(ECHO, ["curation.output=~nobody-of-that-name/x"])
    assert config.curation.output == Path("~nobody-of-that-name/x")
