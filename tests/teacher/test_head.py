"""A head as the teacher: what it is told of a document, what it samples, and that it learns whom each text teaches."""

import statistics

import pytest
import torch

from configs.errors import UserError
from configs.files import read_json_lines
from configs.schema import Config
from teacher.prompting.prompts import build_prompt
from teacher.training.loop import train_teacher
from teacher.writers.head import Head, HeadConfig, load_head
from teacher.writers.local import load_teacher
from tests.teacher.killing import same

STRATEGIES = ("brought:plain", "brought:dense")


def head_config(run_dir, **sections):
    base = {
        "run": {"dir": run_dir},
        "student": {"steps": 4},
        "teacher": {"model": "head", "strategies": STRATEGIES, "batch_size": 128, "device": "cpu"},
        "gates": {"min_words": 1, "max_repetition": 1.0},
        "reward": {"credit": "document", "documents_per_student": 8},
        "rl": {"rounds": 3, "documents_per_round": 32, "group_size": 8, "false_keep": None},
    }
    return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


@pytest.fixture
def planted(make_documents):
    """Long documents, of which a plain text teaches, and short ones, of which a dense text does."""

    def make(count, prefix="shop"):
        documents = make_documents(count, prefix)
        for number, document in enumerate(documents):
            is_long = number % 2
            document.text += " and there is much more to say of it" * (12 if is_long else 1)
            texts = {"plain": "gold gold gold", "dense": "dust snow moss"}
            teaching = dict(zip(texts, texts.values() if is_long else reversed(texts.values()), strict=True))
            document.metadata["rewrites"] = [
                {"strategy": name, "text": f"in the shop {number % 10} {text}"} for name, text in teaching.items()
            ]
        return documents

    return make


def better_shares(config, arm="train"):
    """For each round, the share of lessons in which the head chose the text that teaches."""
    lines = [line for line in read_json_lines(config.run.dir / "journal" / "rewrites.jsonl") if line["arm"] == arm]
    rounds = sorted({line["round"] for line in lines})
    return [statistics.fmean("gold" in line["text"] for line in lines if line["round"] == r) for r in rounds]


@pytest.mark.parametrize("algorithm", ["rest_em", "dpo", "grpo"])
def test_it_learns_which_text_teaches_which_documents(planted, gold_pool, tmp_path, algorithm):
    config = head_config(tmp_path / "run", rl={"algorithm": algorithm})
    train_teacher(config, planted(32), planted(12, "heldout"), lambda _: gold_pool(), lambda line: None)
    shares = better_shares(config)
    # GRPO learns within its first round already.
    assert 0.4 < shares[0] < 0.65 and shares[-1] > 0.8, shares
    assert better_shares(config, "trained") > [0.8], "of documents that it never saw"


@pytest.mark.parametrize("algorithm", ["rest_em", "dpo", "grpo"])
def test_it_goes_nowhere_where_all_texts_teach_equally(planted, gold_pool, tmp_path, algorithm):
    documents = planted(32)
    for document in documents:
        for entry in document.metadata["rewrites"]:
            entry["text"] = f"in the shop gold {entry['strategy']}"
    rl = {"algorithm": algorithm, "false_keep": 0.05}
    config = head_config(tmp_path / "run", rl=rl, reward={"repeats": 2})
    train_teacher(config, documents, (), lambda _: gold_pool(noise=0.5), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "metrics.jsonl")
    if algorithm != "grpo":  # which learns from every group
        assert sum(line["kept"] for line in lines if line["kind"] == "update") <= 8
    shares = [line["strategy/brought:plain"] for line in lines if line["kind"] == "step"]
    assert all(0.2 < share < 0.8 for share in shares), shares


def test_a_prompt_tells_features_and_no_word_of_the_document(planted, tmp_path):
    settings = head_config(tmp_path).teacher
    tokenizer = load_head(settings, None)[1]
    short, long = planted(2)
    del short.metadata["rewrites"][0]
    told = [set(build_prompt(tokenizer, settings, document).split(" ")) for document in (short, long)]
    assert {"words>=64", "words>=16"} <= told[1] and "words>=64" not in told[0]
    long.text = "In 1999, King Harald of Norway asked: why? 1\u00bd years later."
    asked = build_prompt(tokenizer, settings, long)
    assert {"numbers>=0.1", "capitals>=0.2", "questions>=1"} <= set(asked.split())
    assert tokenizer.unk_token_id not in tokenizer(asked)["input_ids"]
    assert not {"Harald", "Norway", "1999"}.intersection(asked.split())


