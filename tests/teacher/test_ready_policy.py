"""A teacher that chooses among ready texts: what it samples, what it learns, and that it learns to choose the best."""

import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import UserError
from configs.files import read_json_lines
from teacher.algorithms import dpo, rest_em
from teacher.algorithms.trainers import token_ids
from teacher.gates.checks import build_gates
from teacher.sampling import Sampling, sample_rewrites
from teacher.training.loop import train_teacher
from teacher.writers.local import load_teacher
from teacher.writers.opening import AfterTag, TagChoice, completion_pattern
from tests.teacher.killing import same

READY = ("sentences", "brought:gold", "brought:dust")


@pytest.fixture(scope="session")
def chooser_folder(teacher_folder, tmp_path_factory):
    """The random teacher, with tags of ready strategies and of one that it writes. It hardly ever writes a tag."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    tokenizer.add_tokens([f"<{name}>" for name in (*READY, "sentences+copy", "cloze", "echo")])
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path_factory.mktemp("chooser")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chooser_config(make_config, chooser_folder):
    def make(run_dir=None, strategies=READY, teacher=(), **sections):
        settings = {"model": str(chooser_folder), "strategies": strategies, **dict(teacher)}
        return make_config(run_dir, teacher=settings, **sections)

    return make


@pytest.fixture
def bringing(make_documents):
    """Documents that bring a text from which students learn, and one from which they do not."""

    def make(count, prefix="shop"):
        documents = make_documents(count, prefix)
        for number, document in enumerate(documents):
            document.metadata["rewrites"] = [
                {"strategy": "gold", "text": f"in the shop {number % 10} gold gold gold"},
                {"strategy": "dust", "text": f"in the shop {number % 10} dust snow moss"},
            ]
        return documents

    return make


def sample(config, documents, n=8, gated=True, **sampling):
    writer = load_teacher(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer) if gated else []
    return writer, sample_rewrites(writer, documents, Sampling(rewrites=n, seed=0, **sampling), gates)


def test_every_completion_is_a_tag_and_the_text_is_the_documents(chooser_config, bringing):
    documents = bringing(6)
    writer, groups = sample(chooser_config(), documents)
    rewrites = [rewrite for group in groups for rewrite in group]
    assert {rewrite.strategy for rewrite in rewrites} == set(READY)
    for rewrite in rewrites:
        assert rewrite.completion == f"<{rewrite.strategy}>" and not rewrite.ended and rewrite.rejected is None
        prompt_ids, completion_ids = token_ids(writer, rewrite)
        assert completion_ids == [writer.tokenizer.convert_tokens_to_ids(rewrite.completion)], "no end is learnt"
        assert prompt_ids == writer.tokenizer(rewrite.prompt)["input_ids"]
    texts = {(rewrite.document_id, rewrite.strategy): rewrite.text for rewrite in rewrites}
    for document in documents:
        of_document = {strategy: text for (id, strategy), text in texts.items() if id == document.id}
        brought = {f"brought:{entry['strategy']}": entry["text"] for entry in document.metadata["rewrites"]}
        assert all(text == (brought | {"sentences": document.text})[name] for name, text in of_document.items())


def test_the_choice_has_the_teachers_own_odds_among_the_tags(chooser_config, bringing):
    [document] = bringing(1)
    writer, [group] = sample(chooser_config(teacher={"batch_size": 500}), [document], 2000)
    ids = torch.tensor([writer.tokenizer(group[0].prompt)["input_ids"]])
    tags = [writer.tokenizer.convert_tokens_to_ids(f"<{name}>") for name in READY]
    with torch.no_grad():
        odds = writer.model(ids).logits[0, -1, tags].softmax(-1)
    counts = Counter(rewrite.strategy for rewrite in group)
    for name, expected in zip(READY, odds.tolist(), strict=True):
        assert counts[name] / 2000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)


def test_written_strategies_go_on_behind_their_tag(chooser_config, bringing):
    strategies = ("sentences", "copy", "brought:gold")
    for dealt in (False, True):
        _, groups = sample(chooser_config(strategies=strategies), bringing(6), gated=False, explore=float(dealt))
        for rewrite in (rewrite for group in groups for rewrite in group):
            tag = f"<{rewrite.strategy}>"
            assert rewrite.completion.startswith(tag)
            if rewrite.strategy == "copy":
                assert rewrite.text == rewrite.completion.removeprefix(tag).strip()
            else:
                assert rewrite.completion == tag


def test_a_joined_strategy_puts_the_ready_part_beside_the_written_one(chooser_config, bringing):
    documents = bringing(4)
    _, groups = sample(chooser_config(strategies=("sentences+copy", "brought:gold")), documents, gated=False)
    joined = [(d, r) for d, group in zip(documents, groups, strict=True) for r in group if "+" in r.strategy]
    assert joined
    for document, rewrite in joined:
        written = rewrite.completion.removeprefix("<sentences+copy>")
        assert rewrite.text == f"{document.text}\n{written.strip()}"


def test_tags_that_begin_alike_part_where_they_differ():
    """Tokens 1 2 3 and 1 4 are tags: each row may go on with what makes one of them, and is free behind it."""
    rows = torch.tensor([[9, 9], [9, 9], [9, 9]])

    def allowed(new_BT):
        ids_BT = torch.cat([rows, torch.tensor(new_BT, dtype=torch.long)], dim=1)
        scores_BV = choice(ids_BT, torch.zeros(3, 6))
        return [torch.isfinite(scores).nonzero().flatten().tolist() for scores in scores_BV]

    everything = list(range(6))
    choice = TagChoice([[1, 2, 3], [1, 4]], start=2, rows=[True, True, False])
    assert allowed([[], [], []]) == [[1], [1], everything]
    assert allowed([[1], [1], [5]]) == [[2, 4], [2, 4], everything]
    assert allowed([[1, 2], [1, 4], [5, 5]]) == [[3], everything, everything]
    assert allowed([[1, 2, 3], [1, 4, 5], [5, 5, 1]]) == [everything] * 3
    stop = AfterTag([[1, 4]], start=2, rows=[True, True, False])
    written = torch.tensor([[9, 9, 1, 4], [9, 9, 1, 2], [9, 9, 1, 4]])
    assert stop(written, torch.zeros(3, 6)).tolist() == [True, False, False]


def test_a_server_gets_the_same_rule_as_a_pattern():
    pattern = re.compile(completion_pattern(["<a+b>", "<c>", "<d>"], ["<a+b>", "<d>"]))
    assert all(pattern.fullmatch(text) for text in ("<a+b>", "<d>", "<c>", "<c> and\nso on"))
    assert not any(pattern.fullmatch(text) for text in ("", "<d> more", "<e>", "so <c>", "<aab>"))
    assert re.compile(completion_pattern(["<c>"], [])).fullmatch("<c> x")


def test_a_free_policy_is_sampled_as_before(make_config, bringing):
    """Without a ready strategy nothing is held to a tag."""
    writer = load_teacher(make_config().teacher)
    assert writer.tags == writer.stops == ()
    assert {rewrite.strategy for group in sample(make_config(), bringing(4))[1] for rewrite in group} != set(READY)


def test_a_tag_that_the_tokenizer_cannot_write_is_refused(chooser_config):
    with pytest.raises(UserError, match=r"reads the tag <densest> as .*chooses among tags that it knows"):
        load_teacher(chooser_config(strategies=("sentences", "densest")).teacher)


@pytest.mark.parametrize("algorithm", ["rest_em", "dpo", "grpo"])
def test_it_learns_to_choose_the_text_that_teaches(chooser_config, bringing, gold_pool, algorithm):
    rl = {"algorithm": algorithm, "rounds": 3, "documents_per_round": 12, "group_size": 8}
    rl |= {
        "learning_rate": 0.006 if algorithm == "grpo" else 0.003,
        "grpo": {"kl": 0.0},
        "dpo": {"beta": 0.1, "batch_size": 4},
        "keep": 2,
    }
    config = chooser_config(rl=rl, reward={"credit": "document", "documents_per_student": 4})
    train_teacher(config, bringing(12), bringing(4, "heldout"), lambda settings: gold_pool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "metrics.jsonl")
    shares = [line.get("strategy/brought:gold", 0.0) for line in lines if line["kind"] == "step"]
    assert shares[0] < 0.6 and shares[-1] > 0.8, shares
    arms = {line["arm"]: line for line in lines if line["kind"] == "heldout"}
    assert arms["trained"]["gain/mean"] > arms["untrained"]["gain/mean"]


def test_documents_without_the_text_are_refused_and_the_teacher_learns_to_look(chooser_config, bringing, gold_pool):
    documents = bringing(8)
    for document in documents[::2]:
        document.metadata["rewrites"] = document.metadata["rewrites"][1:]
    config = chooser_config(rl={"rounds": 1})
    train_teacher(config, documents, (), lambda settings: gold_pool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    absent = [line for line in lines if line["rejected"] == "absent"]
    assert absent and {line["strategy"] for line in absent} == {"brought:gold"}
    assert {line["document_id"] for line in absent} <= {document.id for document in documents[::2]}
    assert all(line["reward"] < 0 for line in absent)
    [step] = [line for line in read_json_lines(config.run.dir / "journal" / "metrics.jsonl") if line["kind"] == "step"]
    assert any("absent" in key for key in step)
    assert not any(line["rejected"] for line in lines if line["strategy"] == "sentences")


@pytest.mark.parametrize("algorithm", ["rest_em", "grpo"])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(chooser_config, run_and_kill, algorithm):
    kills = ["sampling=2", f"{algorithm}=1", "rename=1", "lines=2"]
    strategies = ("sentences", "cloze", "echo")
    rl = {"algorithm": algorithm, "explore": 0.5}
    whole, killed = run_and_kill(kills, chooser_config, rl=rl, strategies=strategies)
    same(whole, killed)
    assert {line["strategy"] for line in whole[1] if line["arm"] == "train"} == set(strategies)
    assert whole[2].keys() == {"teacher/checkpoint-0001", "teacher/checkpoint-0002"}


@pytest.mark.parametrize("algorithm", ["rest_em", "dpo"])
def test_a_mixture_is_spread_and_what_nobody_wrote_is_not_learnt(
    chooser_config, bringing, gold_pool, tmp_path, algorithm, monkeypatch
):
    """Under `strategy` prompting ready texts are taught and compared with, and no update sees them."""
    own = tmp_path / "own.txt"
    own.write_text("gold {document} gold")
    config = chooser_config(
        strategies=("brought:dust", str(own), f"sentences+{own}", "sentences"),
        teacher={"prompting": "strategy", "temperature": 2.0},
        gates={"truncated": False},
        rl={"rounds": 1, "algorithm": algorithm, "group_size": 8, "keep": 4},
    )
    learnt = []
    module = {"rest_em": rest_em, "dpo": dpo}[algorithm]

    def noted(writer, rewrite):
        learnt.append(rewrite)
        return token_ids(writer, rewrite)

    monkeypatch.setattr(module, "token_ids", noted)
    train_teacher(config, bringing(8), (), lambda settings: gold_pool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    assert Counter(line["strategy"] for line in lines) == dict.fromkeys(
        ("brought:dust", "own", "sentences+own", "sentences"), 16
    )
    assert {rewrite.strategy for rewrite in learnt} <= {"own", "sentences+own"}
    assert learnt and all(rewrite.prompt.startswith("gold in the shop") for rewrite in learnt)
    joined = [line["text"] for line in lines if line["strategy"] == "sentences+own"]
    assert all(text.startswith("in the shop") and "\n" in text for text in joined)


def test_grpo_refuses_what_it_cannot_compare(chooser_config, bringing, gold_pool):
    config = chooser_config(
        rl={"algorithm": "grpo"}, teacher={"prompting": "strategy"}, strategies=("sentences", "faq")
    )
    with pytest.raises(UserError, match="compares rewrites of one prompt, and ready strategies have none"):
        train_teacher(config, bringing(4), (), lambda settings: gold_pool(), lambda line: None)
    config = chooser_config(teacher={"prompting": "strategy"}, strategies=("sentences",))
    with pytest.raises(UserError, match="all ready, so there is nothing to train"):
        train_teacher(config, bringing(4), (), lambda settings: gold_pool(), lambda line: None)
