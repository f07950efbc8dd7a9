from collections import Counter
from itertools import chain

import pytest
from datatrove.data import Document
from transformers import AutoTokenizer

from configs.schema import Config
from curation.lab.models import make_tokenizer, new_model
from curation.lab.world import STRATEGIES, make_people, raw
from teacher.algorithms.trainers import token_ids
from teacher.gates.checks import build_gates
from teacher.ready.texts import ReadyTexts
from teacher.records import Completion
from teacher.sampling import Sampling, deal, explore_share, make_rewrite, sample_rewrites
from teacher.writers.local import TransformersWriter, load_teacher

TAGS = ("copy", "question-answer", "permuted")


def sample(config, documents, n, seed=0, **options):
    writer = load_teacher(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer)
    groups = sample_rewrites(writer, documents, Sampling(rewrites=n, seed=seed, **options), gates)
    assert [len(group) for group in groups] == [n] * len(documents)
    return groups


def test_a_cut_rewrite_is_refused_where_the_config_says_so(make_config, make_documents):
    documents = make_documents(6)
    refused = list(chain(*sample(make_config(gates={"truncated": True}), documents, 8)))
    assert {rewrite.ended for rewrite in refused} == {True, False}
    assert all(rewrite.rejected == "truncated" for rewrite in refused if not rewrite.ended and rewrite.text)
    assert all(rewrite.rejected != "truncated" for rewrite in refused if rewrite.ended)
    accepted = list(chain(*sample(make_config(gates={"truncated": False}), documents, 8)))
    assert [rewrite.completion for rewrite in accepted] == [rewrite.completion for rewrite in refused]
    assert all(rewrite.rejected != "truncated" for rewrite in accepted)


def test_a_greedy_rewrite_that_does_not_end_is_refused_too(make_config, make_documents):
    config = make_config(teacher={"temperature": 0.0, "max_new_tokens": 3}, gates={"truncated": True})
    rewrites = list(chain(*sample(config, make_documents(6), 1)))
    assert all((rewrite.rejected is None) == rewrite.ended for rewrite in rewrites if rewrite.text)
    assert any(rewrite.rejected == "truncated" for rewrite in rewrites)


def test_strategy_prompting_spreads_the_strategies_and_rotates_the_first(make_config, make_documents):
    config = make_config(teacher={"prompting": "strategy", "max_new_tokens": 2})
    groups = sample(config, make_documents(3), 3)
    assert [rewrite.strategy for rewrite in groups[0]] == list(TAGS)
    assert [group[0].strategy for group in groups] == list(TAGS)


def test_exploration_falls_to_zero_in_a_straight_line():
    config = Config.model_validate({"teacher": {"prompting": "policy"}, "rl": {"explore": 0.6, "explore_rounds": 3}})
    assert [explore_share(config.rl, round) for round in (1, 2, 3, 4, 9)] == pytest.approx([0.6, 0.4, 0.2, 0.0, 0.0])


def test_dealt_strategies_are_even_over_documents_and_places():
    openings = deal(TAGS, documents=12, n=40, rewrites_per_lesson=5, explore=0.5, offset=1)
    lessons = [[tuple(row[start : start + 5]) for start in range(0, 40, 5)] for row in openings]
    assert all(len(set(lesson)) == 1 for row in lessons for lesson in row), "a lesson is dealt as a whole"
    dealt = [[lesson[0] for lesson in row if lesson[0]] for row in lessons]
    assert [len(row) for row in dealt] == [4] * 12
    assert all(len(set(row)) == 3 for row in dealt), "lessons of one document get different strategies"
    assert set(Counter(chain(*dealt)).values()) == {16}
    assert openings[0].count("<question-answer>") == 10, "the offset says which comes first"
    places = Counter(place for row in lessons for place, lesson in enumerate(row) if lesson[0])
    assert max(places.values()) - min(places.values()) <= 4


@pytest.mark.parametrize(("explore", "expected"), [(0.0, 0), (0.05, 4), (0.25, 20), (1.0, 80)])
def test_the_share_is_kept_over_documents_also_where_it_is_less_than_a_lesson(explore, expected):
    openings = deal(TAGS, documents=10, n=8, rewrites_per_lesson=1, explore=explore)
    assert sum(bool(opening) for row in openings for opening in row) == expected


def test_a_dealt_strategy_is_written_as_the_policy_would_have(make_config, make_documents):
    config = make_config(gates={"truncated": False})
    groups = sample(config, make_documents(6), 8, explore=1.0, rewrites_per_lesson=2)
    for group in groups:
        for first, second in zip(group[::2], group[1::2], strict=True):
            assert first.strategy == second.strategy in TAGS
            assert first.completion != second.completion or len(first.text.split()) < 3
            assert first.completion.startswith(f"<{first.strategy}>")
    assert Counter(rewrite.strategy for group in groups for rewrite in group) == dict.fromkeys(TAGS, 16)
    none = sample(config, make_documents(6), 8)
    assert sum(rewrite.strategy == "none" for group in none for rewrite in group) > 24, "a random teacher tags rarely"


def test_the_labs_dealt_completions_have_the_tokens_that_the_policy_would_have_sampled():
    tokenizer = make_tokenizer()
    config = Config.model_validate(
        {"teacher": {"prompting": "policy", "strategies": STRATEGIES, "max_new_tokens": 24, "batch_size": 64}}
    )
    writer = TransformersWriter(new_model(tokenizer, 0, width=16, layers=1, heads=2), tokenizer, config.teacher)
    prompts = [f"{raw(person)}\n<lesson>" for person in make_people(0, 0, 12)]
    openings = [f"<{STRATEGIES[i % len(STRATEGIES)]}>" for i in range(12)]
    prompt_ids = tokenizer(prompts)["input_ids"]
    sampled = writer.sample(prompt_ids, [writer.opening_ids(opening) for opening in openings])
    for prompt, opening, before, ids in zip(prompts, openings, prompt_ids, sampled, strict=True):
        assert ids[0] == tokenizer.convert_tokens_to_ids(opening)
        completion = writer.read(ids)
        assert isinstance(completion, Completion)
        rewrite = make_rewrite(config.teacher, ReadyTexts(Document(text="", id="a"), 0), [prompt], [completion], "", [])
        assert f"<{rewrite.strategy}>" == opening
        # Special tokens and line ends that an untrained model strews in are not in its text.
        if not {*ids[:-1]} & {0, 1, 2, 3, 4}:
            assert token_ids(writer, rewrite) == (before, ids)


def test_the_tag_of_a_chat_model_stands_behind_its_prompt(make_config, make_documents, teacher_folder, tmp_path):
    folder = tmp_path / "chat"
    writer = load_teacher(make_config().teacher)
    writer.tokenizer.chat_template = "user {{ messages[0].content }} teacher"
    writer.model.config.max_position_embeddings = 4096
    writer.model.save_pretrained(folder)
    writer.tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    config = make_config(teacher={"model": str(folder)})
    [group] = sample(config, make_documents(1), 3, explore=1.0)
    assert [rewrite.strategy for rewrite in group] == list(TAGS)
    assert all(rewrite.prompt.endswith("teacher") and "<permuted>" in rewrite.prompt for rewrite in group)