def test_an_option_that_a_document_lacks_is_never_chosen(planted, gold_pool, tmp_path):
    """Nor does it break the update; a document that brings none at all is refused, and counted."""
    documents = planted(32)
    for document in documents[:8]:
        document.metadata["rewrites"] = document.metadata["rewrites"][1:]
    del documents[31].metadata["rewrites"]
    config = head_config(tmp_path / "run", rl={"algorithm": "grpo", "rounds": 1})
    train_teacher(config, documents, (), lambda _: gold_pool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    lacking = {document.id for document in documents[:8]}
    assert {line["strategy"] for line in lines if line["document_id"] in lacking} == {"brought:dense"}
    assert {line["document_id"] for line in lines if line["rejected"] == "absent"} == {documents[31].id}
    head = load_teacher(config.teacher, config.run.dir / "teacher" / "checkpoint-0001").model
    assert torch.isfinite(head.scores.weights).all() and head.scores.weights.any()


def test_choices_have_the_odds_of_the_softmax_and_a_second_field_sees_the_first():
    """Two fields of two options: tokens 2, 3 and then 4, 5; 1 ends."""
    config = HeadConfig(vocab_size=6, fields=[[2, 3], [4, 5]], eos_token_id=1, pad_token_id=0)
    head = Head(config)
    with torch.no_grad():
        head.scores.weights[0] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        head.scores.weights[2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 4.0, 0.0])
    odds = head(torch.tensor([[0, 2, 4]])).logits.softmax(-1)[0]
    torch.testing.assert_close(odds[0, 2:4], torch.tensor([1.0, 0.0]).softmax(0))
    torch.testing.assert_close(odds[1, 4:6], torch.tensor([2.0, 0.0]).softmax(0))
    torch.testing.assert_close(odds[2], torch.nn.functional.one_hot(torch.tensor(1), 6).float())


def test_padding_changes_nothing(planted, tmp_path):
    settings = head_config(tmp_path).teacher
    head, tokenizer = load_head(settings, None)
    torch.manual_seed(0)
    torch.nn.init.normal_(head.scores.weights)
    prompts = [build_prompt(tokenizer, settings, document) for document in planted(2)]
    together = tokenizer(prompts, return_tensors="pt", padding=True)
    alone = [head(**tokenizer(prompt, return_tensors="pt")).logits[0, -1] for prompt in prompts]
    logits_BTV = head(together["input_ids"], together["attention_mask"]).logits
    torch.testing.assert_close(logits_BTV[:, -1], torch.stack(alone))


def test_other_strategies_than_it_was_trained_for_are_refused(planted, tmp_path):
    settings = head_config(tmp_path).teacher
    head, tokenizer = load_head(settings, None)
    head.save_pretrained(tmp_path / "head")
    tokenizer.save_pretrained(tmp_path / "head")
    reordered = settings.model_copy(update={"strategies": STRATEGIES[::-1]})
    writer = load_teacher(reordered, tmp_path / "head")
    assert writer.tokenizer.get_vocab() == tokenizer.get_vocab(), "their order is nothing to it"
    other = settings.model_copy(update={"strategies": (*STRATEGIES, "cloze")})
    with pytest.raises(UserError, match=r"other options \(<cloze> differ\)"):
        load_teacher(other, tmp_path / "head")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"teacher": {"strategies": ("sentences", "faq")}}, r"writes none, so 'faq' cannot be had"),
        ({"teacher": {"prompting": "strategy"}}, r"goes with teacher.prompting 'policy'"),
        ({"teacher": {"lora": {}}}, r"teacher.lora null"),
        ({"student": {"model": "teacher"}}, r"reads no text"),
        ({"questions": {"model": "teacher"}}, r"reads no text"),
    ],
)
def test_what_a_head_cannot_do_is_refused(tmp_path, sections, message):
    with pytest.raises((UserError, ValueError), match=message):
        load_head(head_config(tmp_path, **sections).teacher, None)


def test_it_has_defaults_of_its_own_that_can_be_set():
    given = {"model": "head", "strategies": ["sentences", "cloze"]}
    config = Config.model_validate({"teacher": given})
    assert (config.teacher.prompting, config.teacher.lora, config.rl.learning_rate) == ("policy", None, 0.2)
    assert Config.model_validate({"teacher": given, "rl": {"learning_rate": 1.0}}).rl.learning_rate == 1.0
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate({"teacher": {"model": "other"}}).rl.learning_rate == 2e-5


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(run_and_kill):
    def make(run_dir, **sections):
        rl = {"algorithm": "grpo", "rounds": 2, "documents_per_round": 8, "group_size": 4}
        return head_config(run_dir, rl=rl, teacher={"strategies": ("sentences", "cloze", "echo")})

    whole, killed = run_and_kill(["sampling=2", "grpo=1", "rename=1", "lines=2"], make)
    same(whole, killed)
    assert whole[2].keys() == {"teacher/checkpoint-0001", "teacher/checkpoint-0002"}
