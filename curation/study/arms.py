"""The texts of arms that need no model: what a document's students may learn, and the controls of it."""

from collections.abc import Sequence
from dataclasses import replace

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config
from configs.seeds import stable_seed
from curation.corpus.training_data import group_of, read_asked
from curation.study.groups import Candidate, Group
from teacher.prompting.strategies import brought_names, check_strategy
from teacher.ready.brought import check_brought
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.no_model import load_writer

FOREIGN = "foreign:"
"""Begins an arm whose texts are about another document."""


def read_arms(config: Config) -> list[Group]:
    """The first `search.documents` documents that have a text of every arm, with these texts. Raises UserError."""
    search = config.search
    names = list(dict.fromkeys(arm.removeprefix(FOREIGN) for arm in search.arms))
    for name in names:
        check_strategy(name, "search.arms")
    read = read_asked(config, config.data.train, config.data.limit, config.data.titles)
    check_brought(brought_names(names), read, "search.arms")
    writer = load_writer(config.teacher.model_copy(update={"prompting": "strategy", "strategies": tuple(names)}))
    sampling = Sampling(rewrites=1, seed=stable_seed(config.run.seed, "settings"))
    texts: dict[str, list[str | None]] = {}
    for name in names:
        written = sample_rewrites(writer, read, replace(sampling, strategies=(name,)), [])
        texts[name] = [None if one.rejected else one.text for [one] in written]
    whole = [d for d in range(len(read)) if all(texts[name][d] for name in names)][: search.documents]
    if len(whole) < search.documents:
        raise UserError(
            f"search.documents={search.documents}, but {len(whole)} of {len(read)} documents of data.train have a text"
            " of every arm"
        )
    kept = {name: [str(of_arm[d]) for d in whole] for name, of_arm in texts.items()}
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
