"""The lab: its world holds no contradictions, its tokenizer loses nothing, and a killed build is no half-built one."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import RunError, UserError
from configs.load import load_config
from configs.schema import Lab
from curation.lab import build, world
from curation.lab.build import build_lab
from curation.lab.models import BEHAVIOURS, STUDENTS, biographies, make_tokenizer, questions, student_batches
from tests.processes import happens

PEOPLE = world.make_people(0, 0, 600)
TINY = {"base_people": 16, "train_people": 8, "heldout_people": 8, "curate_people": 8, "effort": 0.002}


def tiny(folder: Path, **changes) -> Lab:
    return Lab(dir=folder, **(TINY | changes))


def fake_training(trained: list[str]):
    """Writes empty models through the build's own placing, and notes which were asked for."""

    def train(names, lab, progress):
        for name in names:
            trained.append(name)
            with build._placed(lab, name) as folder:
                (folder / "model").write_text(name)

    return train


def facts_in(text: str) -> set[str]:
    values = {value for options in world.VALUES.values() for value in options}
    return values & {word.strip(".?") for word in text.split()}


def test_people_are_determined_by_seed_and_number():
    assert world.make_people(0, 100, 50) == PEOPLE[100:150]
    assert world.make_people(1, 0, 600) != PEOPLE


def test_names_are_unique_beyond_the_pairs_and_end_in_a_clear_error():
    names = [name for name, _ in world.names(0, 0, 3 * world.PAIRS)]
    assert len(set(names)) == len(names)
    with pytest.raises(UserError, match="asked for"):
        world.names(0, 395_000, 1_000)


def test_base_people_hold_every_name_and_value_and_nobody_else_their_combination():
    base, others = PEOPLE[:240], PEOPLE[240:]
    assert {word for p in base for word in p.name.split()} == {*world.FEMALE, *world.MALE, *world.LAST}
    assert {value for p in base for value in p.values} == {v for options in world.VALUES.values() for v in options}
    assert not {p.name for p in base} & {p.name for p in others}


def test_a_word_means_one_thing():
    values = [value for options in world.VALUES.values() for value in options]
    names = [*world.FEMALE, *world.MALE, *world.LAST]
    assert len({*values, *names}) == len(values) + len(names)
    assert len(world.VALUES) >= 5 and all(len(options) >= 30 for options in world.VALUES.values())
    assert all(len(templates) >= 4 for templates in world.SENTENCES.values())
    said = " ".join(text for texts in world.SENTENCES.values() for text in texts) + " ".join(world.FILLER)
    assert not {*values, *names} & {word.strip(".?") for word in said.split()}


def test_no_item_is_in_both_splits_or_in_a_lesson():
    for person in PEOPLE[:50]:
        items = world.exam_items(person)
        reward, heldout = ({i["question"] for i in items if i["split"] == split} for split in ("reward", "heldout"))
        lesson = world.question_answer(person, random.Random(0))
        assert len(reward) == len(heldout) == len(world.ATTRIBUTES) and not reward & heldout
        assert not any(question in lesson for question in reward | heldout)


def test_the_sets_of_phrasings_never_meet_and_students_practised_each_word_of_a_lesson():
    for sets in world.QUESTIONS.values():
        phrasings = [phrasing for phrasings in sets.values() for phrasing in phrasings]
        assert len(set(phrasings)) == len(phrasings)
        practised = {word for name in STUDENTS["student-fixed"].questions for q in sets[name] for word in q.split()}
        assert {word for q in sets["lesson"] for word in q.split()} <= practised


def test_the_students_differ_in_the_wordings_of_biographies_alone():
    fixed, augmented = STUDENTS["student-fixed"], STUDENTS["student-augmented"]
    assert dataclasses.replace(augmented, wordings=fixed.wordings) == fixed != augmented
    assert "lesson" not in fixed.questions
    lab, tokenizer = tiny(Path()), make_tokenizer()
    assert questions(fixed, lab) == questions(augmented, lab)
    facts = [[facts_in(text) for text in biographies(recipe, lab)] for recipe in (fixed, augmented)]
    assert len(facts[0]) == lab.base_people and facts[1] == [f for f in facts[0] for _ in range(augmented.wordings)]
    batches = [next(student_batches(tokenizer, recipe, lab)) for recipe in (fixed, augmented)]
    practised = [[row[row != tokenizer.pad_token_id].tolist() for row in ids_BT[32:]] for ids_BT, _ in batches]
    assert practised[0] == practised[1] and len(batches[0][0]) == len(batches[1][0])


def test_raw_text_answers_every_question():
    for person in PEOPLE[:50]:
        text = world.raw(person)
        assert person.name in text and facts_in(text) == {i["answer"] for i in world.exam_items(person)}


