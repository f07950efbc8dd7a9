"""Every verb that reads files meets broken kinds of them: an eighth of all pairs, half of these in the fast suite.

Each kind meets three readers or more, and each reader 13 kinds or more."""

import pytest

from tests.curation.wild.broken_files import NO_ROWS, PLACES, SHAPES, put
from tests.curation.wild.world import complaint

pytestmark = [pytest.mark.wild, pytest.mark.timeout(120)]

READERS = {
    "train": "train e.yaml data.train=[{}]",
    "train, heldout": "train e.yaml data.heldout=[{}]",
    "warm-up": "warm-up e.yaml --model student --data {} --output new --tokens 200",
    "warm-up, later": "warm-up e.yaml --model student --data train.jsonl --output new --tokens 200 data.train=[{}]",
    "init": "init new --data {} --teacher teacher --student student",
    "evaluate": "evaluate e.yaml data.heldout=[{}]",
    "evaluate, file": "evaluate e.yaml evaluation.arms=[none,raw,'file:{}']",
    "evaluate, benchmark": "evaluate e.yaml evaluation.benchmarks=[file:{}]",
    "evaluate, texts": "evaluate e.yaml evaluation.benchmarks=[text:{}]",
    "evaluate, retention": "evaluate e.yaml evaluation.retention_texts={}",
    "curate": "curate e.yaml curation.input=[{}] curation.writer=echo",
    "curate, benchmark": "curate e.yaml curation.benchmarks=[file:{}] curation.writer=echo",
    "curate, heldout": "curate e.yaml data.heldout=[{}] curation.writer=echo",
    "preview": "preview e.yaml curation.input=[{}] curation.writer=echo",
    "plan": "plan e.yaml curation.input=[{}] curation.writer=echo data.train=[]",
    "plan, train": "plan e.yaml data.train=[{}] curation.input=[]",
    "doctor": "doctor e.yaml data.train=[{}]",
    "score": "score {} --config e.yaml --output out.jsonl",
    "reliability": "reliability e.yaml --source {} --documents 2 --repeats 2 --rewrites 2",
    "validity": "validity e.yaml --source {}",
    "validity, target": "validity e.yaml validity.target_file={}",
    "reward benchmark": "train e.yaml reward.credit=shard reward.benchmarks=[file:{}]",
    "retention": "train e.yaml reward.retention_texts={} reward.retention_weight=1",
    "strategy": "curate e.yaml teacher.prompting=strategy teacher.strategies=[{}]",
    "questions": "train e.yaml data.train=[bare.jsonl] questions.model=teacher questions.file={}",
    "bench student": "bench student --model student --students 1 --steps 1 --repeats 1 --questions 0 --lessons {}",
    "bench injections": "bench injections e.yaml --gates --rewrites {}",
}
MISTAKES_OF_OTHERS = (
    "4 titles",
    "validity.target_field",
    "validity needs",
    "strategies",
    "reliability",
    "data.",
    "rewrites",
)
"""What a call may complain of as well, where a file of three documents is too few for it."""

UNNAMED = {
    ("curate, heldout", "empty"),
    ("curate, heldout", "Parquet without rows"),
    ("warm-up, later", "blank lines"),
    ("questions", "empty"),
    ("questions", "long number"),
    ("questions", "missing"),
    ("doctor", "a name that is too long"),
    ("strategy", "a name with a line break"),
    ("curate", "license number"),
    ("plan", "license number"),
}
"""Pairs that end without a traceback, but in no line that names the file: an empty file that is read without a word, or
an error that speaks of something else."""


def marks(number: int, reader: str, kind: str) -> list[pytest.MarkDecorator]:
    slow = [] if number % 16 == 0 else [pytest.mark.slow]
    return [*slow, pytest.mark.xfail(reason="no line names the file")] if (reader, kind) in UNNAMED else slow


PAIRS = [
    pytest.param(reader, kind, marks=marks(r + k, reader, kind), id=f"{reader}-{kind}")
    for k, kind in enumerate([*NO_ROWS, *PLACES, *SHAPES])
    for r, reader in enumerate(READERS)
    if (r + k) % 8 == 0 or (reader, kind) in UNNAMED
]


@pytest.mark.parametrize(("reader", "kind"), PAIRS)
def test_files(reader, kind, world, capfd):
    path = put(world, kind)
    arguments = [part.format(path.relative_to(world)) for part in READERS[reader].split(" ")]
    says = (path.name, *(MISTAKES_OF_OTHERS if kind in SHAPES else ()))
    # A field of another shape may be one that nobody asks for, and a file for questions one that is not there yet.
    quiet = kind in SHAPES or reader in ("questions", "doctor", "bench student")
    assert not (wrong := complaint(capfd, arguments, says, passes=() if quiet else (path.name,))), wrong
