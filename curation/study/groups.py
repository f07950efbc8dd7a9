"""Documents with the texts that students may learn: brought in a file, told by the lab, written by the teacher, or made
by rule; and the controls of these."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from datatrove.data import Document

from configs.errors import UserError, nearest
from configs.schema import Config
from configs.seeds import stable_seed
from curation.console.progress import say
from curation.corpus.training_data import read_asked
from curation.lab import world
from student.plans import Planned, TaughtText
from student.records import group_of
from teacher.gates.checks import build_gates
from teacher.prompting.plans import check_plans
from teacher.prompting.strategies import brought_names, check_strategy, prompts_of, spread
from teacher.ready.brought import brought_texts, check_brought
from teacher.records import Rewrite
from teacher.reward.student_runs import heldout_items
from teacher.sampling import Sampling, kept_rewrites, sample_rewrites
from teacher.writers.no_model import load_writer

LAB = "lab"


RAW = "raw"
FOREIGN = "foreign:"
"""Begins an arm whose texts are about another document."""


class Candidate(NamedTuple):
    """One text that a document's students may learn. A control is measured too, but is no rewrite."""

    strategy: str
    text: TaughtText
    control: bool = False
    place: int | None = None
    """Its place among the document's own `rewrites`, where these brought it."""


@dataclass(frozen=True, slots=True)
class Group:
    """A document with its candidates."""

    document: Document
    candidates: tuple[Candidate, ...]

    @property
    def rewrites(self) -> list[int]:
        """Positions of the candidates that are no control."""
        return [g for g, candidate in enumerate(self.candidates) if not candidate.control]


def read_groups(
    config: Config, source: str | None, documents: int, rewrites: int | None, *, evenly: bool = False
) -> list[Group]:
    """The first `documents` documents of `source` with at most `rewrites` rewrites each.

    `source` is a file of documents with questions (null: `data.train`), or `lab`: fictional people whom no student has
    read of, described by each of `teacher.strategies` (else each of the lab's strategies) in turn. Where a document has
    `rewrites`, the first are measured, with `raw` (its own text) as a control; where it has none, or where
    `teacher.strategies` names ready texts, they are sampled as in training. With `evenly` those that documents bring
    are measured, evenly spaced in a longer list, and documents that bring fewer are left out. Questions that are
    missing are written as for training. Raises UserError.
    """
    if source == LAB:
        return _lab_groups(config, documents, rewrites)
    patterns, titles = (config.data.train, config.data.titles) if source is None else ((source,), None)
    read = read_asked(config, patterns, documents, titles)
    if evenly and any(document.metadata.get("rewrites") for document in read):
        # Some of the first may bring too few; those that bring none are left out.
        read = [d for d in read_asked(config, patterns, None, titles) if d.metadata.get("rewrites")]
    strategies = config.teacher.strategies
    sampled = not evenly and not all(prompts_of(name) == (name,) for name in strategies)
    with_rewrites = [document for document in read if document.metadata.get("rewrites")]
    if with_rewrites and not sampled:
        if len(with_rewrites) < len(read):
            raise UserError(f"{source or 'data.train'}: some documents have `rewrites` and some have none")
        groups = [_group_with_rewrites(document, rewrites, evenly) for document in read]
        enough = [group for group in groups if not evenly or len(group.rewrites) >= (rewrites or 2)]
        if not enough:
            raise UserError(f"{source or 'data.train'}: no document brings {rewrites or 2} rewrites")
        return enough[:documents]
    check_brought(brought_names(strategies), read)
    for strategy in strategies if config.teacher.prompting == "strategy" else ():
        check_strategy(strategy)
    items, number = heldout_items(config, (), unasked=read), rewrites or config.rl.group_size

    def write() -> list[list[Rewrite]]:
        writer = load_writer(config.teacher)
        gates = build_gates(config.gates, config.teacher, writer.tokenizer, items, config.student.prompt_template)
        sampling = Sampling(rewrites=number, seed=stable_seed(config.run.seed, "reliability"))
        return sample_rewrites(writer, read, sampling, gates)

    path, groups = config.run.dir / "study" / "texts", []
    more = {"rewrites": number, "prompt_template": config.student.prompt_template}
    for document, written in zip(read, kept_rewrites(path, config, read, strategies, items, more, write), strict=True):
        # Rewrites that a gate refuses train nobody.
        candidates = [Candidate(rewrite.strategy, rewrite.taught) for rewrite in written if rewrite.rejected is None]
        groups.append(Group(document, (*candidates, Candidate(RAW, document.text, control=True))))
    return groups