def test_every_rewriting_does_what_its_name_says():
    rng = random.Random(0)
    for person in PEOPLE[:50]:
        true, texts = set(person.values), {s: world.rewrite(s, person, rng) for s in world.STRATEGIES}
        assert texts["copy"] == world.raw(person)
        assert texts["permuted"] != world.raw(person)
        assert facts_in(texts["permuted"]) == facts_in(texts["question-answer"]) == true
        assert facts_in(texts["partial"]) < true and facts_in(texts["partial"])
        assert not facts_in(texts["filler"])
        assert len(facts_in(texts["wrong"])) == len(true) and not facts_in(texts["wrong"]) & true
        assert all(person.name in text for text in texts.values())


def test_the_teacher_starts_with_every_behaviour():
    assert tuple(BEHAVIOURS) == world.STRATEGIES and sum(BEHAVIOURS.values()) == pytest.approx(1)


def test_tokenizer_is_reversible_and_knows_every_word(tmp_path: Path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    for person in world.make_people(0, world.PAIRS - 20, 40):  # with and without middle names
        for strategy in world.STRATEGIES:
            lesson = f"<{strategy}> {world.rewrite(strategy, person, rng)}"
            for text in (lesson, f"{world.raw(person)}\n<lesson>{lesson}"):
                ids = tokenizer(text)["input_ids"]
                assert tokenizer.unk_token_id not in ids and ids[0] == tokenizer.bos_token_id
                assert tokenizer.decode(ids, skip_special_tokens=True) == text
        for item in world.exam_items(person):
            together = tokenizer(f"{item['question']} {item['answer']}")["input_ids"]
            assert together == tokenizer(item["question"])["input_ids"] + tokenizer.convert_tokens_to_ids(
                tokenizer.tokenize(item["answer"])
            )
            assert len(tokenizer.tokenize(item["answer"])) == 1


def test_build_is_whole_loads_by_path_and_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    lab = tiny(tmp_path / "lab")
    build_lab(lab, progress=lines.append)
    assert any(line.startswith("teacher: step") for line in lines)
    rows = [json.loads(line) for line in (lab.dir / "shards/heldout.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {q["split"] for q in rows[0]["questions"]} == {"reward", "heldout"}
    assert all(json.loads(line)["text"] for line in (lab.dir / "shards/retention.jsonl").read_text().splitlines())
    for folder in (lab.dir / name for name in build.MODELS):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.config.vocab_size == len(tokenizer) and model.num_parameters() < 1_000_000
    assert not list(lab.dir.glob(".building-*"))
    lines.clear()
    trained: list[str] = []
    monkeypatch.setattr(build, "_train", fake_training(trained))
    build_lab(lab, progress=lines.append)
    assert not lines and not trained


def test_other_settings_rebuild_only_what_depends_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained: list[str] = []
    monkeypatch.setattr(build, "_train", fake_training(trained))
    build_lab(tiny(tmp_path))
    assert sorted(trained) == sorted(build.MODELS)
    trained.clear()
    build_lab(tiny(tmp_path, heldout_people=9))
    assert trained == ["teacher"], "students have read of base people only"
    assert len((tmp_path / "shards" / "heldout.jsonl").read_text().splitlines()) == 9


def test_a_killed_build_leaves_nothing_half_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lab = tiny(tmp_path / "lab", effort=1.0)
    code = (
        "import sys; from configs.schema import Lab; from curation.lab.build import build_lab; "
        "build_lab(Lab.model_validate_json(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, lab.model_dump_json()]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)
    happens(lambda: list(lab.dir.glob(".building-teacher-*")), alive=lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(lab.dir.glob(".building-teacher-*")) and not (lab.dir / "teacher").exists()
    shards = (lab.dir / "shards" / build.MARK).stat().st_mtime_ns
    monkeypatch.setattr(build, "_train", fake_training([]))
    build_lab(lab, progress=lambda line: None)
    assert not list(lab.dir.glob(".building-*")) and (lab.dir / "teacher" / build.MARK).is_file()
    assert (lab.dir / "shards" / build.MARK).stat().st_mtime_ns == shards, "finished parts are kept"


def test_a_failing_training_is_one_clear_line_and_keeps_what_is_done(tmp_path: Path):
    beyond_torch = 2**70
    with pytest.raises(RunError, match=r"the lab's teacher failed \(.*call again"):
        build_lab(tiny(tmp_path / "lab").model_copy(update={"seed": beyond_torch}), progress=lambda line: None)
    assert (tmp_path / "lab" / "shards" / "train.jsonl").is_file()


def test_lab_config_names_what_the_build_makes():
    config = load_config(Path(__file__).parents[3] / "configs" / "lab.yaml")
    folder = config.lab.dir
    assert config.data.train == (str(folder / "shards/train.jsonl"),)
    assert config.data.heldout == (str(folder / "shards/heldout.jsonl"),)
    assert config.student.model == str(folder / "student-fixed") and config.teacher.model == str(folder / "teacher")
    assert config.teacher.strategies == world.STRATEGIES
