"""What a warm-up is trained and stopped on: passages apart by title from every later use, and the steps of training."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from datatrove.data import Document
from transformers import PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Config
from configs.seeds import stable_seed
from curation.console.progress import say
from curation.corpus.passages import Cutter
from curation.corpus.training_data import read_documents
from student.engine.schedule import Step
from student.records import Benchmark, Question, Segment, group_of, words_of
from student.text.sentences import split_sentences

Format = Literal["mixed", "questions"]

BLOCK_PASSAGES = 16
STEPS_OF_A_KIND = 2
"""Steps of reading a block, and steps of answering its questions."""

PROBE_SHARE = 0.2
"""Share of the titles that the probe is about. Titles are its clusters, so that it takes many rather than much."""
MOST_PROBE_TITLES = 64
PROBE_QUESTIONS = 200
"""Most questions of the probe: an evaluation costs about as much as 2,000 tokens of training."""


class Split(NamedTuple):
    """The documents of a warm-up. No title and no text is in two of the three places."""

    training: list[Document]
    probe: list[Document]
    """Those whose questions say when to stop."""
    left_out: Counter[str]
    """How many there are beside these, by reason."""


def used_later(config: Config) -> list[Document]:
    """The documents that the teacher is trained and judged on, and those with questions that it is to curate, of the
    files that are there by now."""
    data, curation, asked = config.data, config.curation, not config.questions.asked_kinds
    cut = Cutter(config).cut
    documents = []
    for files, limit, titles in (
        (data.train, data.limit, data.titles),
        (data.heldout, data.heldout_limit, data.heldout_titles),
    ):
        if files:
            documents += read_documents(files, limit, cut=cut, titles=titles, optional=True, questions_needed=asked)
    if curation.input:
        own = (curation.output, config.run.dir)
        try:
            documents += read_documents(curation.input, cut=cut, optional=True, limit_each=curation.limit, own=own)
        except UserError as error:
            say(f"warning: nothing of curation.input is left out of the passages: {error}")
    return documents


def split_by_title(documents: Sequence[Document], later: Sequence[Document], seed: int) -> Split:
    """Leaves out the documents whose title or text is one of `later`, and texts that come again; deals the titles of
    the others to probe and training. Raises UserError where too few are left."""
    later_groups, seen = {group_of(document) for document in later}, {words_of(document) for document in later}
    later_texts = frozenset(seen)
    left_out: Counter[str] = Counter()
    groups: dict[Hashable, list[Document]] = {}
    for document in documents:
        text, group = words_of(document), group_of(document)
        if text in later_texts:
            left_out["text used later"] += 1
        elif group in later_groups:
            left_out["title used later"] += 1
        elif text in seen:
            left_out["text that came before"] += 1
        else:
            groups.setdefault(group, []).append(document)
        seen.add(text)
    if len(groups) < 4:
        counts = ", ".join(f"{count} with a {reason}" for reason, count in left_out.items())
        raise UserError(
            f"the warm-up needs passages under 4 titles or more (at least two to train on and two for the held-out"
            f" curve), there are {len(groups)} of {len(documents)} passages; left out: {counts or 'none'}"
        )
    names = list(groups)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(stable_seed("warm-up split", seed)))
    shuffled = [names[i] for i in order.tolist()]
    count = min(MOST_PROBE_TITLES, max(2, round(PROBE_SHARE * len(names))))
    probe, training = ([d for name in part for d in groups[name]] for part in (shuffled[:count], shuffled[count:]))
    return Split(training, probe, left_out)


class Asked(NamedTuple):
    """Questions, with the cluster that each belongs to."""

    questions: tuple[Question, ...]
    clusters: list[Hashable]


def questions_about(documents: Sequence[Document], benchmark: Benchmark, limit: int) -> Asked:
    """At most so many questions, as many about each title as about any other, where it has them."""
    of_group: dict[Hashable, dict[Question, None]] = {}
    for document in documents:
        for question in benchmark.exam(document).questions:
            of_group.setdefault(group_of(document), {})[question] = None
    lists = {group: list(questions) for group, questions in of_group.items()}
    pairs = [
        (questions[n], group)
        for n in range(max(map(len, lists.values()), default=0))
        for group, questions in lists.items()
        if n < len(questions)
    ][:limit]
    return Asked(tuple(question for question, _ in pairs), [group for _, group in pairs])


def blocks_of(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    benchmark: Benchmark,
    form: Format,
    max_tokens: int,
    seed: int,
) -> Iterator[list[Step]]:
    """Endless blocks of `BLOCK_PASSAGES` passages, all of them before any comes again; each is a list of steps.

    In the form `mixed` these are two steps of reading all passages and two of answering all questions about them with
    nothing else in sight. Physics of Language Models 3.1 (arXiv 2309.14316) trains on biographies and questions in
    the same batches; here a question follows its passage by at most four steps, since small training forgets a passage
    sooner. Reading comes first: what is asked was just read, so that answering is recalling. Questions first (arXiv
    2402.12847) is the order between the warm-up as a whole and the lessons after it. A passage never stands before its
    own question in one text: then the answer is copied from there, and nothing has to be remembered (contextual
    shadowing, arXiv 2505.01812). The form `questions` leaves the reading out.
    """
    read: dict[int, list[str]] = {}
    asked: dict[int, list[tuple[Segment, ...]]] = {}
    generator = torch.Generator().manual_seed(stable_seed("warm-up order", seed))
    size = min(BLOCK_PASSAGES, len(documents))
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(len(documents), generator=generator).tolist()
        block, waiting = waiting[:size], waiting[size:]
        for number in block:
            if number not in asked:
                read[number] = reading_texts(tokenizer, documents[number].text, max_tokens)
                questions = benchmark.exam(documents[number]).questions
                asked[number] = [(Segment("prompt", q.prompt), Segment("answer", f" {q.answer}")) for q in questions]
        reading = Step(tuple(text for number in block for text in read[number]), "all")
        answering = Step(tuple(text for number in block for text in asked[number]), "answer")
        yield [reading] * (STEPS_OF_A_KIND if form == "mixed" else 0) + [answering] * STEPS_OF_A_KIND


def reading_texts(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> list[str]:
    """The passage, or as few runs of its sentences as there can be of `max_tokens` tokens. A longer sentence stays
    whole, and the engine cuts it."""

    def fits(part: str) -> bool:
        # One for the end of the text, one for the opening of tokenizers that have one.
        return len(tokenizer(part, add_special_tokens=False)["input_ids"]) + 2 <= max_tokens

    if fits(text):
        return [text]
    parts: list[str] = []
    for sentence in split_sentences(text):
        longer = f"{parts[-1]} {sentence}" if parts else sentence
        if parts and not fits(longer):
            parts.append(sentence)
        else:
            parts[-1:] = [longer]
    return parts