def comparable(groups: Sequence[Group], asked: Callable[[Document], bool], questions: str) -> list[Group]:
    """Those whose document is `asked` something, and with two rewrites; of the others is said how many there are, and
    that they have no `questions`."""
    with_questions = [group for group in groups if asked(group.document)]
    kept = [group for group in with_questions if len(group.rewrites) >= 2]
    left_out = {questions: len(groups) - len(with_questions), "two rewrites": len(with_questions) - len(kept)}
    for missing, count in left_out.items():
        if count:
            say(f"{count} documents without {missing} are left out")
    return kept


def check_alone(groups: Sequence[Group], sizes: Iterable[int], advice: str) -> None:
    """Raises UserError with the `advice` where a plan would share one of the `sizes` of documents a student."""
    if max(sizes, default=1) > 1 and any(isinstance(c.text, Planned) for group in groups for c in group.candidates):
        raise UserError(f"a plan is how one student learns one document, and shares none: {advice}")


def _lab_groups(config: Config, documents: int, rewrites: int | None) -> list[Group]:
    lab = config.lab
    set_in_config = "strategies" in config.teacher.model_fields_set
    strategies: tuple[str, ...] = config.teacher.strategies if set_in_config else world.STRATEGIES
    for name in strategies:
        if name not in world.STRATEGIES:
            raise UserError(f"teacher.strategies: the lab tells no {name!r}: {nearest(name, list(world.STRATEGIES))}")
    strangers = lab.base_people + lab.train_people + lab.heldout_people + lab.curate_people
    groups = []
    for number, person in enumerate(world.make_people(lab.seed, strangers, documents)):
        row = world.document(person, f"stranger-{number}")
        rng = random.Random(stable_seed(config.run.seed, "lab", row["id"]))
        of_candidates = spread(strategies, rewrites or max(2, len(strategies)))
        candidates = tuple(Candidate(name, world.rewrite(name, person, rng)) for name in of_candidates)
        groups.append(Group(Document(row["text"], row["id"], metadata={"questions": row["questions"]}), candidates))
    return groups


def _group_with_rewrites(document: Document, rewrites: int | None, evenly: bool) -> Group:
    brought = enumerate(brought_texts(document))
    candidates = [Candidate(one.strategy, one.text, place=place) for place, one in brought]
    if rewrites is not None and rewrites < len(candidates):
        kept = [i * len(candidates) // rewrites for i in range(rewrites)] if evenly else range(rewrites)
        candidates = [candidates[i] for i in kept]
    return Group(document, (*candidates, Candidate(RAW, document.text, control=True)))


def read_arms(config: Config) -> list[Group]:
    """The first `search.documents` documents that have a text of every arm, with these texts. Raises UserError."""
    search = config.search
    names = list(dict.fromkeys(arm.removeprefix(FOREIGN) for arm in search.arms))
    for name in names:
        check_strategy(name, "search.arms")
    read = read_asked(config, config.data.train, config.data.limit, config.data.titles)
    check_brought(brought_names(names), read, "search.arms")
    check_plans(config.teacher, names, read, "search.arms")
    writer = load_writer(config.teacher.model_copy(update={"prompting": "strategy", "strategies": tuple(names)}))
    sampling = Sampling(rewrites=1, seed=stable_seed(config.run.seed, "settings"))
    texts: dict[str, list[TaughtText | None]] = {}
    for name in names:
        written = sample_rewrites(writer, read, replace(sampling, strategies=(name,)), [])
        texts[name] = [None if one.rejected else one.taught for [one] in written]
    whole = [d for d in range(len(read)) if all(texts[name][d] for name in names)][: search.documents]
    if len(whole) < search.documents:
        raise UserError(
            f"search.documents={search.documents}, but {len(whole)} of {len(read)} documents of data.train have a text"
            " of every arm"
        )
    kept = {name: [of_arm[d] or "" for d in whole] for name, of_arm in texts.items()}
    documents = [read[d] for d in whole]
    others = [_other(d, documents) for d in range(len(documents))]
    return [
        Group(
            document,
            tuple(
                Candidate(arm, kept[arm.removeprefix(FOREIGN)][others[d]], control=True)
                if arm.startswith(FOREIGN)
                else Candidate(arm, kept[arm][d])
                for arm in search.arms
            ),
        )
        for d, document in enumerate(documents)
    ]


def _other(d: int, documents: Sequence[Document]) -> int:
    """The next document under another title, in a circle."""
    places = [(d + step) % len(documents) for step in range(1, len(documents))]
    own = group_of(documents[d])
    found = next((place for place in places if group_of(documents[place]) != own), None)
    if found is None:
        raise UserError("search: all documents have one title, so that no text is foreign")
    return found
