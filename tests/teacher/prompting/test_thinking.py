import pytest
from datatrove.data import Document

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Teacher
from teacher.prompting.thinking import without_thinking
from teacher.ready.texts import ReadyTexts
from teacher.records import Completion
from teacher.sampling import make_rewrite

pytestmark = pytest.mark.wild
TAGS = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<think>\nThe user wants a rewrite.\n</think>\n\nGold.", "Gold."),
        ("  <think></think>Gold.", "  Gold."),
        ("<copy> <think>which one?</think> Gold.", "<copy> Gold."),
        ("<think>I was cut in the mid", ""),
        ("The user wants a rewrite.\n</think>\n\nGold.", "Gold."),
        ("Gold.", "Gold."),
        ("The tag </think> closes a block.", "The tag </think> closes a block."),
        ("HTML has no <think> tag and no </think> either.", "HTML has no <think> tag and no </think> either."),
        ("<think>a</think>Gold and <think> are words.", "Gold and <think> are words."),
    ],
)
def test_thinking_before_a_text_is_taken_off(completion, text):
    assert without_thinking(completion, TAGS) == text
    assert without_thinking(completion, None) == completion


def test_a_prompt_may_open_the_thinking_that_a_completion_does_not_end():
    assert without_thinking("I was cut in the mid", TAGS, "...assistant\n<think>\n") == ""
    assert without_thinking("It is long.</think>\nGold.", TAGS, "...assistant\n<think>\n") == "Gold."


def test_a_lesson_holds_no_thinking_and_its_completion_holds_it_all():
    ready, written = ReadyTexts(Document("gold", "1"), 0), Completion("[THINK]hm[/THINK]<copy> gold", True)
    settings = Teacher(prompting="policy", strategies=("copy",), thinking_tags=("[THINK]", "[/THINK]"))
    rewrite = make_rewrite(settings, ready, ["gold"], [written], "", [])
    assert (rewrite.strategy, rewrite.text, rewrite.completion) == ("copy", "gold", written.text)


@pytest.mark.parametrize(
    ("tags", "words"), [('["", "</think>"]', "no empty text"), ("[a, a]", "an opening and a closing tag")]
)
def test_tags_that_cannot_be_told_apart_are_refused(tags, words):
    with pytest.raises(UserError, match=f"expected {words}"):
        load_config("configs/smollm2-cpu.yaml", [f"teacher.thinking_tags={tags}"])
