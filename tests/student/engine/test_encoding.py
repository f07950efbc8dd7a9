"""Where an answer begins among the tokens, in every kind of tokenizer that students have."""

from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from configs.errors import UserError
from curation.lab.models import make_tokenizer
from student.engine.encoding import check_offsets, encode_answer, encode_prompt, encode_text, ending_tokens
from student.records import Segment

SMOLLM2 = Path("models/smollm2-135m-instruct")
CORPUS = [
    "Question: Where is it?\nAnswer: New York.\n",
    "It is New York Times, and Yorkville.\nZürich is 5 km away.",
    "Where was Nora Ellery born? She was born in New York, and is 5 km away.\n",
] * 20


def build(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer made as those of the models that `kind` names."""
    special = ["<unk>", "<s>", "</s>"]
    bpe = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    family, _, variant = kind.partition(" ")
    core = Tokenizer(models.BPE(unk_token=None if family == "bytes" else "<unk>", byte_fallback=family == "llama-2"))
    trainer: trainers.Trainer = bpe
    match family:
        case "bytes":  # GPT-2, Qwen, Llama 3
            core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="prefix" in variant)
            core.decoder = decoders.ByteLevel()
            core.post_processor = processors.ByteLevel(trim_offsets="trimmed" in variant)
            bpe.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
        case "metaspace":  # SentencePiece, as converted today
            core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=variant)
            core.decoder = decoders.Metaspace(prepend_scheme=variant)
        case "unigram":  # T5, XLNet
            core = Tokenizer(models.Unigram())
            core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
            )
        case "llama-2" | "gemma":  # the mark is put in by the normaliser, and words are not split
            marks = normalizers.Replace(" ", "▁")
            core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), marks]) if family == "llama-2" else marks
            # For the training alone: such files have no pre-tokenizer, and merges within words.
            core.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated")
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            core.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if family == "llama-2" else []))
        case "wordpiece":  # BERT
            core = Tokenizer(models.WordPiece(unk_token="<unk>"))
            core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
            core.decoder = decoders.WordPiece(cleanup=False)
            trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    if family in ("llama-2", "gemma"):
        core.pre_tokenizer = pre_tokenizers.Sequence([])
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


KINDS = [
    "bytes", "bytes trimmed", "bytes prefix", "bytes prefix trimmed", "metaspace always", "metaspace first",
    "metaspace never", "unigram", "llama-2", "gemma", "wordpiece", "lab", "smollm2",
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind == "smollm2" and not SMOLLM2.is_dir():
        pytest.skip(f"{SMOLLM2} is not here")
    if kind in ("lab", "smollm2"):
        return make_tokenizer() if kind == "lab" else AutoTokenizer.from_pretrained(SMOLLM2)
    return build(kind)


def tail(tokenizer, start, rest):
    """The tokens of `rest` in running text."""
    before, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (start, start + rest))
    assert whole[: len(before)] == before
    return whole[len(before) :]


def answers(kind):
    return ["Oslo", "horse riding"] if kind == "lab" else ["New York", "Zürich", "5 km", "Yorkville"]


def test_an_answer_has_the_tokens_that_it_has_in_running_text(kind, tokenizer):
    prompt = "Where was Nora Ellery born?"
    for answer in answers(kind):
        expected = tail(tokenizer, "She was born in", f" {answer}")
        for spaces in ("", " "):
            encoded = encode_answer(tokenizer, prompt + spaces, answer)
            assert encoded.ids[encoded.labelled].tolist() == expected
            assert encoded.ids.tolist() == tokenizer(f"{prompt} {answer}")["input_ids"]
            assert encode_prompt(tokenizer, prompt + spaces) == encoded.ids[: encoded.labelled[0]].tolist()


def test_an_answer_on_a_line_of_its_own_has_no_space_before_it(kind, tokenizer):
    for answer in answers(kind):
        encoded = encode_answer(tokenizer, "Where was Nora Ellery born?\n", answer)
        assert encoded.ids[encoded.labelled].tolist() == tail(tokenizer, "She was born in\n", answer)


def test_an_answer_without_a_prompt_is_labelled_but_for_a_first_token(kind, tokenizer):
    for answer in answers(kind):
        encoded = encode_answer(tokenizer, "", answer)
        assert encoded.ids.tolist() == tokenizer(answer)["input_ids"]
        assert encoded.labelled.tolist() == list(range(1, len(encoded)))


def test_segments_are_tokenized_as_one_text(kind, tokenizer):
    answer = answers(kind)[0]
    parts = [("prompt", "Where was Nora Ellery born?"), ("answer", f" {answer}"), ("output", "."), ("output", "")]
    text = tuple(Segment(*part) for part in parts)
    whole = "".join(segment.text for segment in text)
    [encoded] = encode_text(tokenizer, text, "answer", 256)
    assert encoded.ids.tolist() == [*tokenizer(whole)["input_ids"], tokenizer.eos_token_id]
    assert encoded.ids[encoded.labelled].tolist() == tail(tokenizer, "She was born in", f" {answer}")
    assert encode_text(tokenizer, whole, "all", 256)[0].ids.tolist() == encoded.ids.tolist()


def test_a_token_that_spans_a_boundary_belongs_to_the_later_part():
    tokenizer = build("bytes")
    text = (Segment("prompt", "It is New Yo"), Segment("answer", "rk"))
    [encoded] = encode_text(tokenizer, text, "answer", 64)
    assert tokenizer.convert_ids_to_tokens(encoded.ids[encoded.labelled].tolist()) == ["ĠYork", "</s>"]


def test_full_stops_end_an_answer_and_words_do_not(kind, tokenizer):
    ends = ending_tokens(tokenizer, len(tokenizer) + 3, frozenset())
    answer = answers(kind)[0]
    start = f"She was born in {answer}"
    after = {
        rest: tail(tokenizer, start, rest)[:1] for rest in (".", " and", " 5", "\n") if kind != "lab" or rest in ".\n"
    }
    after.pop("\n" if kind == "wordpiece" else "", None)  # WordPiece drops line breaks
    assert {rest: ends[ids].tolist() for rest, ids in after.items()} == {r: [r in ".\n"] for r in after}
    assert ends[tokenizer.eos_token_id]
    assert not ends[len(tokenizer) :].any()
    assert not ends[tokenizer("\U000f0000", add_special_tokens=False)["input_ids"]].any()


def test_a_tokenizer_without_offsets_is_refused_by_name():
    with pytest.raises(UserError, match=r"ByT5Tokenizer .*gives no offsets"):
        check_offsets(ByT5Tokenizer())
