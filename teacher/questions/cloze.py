"""Cloze questions, made by rule: a sentence of the document with a name, a number or its longest word left out.

Where the answer ends the sentence, the question is what stands before it, as in LAMA and LAMBADA (arXiv 1909.01066,
1606.06031). Else a gap stands in its place, and the question ends as the lines of the rule `cloze` do, so that the
answer comes last for a model that reads from left to right.
"""

import random
from collections import Counter

from configs.seeds import stable_seed
from student.records import Document, passage_of
from student.text.sentences import has_end, split_sentences
from student.text.words import length_in_words, words
from teacher.questions.parsing import QuestionAnswer
from teacher.ready.rules import GAP, facts, longest_word, without

LEAST_WORDS, MOST_WORDS = 3, 60
"""Of a sentence: a shorter one says too little around its gap, a longer one is mostly a table or a list."""


def cloze_questions(document: Document) -> list[QuestionAnswer]:
    """One question of each sentence that has something to ask for: first those that have a name or number, each in an
    order that is random and always the same, so that the first ones are from anywhere in the document."""
    sentences = split_sentences(document.text)
    topic = topic_of(document, sentences)
    rng = random.Random(stable_seed("cloze", document.text))
    questions: list[QuestionAnswer] = []
    others: list[QuestionAnswer] = []
    prose = [sentence for sentence in sentences if has_end(sentence)] or sentences
    for sentence in rng.sample(prose, len(prose)):
        if not LEAST_WORDS <= length_in_words(words(sentence)) <= MOST_WORDS:
            continue
        known = set(words(topic))
        options = [fact for fact in map(_bare, facts(sentence)) if known.isdisjoint(words(fact))]
        answer = rng.choice(options) if options else longest_word(sentence)
        if answer is None or (not options and sentence.startswith(answer)):  # There is ...
            continue
        if known.isdisjoint(words(answer)):
            (questions if options else others).append(QuestionAnswer(_question(sentence, answer, topic), answer))
    return questions + others


def topic_of(document: Document, sentences: list[str]) -> str:
    """What the document is about, for questions about sentences that say `he` or `it`: its title, or the outermost
    heading over a passage, or else the name in its first sentence of which it says most words, counting every time;
    empty where there is none."""
    title, passage = document.metadata.get("title"), passage_of(document)
    if not title and passage is not None and passage.headings:
        title = passage.headings[0]
    if isinstance(title, str) and title.strip():
        return " ".join(title.split())
    names = [name for name in map(_bare, facts(sentences[0] if sentences else "")) if not _has_digit(name)]
    said = Counter(words(document.text))
    return max(names, key=lambda name: sum(said[word] for word in words(name)), default="")


def _question(sentence: str, answer: str, topic: str) -> str:
    gapped = without(sentence, answer)
    before, _, after = gapped.rpartition(GAP)
    asked = f"{gapped} {GAP} ="
    if GAP not in before and not any(c.isalnum() for c in after) and len(words(before)) > 1:
        asked = before.rstrip(" \"'“‘«(").rstrip()
    return asked if not topic or topic.casefold() in sentence.casefold() else f"{topic}. {asked}"


def _bare(name: str) -> str:
    """A name without the ending of an English genitive."""
    return name.removesuffix("'s").removesuffix("’s")


def _has_digit(text: str) -> bool:
    return any(c.isdecimal() for c in text)
