import json
import statistics
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from configs.errors import UserError
from student.engine.schedule import plan_schedule
from student.records import Lesson, Outcome
from teacher.records import Rewrite
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns, planned_steps
from teacher.run.journal import Journal
from tests.student.conftest import tokenizer  # noqa: F401  (fixture)


def rewrite(document, text, rejected=None):
    return Rewrite(document_id=document.id, strategy="copy", text=text, completion=text, prompt="", rejected=rejected)


@pytest.fixture
def build(make_config, make_documents, tmp_path):
    """`build(pool, **sections)`: a reward over eight documents, and those documents."""
    journals = []

    def make(pool, *others, **sections):
        config = make_config(**sections)
        documents = make_documents(8)
        journals.append(Journal(tmp_path / f"run-{len(journals)}"))
        pools = {f"student-{n}": pool for n, pool in enumerate((pool, *others))}
        return GainReward(StudentRuns(config, documents, journals[-1]), pools), documents

    yield make
    for journal in journals:
        journal.close()


def pool_of(gain_reward):
    return gain_reward.pools["student-0"]


class Stubborn:
    """Students that gain nothing from anything (or, with `gain` None, as those it wraps), and fail on the word `bad`
    unless `cures` is taught too."""

    def __init__(self, pool, gain=0.0):
        self.pool, self.fingerprint, self.gain = pool, "stubborn-1", gain

    def examine(self, jobs, on_done=None):
        outcomes = []
        for job, outcome in zip(jobs, self.pool.examine(jobs), strict=True):
            taught = " ".join(job.lesson.texts)
            if "bad" in taught and "cures" not in taught:
                outcome = Outcome(gain=None, error="diverged")
            elif self.gain is not None:
                answers = tuple(replace(answer, loglik_after=answer.loglik_before) for answer in outcome.answers)
                outcome = replace(outcome, gain=self.gain, answers=answers)
            outcomes.append(outcome)
        return outcomes


class Contrary:
    """Students whose contrast falls by as much as their log-likelihood rises."""

    fingerprint = "contrary-1"

    def __init__(self, pool):
        self.pool = pool

    def examine(self, jobs, on_done=None):
        outcomes = []
        for outcome in self.pool.examine(jobs):
            answers = tuple(
                replace(a, extra={"contrast_before": 0.0, "contrast_after": a.loglik_before - a.loglik_after})
                for a in outcome.answers
            )
            outcomes.append(replace(outcome, answers=answers))
        return outcomes


def values(rewards):
    return [[round(reward.value, 6) for reward in group] for group in rewards]


TEXTS = ("gold gold", "gold iron", "iron iron")


@pytest.mark.parametrize(("credit", "students"), [("document", 24), ("shared", 6)])
def test_each_rewrite_is_rewarded_with_its_own_documents_gain(build, gold_pool, credit, students):
    gain_reward, documents = build(gold_pool(), reward={"credit": credit, "documents_per_student": 4})
    groups = [[rewrite(document, TEXTS[(d + j) % 3]) for j in range(3)] for d, document in enumerate(documents)]
    rewards = gain_reward.score(groups)
    expected = [[[1.0, 0.5, 0.0][(d + j) % 3] for j in range(3)] for d in range(8)]
    assert values(rewards) == expected
    assert gain_reward.runs.students == students
    assert len(pool_of(gain_reward).calls) == 1, "all students of a step go to the pool together"
    outcome = rewards[2][1].outcome
    assert len(outcome.answers) == 1
    assert outcome.metrics["accuracy_after"] == (expected[2][1] > 0.5)


def test_a_shared_student_learns_one_rewrite_of_every_document_with_one_seed_a_batch(build, gold_pool):
    gain_reward, documents = build(gold_pool(), reward={"documents_per_student": 4, "repeats": 2})
    gain_reward.score([[rewrite(document, f"gold {j}") for j in range(3)] for document in documents])
    jobs = pool_of(gain_reward).jobs
    assert len(jobs) == 2 * 2 * 3
    assert {job.lesson.document_ids for job in jobs} == {
        tuple(document.id for document in documents[:4]), tuple(document.id for document in documents[4:]),
    }  # fmt: skip
    first = [job for job in jobs if len(set(job.lesson.texts)) == 1]
    assert len(first) >= 6, "slot j learns the j-th rewrite of each, at first"
    assert len(first) < 12, "a repeat deals the rewrites anew: a rewrite meets other company"
    for batch in (documents[:4], documents[4:]):
        for document in batch:
            texts = [
                t
                for job in jobs
                for n, t in zip(job.lesson.document_ids, job.lesson.texts, strict=True)
                if n == document.id
            ]
            assert sorted(texts) == sorted(2 * [f"gold {j}" for j in range(3)]), "each is taught once a repeat"
    seeds = {}
    for job in jobs:
        seeds.setdefault(job.lesson.document_ids, []).append(job.lesson.seed)
    for batch in seeds.values():
        assert sorted(batch.count(seed) for seed in set(batch)) == [3, 3], "equal inside a group, different by repeat"
    assert all(question.split == "reward" for job in jobs for question in job.exam.questions)


def test_under_shard_credit_all_documents_of_a_student_share_its_gain(build, gold_pool):
    gain_reward, documents = build(gold_pool(), reward={"credit": "shard", "documents_per_student": 4})
    groups = [[rewrite(d, "gold" if i == 0 else "iron"), rewrite(d, "iron")] for i, d in enumerate(documents[:4])]
    assert values(gain_reward.score(groups)) == [[0.25, 0.0]] * 4


def test_a_refused_rewrite_and_a_failed_student_come_below_their_groups_worst(build, gold_pool):
    gain_reward, documents = build(gold_pool(), reward={"credit": "document", "rejected": -0.5})
    group = [
        rewrite(documents[0], "gold iron"),
        rewrite(documents[0], "gold gold", rejected="leak"),
        rewrite(documents[0], "poison"),
        rewrite(documents[0], "gold iron iron iron"),
    ]
    rewards = gain_reward.score([group])
    assert values(rewards) == [[0.5, -0.25, -0.25, 0.25]]
    assert rewards[0][1].outcome is None
    assert gain_reward.runs.students == 3, "nobody is trained on a refused rewrite"


def test_a_refused_rewrite_leaves_its_place_in_the_shared_student_empty(build, gold_pool):
    gain_reward, documents = build(
        gold_pool(), reward={"documents_per_student": 2}, student={"steps": None, "epochs": 5}
    )
    groups = [
        [rewrite(documents[0], "gold", rejected="empty"), rewrite(documents[0], "gold")],
        [rewrite(documents[1], "gold"), rewrite(documents[1], "iron")],
    ]
    assert values(gain_reward.score(groups)) == [[0.0, 1.0], [1.0, 0.0]]
    [first, second] = [job.lesson for job in pool_of(gain_reward).jobs]
    assert (first.document_ids, first.steps) == ((documents[1].id,), 5)
    assert (len(second.texts), second.steps) == (2, 5), "slots of a group take equal steps"


def test_a_group_of_refused_rewrites_has_no_contrast(build, gold_pool):
    gain_reward, documents = build(gold_pool())
    rewards = gain_reward.score([[rewrite(documents[0], "", rejected="empty")] * 3])
    assert len({reward.value for reward in rewards[0]}) == 1
    assert pool_of(gain_reward).calls == []


def test_the_mean_over_repeats_is_the_reward_and_their_spread_its_noise(build, gold_pool):
    gain_reward, documents = build(gold_pool(noise=0.5), reward={"credit": "document", "repeats": 4})
    [[reward, _]] = gain_reward.score([[rewrite(documents[0], "gold iron"), rewrite(documents[0], "gold")]])
    assert len(set(reward.gains)) > 1
    assert reward.value == pytest.approx(sum(reward.gains) / 4)
    assert 0 < reward.noise < 0.5


def test_penalties_are_kept_apart(build, gold_pool, tmp_path):
    old = tmp_path / "old.jsonl"
    old.write_text(json.dumps({"text": "what was known"}) + "\n")
    gain_reward, documents = build(
        gold_pool(),
        reward={"credit": "document", "length_weight": 0.1, "retention_texts": str(old), "retention_weight": 0.2},
    )
    source = len(documents[0].text.split())
    [[short, long]] = gain_reward.score(
        [[rewrite(documents[0], "gold"), rewrite(documents[0], "gold " * (3 * source))]]
    )
    assert short.penalties == pytest.approx({"length": 0.0, "retention": 0.1})
    assert long.penalties == pytest.approx({"length": 0.2, "retention": 0.1})
    assert long.value == pytest.approx(1.0 - 0.3)
    assert all(job.exam.retention_texts == ("what was known",) for job in pool_of(gain_reward).jobs)


@pytest.mark.parametrize("repeats", [1, 2])
def test_with_pooling_a_lesson_is_charged_with_its_own_part_of_what_its_student_forgot(
    build, forgetful, retention, repeats
):
    """Eight documents share a student. A lesson of gold gains 1 and makes its student forget an eighth; a student of
    nothing else forgets 1, so that at a weight of 2 gold costs 2. Each place of the groups holds both alike, as
    strategies are dealt."""
    settings = {"documents_per_student": 8, "repeats": repeats, **retention(2.0)}
    better = {}
    documents = build(forgetful())[1]
    lessons = [("gold gold", "copy"), ("salt wood", "permuted")]
    groups = [
        [replace(rewrite(document, lessons[(d + g) % 2][0]), strategy=lessons[(d + g) % 2][1]) for g in range(8)]
        for d, document in enumerate(documents)
    ]
    for pooled in (False, True):
        gain_reward, _ = build(forgetful(), reward=settings | {"pool_strategies": pooled})
        value = defaultdict(list)
        for group, rewards in zip(groups, gain_reward.score(groups), strict=True):
            for written, reward in zip(group, rewards, strict=True):
                value[written.strategy].append(reward.value)
        better[pooled] = max(value, key=lambda name: statistics.fmean(value[name]))
        assert gain_reward.runs.students <= 8 * repeats
    assert better == {False: "copy", True: "permuted"}


def test_with_pooling_under_shard_credit_a_lesson_gains_what_its_strategy_brings(build, gold_pool):
    """Each lesson of a student earns the student's gain, whatever it was; what its strategy brings is separated."""
    gain_reward, documents = build(
        gold_pool(), reward={"credit": "shard", "documents_per_student": 8, "pool_strategies": True}
    )
    lessons = [("gold", "copy"), ("iron", "permuted")]
    groups = [
        [replace(rewrite(document, lessons[(d + g) % 2][0]), strategy=lessons[(d + g) % 2][1]) for g in range(8)]
        for d, document in enumerate(documents)
    ]
    rewards = gain_reward.score(groups)
    lead = [
        statistics.fmean(r.value for w, r in zip(ws, rs, strict=True) if w.strategy == "copy")
        - statistics.fmean(r.value for w, r in zip(ws, rs, strict=True) if w.strategy == "permuted")
        for ws, rs in zip(groups, rewards, strict=True)
    ]
    assert statistics.fmean(lead) > 0.6, "a student of gold alone gains 1, one of iron nothing"


def test_an_evaluation_has_the_reward_that_lessons_would_earn(build, forgetful, retention):
    """Gain 1 and 0, forgotten half by all four of a student, and the penalties of the other texts."""
    settings = {"documents_per_student": 4, "length_weight": 0.1, "overlap_weight": 0.2, **retention(0.4)}
    gain_reward, documents = build(forgetful(), reward=settings)
    texts = {d.id: ["gold gold gold gold"] * 2 if n % 2 else ["salt"] * 8 for n, d in enumerate(documents)}
    texts[documents[7].id] = []
    evaluation = gain_reward.evaluate(documents, [texts, texts], seeds=[1, 2])
    assert evaluation.penalties[documents[0].id] == pytest.approx({"length": 0.0, "overlap": 0.0, "retention": 0.2})
    assert evaluation.penalties[documents[1].id]["overlap"] == 0.2
    assert evaluation.penalties[documents[7].id]["retention"] == pytest.approx(0.4 * 8 / 24)
    assert evaluation.gain.mean - evaluation.reward.mean == pytest.approx(
        statistics.fmean(sum(penalties.values()) for penalties in evaluation.penalties.values())
    )
    # What was learnt is charged alike where it is rewarded.
    groups = [[rewrite(d, " ".join(["gold"] * n)) for n in (1, 40)] for d in documents]
    rewards = gain_reward.score(groups)
    for slot, words in enumerate((1, 40)):
        again = gain_reward.evaluate(
            documents, [{d.id: [" ".join(["gold"] * words)] for d in documents}], [1], "reward"
        )
        assert again.reward.mean == pytest.approx(statistics.fmean(group[slot].value for group in rewards))


def test_no_student_is_trained_twice(build, gold_pool):
    pool = gold_pool()
    gain_reward, documents = build(pool)
    groups = [[rewrite(document, "gold"), rewrite(document, "gold")] for document in documents]
    first = gain_reward.score(groups)
    assert len(pool.jobs) == 2, "equal slots are one student"
    assert gain_reward.score(groups) == first
    assert len(pool.jobs) == 2
    changed = [[replace(groups[0][0], text="iron"), groups[0][1]], *groups[1:]]
    gain_reward.score(changed)
    assert len(pool.jobs) == 3


def test_arms_are_taught_in_equal_steps_and_asked_held_out_questions(build, gold_pool):
    gain_reward, documents = build(gold_pool(), student={"steps": None, "epochs": 3, "texts_per_step": 2})
    # Four documents share a student: three of one batch are taught, and one of the other.
    texts = {document.id: ["gold"] if i in (0, 1, 2, 5) else [] for i, document in enumerate(documents)}
    evaluation = gain_reward.evaluate(documents, [texts, texts], seeds=[1, 2])
    assert [evaluation.gains[document.id] for document in documents] == [1, 1, 1, 0, 0, 1, 0, 0]
    assert evaluation.gain.mean == evaluation.accuracy.mean == 0.5
    assert evaluation.gain.low < 0.5 < evaluation.gain.high
    jobs = pool_of(gain_reward).jobs
    assert {job.lesson.steps for job in jobs} == {6}
    assert len({job.lesson.seed for job in jobs}) == 4, "each batch has seeds of its own"
    assert all(question.split == "heldout" for job in jobs for question in job.exam.questions)
    nothing = gain_reward.evaluate(documents, [dict.fromkeys(texts, ())], seeds=[1])
    assert nothing.gain.mean == 0.0


def test_under_shard_credit_a_teacher_is_validated_by_the_whole_students_gain(build, gold_pool):
    gain_reward, documents = build(gold_pool(), reward={"credit": "shard"})
    half = {document.id: ["gold" if n % 2 else "iron"] for n, document in enumerate(documents)}
    assert set(gain_reward.evaluate(documents, [half], [1], "reward").gains.values()) == {0.5}
    assert set(gain_reward.evaluate(documents, [half], [1], "heldout").gains.values()) == {0.0, 1.0}


def test_what_a_teacher_is_worth_is_the_mean_over_its_lessons(build, gold_pool):
    """Each lesson is taught to students of its own seed, and its penalties are its own."""
    gain_reward, documents = build(gold_pool(), reward={"length_weight": 0.1})
    gold, salt = ({d.id: [text] for d in documents} for text in ("gold", " ".join(["salt"] * 30)))
    evaluation = gain_reward.evaluate(documents, [gold, salt], seeds=[1, 2])
    assert set(evaluation.gains.values()) == {0.5}
    assert {job.lesson.texts[0].split()[0] for job in pool_of(gain_reward).jobs} == {"gold", "salt"}
    alone = gain_reward.evaluate(documents, [salt], seeds=[2])
    for name, penalties in evaluation.penalties.items():
        assert penalties["length"] == pytest.approx(alone.penalties[name]["length"] / 2) != 0
    with pytest.raises(ValueError, match="longer than"):
        gain_reward.evaluate(documents, [gold], seeds=[1, 2])


def test_a_document_without_questions_is_the_users_mistake(build, gold_pool):
    gain_reward, documents = build(gold_pool())
    documents[3].metadata["questions"] = []
    with pytest.raises(UserError, match="'shop-3' has no reward questions"):
        gain_reward.score([[rewrite(documents[3], "gold")] * 2])


@pytest.mark.parametrize(
    ("settings", "documents", "texts", "steps"),
    [
        ({"steps": 7}, 8, 1, 7),
        ({"epochs": 10}, 8, 1, 10),
        ({"epochs": 10, "texts_per_step": 3}, 8, 1, 30),
        ({"epochs": 10, "texts_per_step": 16}, 8, 5, 30),
        ({"epochs": 10}, 8, 5, 10),
    ],
)
def test_planned_steps(make_config, settings, documents, texts, steps):
    config = make_config(student={"steps": None} | settings)
    assert planned_steps(config.student, documents, texts) == steps


def test_planned_steps_teach_all_parts_of_long_texts(make_config, tokenizer):  # noqa: F811
    """A step of so many texts takes a long one with all its parts, which a plan of steps cannot know of."""
    student = make_config(student={"steps": None, "texts_per_step": 2, "epochs": 2, "max_text_tokens": 8}).student
    texts = ("the cat sat on the mat . " * 4, "the dog", "on the rug " * 5)
    lesson = Lesson(texts=texts, document_ids=("a",) * 3, steps=planned_steps(student, 1, 3), seed=1)
    schedule = plan_schedule(tokenizer, lesson, student)
    assert len(schedule.texts) > 3 and schedule.steps == 2 * 2
    assert set(Counter(place for step in schedule.order for place in step).values()) == {2}, "two epochs of every part"
    by_tokens = student.model_copy(update={"texts_per_step": None, "tokens_per_step": 8, "steps": 3})
    assert len(plan_schedule(tokenizer, replace(lesson, steps=3), by_tokens).order[0]) == 1, "a part by itself"


def test_a_lesson_is_taught_and_credited_as_a_set(build, gold_pool):
    """Two lessons of two rewrites: each rewrite earns what its set gains, and a refused one is not taught."""
    gain_reward, documents = build(gold_pool(), rl={"rewrites_per_lesson": 2}, reward={"documents_per_student": 4})
    texts = [("gold", None), ("iron iron iron", None), ("gold", None), ("iron", "empty")]
    groups = [[rewrite(document, text, rejected) for text, rejected in texts] for document in documents[:4]]
    assert values(gain_reward.score(groups)) == [[0.25, 0.25, 1.0, -0.75]] * 4
    assert gain_reward.runs.students == 2
    first, second = [job.lesson for job in pool_of(gain_reward).jobs]
    assert first.texts == ("gold", "iron iron iron") * 4
    assert first.document_ids == tuple(d.id for d in documents[:4] for _ in range(2))
    assert second.texts == ("gold",) * 4


def test_marginal_credit_is_what_the_set_loses_without_the_rewrite(build, gold_pool):
    gain_reward, documents = build(
        gold_pool(), rl={"rewrites_per_lesson": 2}, reward={"documents_per_student": 4, "set_credit": "marginal"}
    )
    groups = [[rewrite(document, text) for text in ("gold", "iron", "gold", "gold gold")] for document in documents[:4]]
    # Whole sets gain 0.5 and 1.0; alone gold gains 1 and iron nothing.
    assert values(gain_reward.score(groups)) == [[0.5, -0.5, 0.0, 0.0]] * 4
    assert gain_reward.runs.students == 5, (
        "one a lesson, one more without each rewrite; both sets leave `gold` alone once"
    )


def test_marginal_credit_pays_nothing_to_what_was_not_compared(build, gold_pool):
    """Where the student without a rewrite fails, the rewrite does not earn the whole set's gain."""
    gain_reward, documents = build(
        Stubborn(gold_pool(), gain=None), rl={"rewrites_per_lesson": 2},
        reward={"credit": "document", "set_credit": "marginal"},
    )  # fmt: skip
    # Alone `gold bad` fails, so `salt` cannot be compared; together with it nothing fails.
    texts = ("salt cures", "gold bad", "gold", "gold")
    [rewards] = gain_reward.score([[rewrite(documents[0], text) for text in texts]])
    assert rewards[0].outcome is None
    assert rewards[0].value < min(reward.value for reward in rewards[1:])


def test_a_refused_lesson_does_not_count_in_the_reliability(build, gold_pool):
    gain_reward, documents = build(gold_pool(noise=0.1), reward={"documents_per_student": 4})
    groups = [[rewrite(document, text) for text in ("gold", "iron", "gold iron")] for document in documents]
    refused = [[*group[:2], replace(group[2], rejected="empty")] for group in groups]
    assert gain_reward.reliability_of(groups, repeats=2).rewrites == 24
    assert gain_reward.reliability_of(refused, repeats=2).rewrites == 16


@pytest.mark.parametrize(("across", "expected"), [("mean", [0.5, 0.0, -1.0]), ("worst", [0.0, 0.0, -1.0])])
def test_several_students_judge_a_lesson_together(build, gold_pool, across, expected):
    """By their mean or by the one it helps least; where one of them fails, none has judged."""
    gain_reward, documents = build(
        gold_pool(), Stubborn(gold_pool()), reward={"credit": "document", "across_students": across}
    )
    rewards = gain_reward.score([[rewrite(documents[0], text) for text in ("gold", "iron", "gold bad")]])
    assert values(rewards) == [expected]
    assert gain_reward.runs.students == 6
    evaluation = gain_reward.evaluate(documents[:2], [{d.id: ["gold"] for d in documents[:2]}], seeds=[1])
    assert evaluation.gain.mean == expected[0]
    assert [e.gain.mean for e in evaluation.by_student.values()] == [1.0, 0.0]


def test_overlap_inside_a_set_is_penalised(build, gold_pool):
    gain_reward, documents = build(
        gold_pool(), rl={"rewrites_per_lesson": 3}, reward={"credit": "document", "overlap_weight": 0.5}
    )
    texts = ("gold iron salt wood rope", "gold iron salt wood milk", "gold corn silk glass clay")
    [rewards] = gain_reward.score([[rewrite(documents[0], text) for text in texts]])
    assert [reward.penalties["overlap"] for reward in rewards] == [0.25, 0.25, 0.0]


def test_reliability_of_sampled_lessons(build, gold_pool):
    """Where noise is small against the contrast between lessons a run is reliable; where it drowns it, not."""
    texts = ("gold", "gold iron", "gold iron iron iron", "iron")
    reliabilities = []
    for noise in (0.01, 20.0):
        gain_reward, documents = build(gold_pool(noise=noise), reward={"credit": "document"})
        groups = [[rewrite(document, text) for text in texts] for document in documents]
        reliabilities.append(gain_reward.reliability_of(groups, repeats=3))
    assert reliabilities[0].reliability > 0.95
    assert reliabilities[1].low < 0.2
    assert reliabilities[0].runs == 8 * 4 * 3


def test_shard_credit_asks_external_benchmarks_too(build, gold_pool, tmp_path):
    """Rewarded items are asked of every student, and held-out ones never."""
    items = [{"question": f"item {split} ?", "answer": "red", "split": split} for split in ("reward", "heldout")]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    pool = gold_pool()
    benchmarks = [f"file:{tmp_path / 'items.jsonl'}"]
    gain_reward, documents = build(pool, reward={"credit": "shard", "benchmarks": benchmarks})
    [[gold, plain], _] = gain_reward.score([[rewrite(d, "gold gold"), rewrite(d, "red red")] for d in documents[:2]])
    prompts_by_student = [[question.prompt for question in job.exam.questions] for job in pool.jobs]
    assert len(prompts_by_student) == 2
    assert all("item reward ?" in prompts and "item heldout ?" not in prompts for prompts in prompts_by_student)
    # Two documents' questions are answered by gold, the benchmark's is not.
    assert gold.value == pytest.approx(2 / 3)
    assert plain.value == 0


def test_external_benchmarks_need_shard_credit(make_config):
    with pytest.raises(ValueError, match=r"need reward\.credit 'shard'"):
        make_config(reward={"benchmarks": ["file:items.jsonl"], "credit": "shared"})


def test_a_lesson_can_be_taught_as_seal_does(build, gold_pool):
    """Line by line and with the document itself; a document of which nothing passed the gates is not taught."""
    student = {"steps": None, "epochs": 3, "texts_per_step": 1, "split_lines": True, "with_document": True}
    gain_reward, documents = build(gold_pool(), student=student, reward={"credit": "document"})
    gain_reward.score(
        [[rewrite(documents[0], "gold one\n\n gold two "), rewrite(documents[0], "gold", rejected="leak")]]
    )
    [job] = pool_of(gain_reward).jobs
    assert job.lesson.texts == ("gold one", "gold two", documents[0].text)
    assert job.lesson.steps is None, "each of a lesson's own lines is met in every epoch"
    raw = gain_reward.evaluate(documents[:1], [{documents[0].id: [documents[0].text]}], seeds=[1])
    assert raw.gain.mean == 0.0
    assert pool_of(gain_reward).jobs[-1].lesson.texts == (documents[0].text,)


@pytest.mark.parametrize("credit", ["shared", "shard"])
def test_the_rewarded_measure_makes_the_gain_and_the_others_stand_beside_it(build, gold_pool, credit):
    gain_reward, documents = build(Contrary(gold_pool()), reward={"measure": "contrast", "credit": credit})
    for document in documents:
        for question in document.metadata["questions"]:
            question["distractors"] = ["iron"]
    groups = [[rewrite(document, text) for text in TEXTS] for document in documents]
    assert values(gain_reward.score(groups)) == [[-1.0, -0.5, 0.0]] * 8
    lessons = [{document.id: ["gold iron"] for document in documents}]
    evaluation = gain_reward.evaluate(documents, lessons, [0])
    assert evaluation.gain.mean == pytest.approx(-0.5)
    measured = {name: e.mean for name, e in evaluation.by_measure.items()}
    assert measured == pytest.approx({"loglik": 0.5, "contrast": -0.5})


def test_a_document_that_cannot_tell_the_rewarded_measure_is_named(build, gold_pool):
    """All answers of the shops are `gold`."""
    gain_reward, documents = build(gold_pool(), reward={"measure": "choice"})
    with pytest.raises(UserError, match=r"'shop-0': its reward questions do not tell 'choice'"):
        gain_reward.score([[rewrite(document, "gold")] for document in documents])


def test_answers_of_heldout_documents_are_no_distractors_of_others(make_config, make_documents, tmp_path):
    documents, heldout = make_documents(2), make_documents(2, "market")
    for n, document in enumerate([*documents, *heldout]):
        for question in document.metadata["questions"]:
            question["answer"] = f"{question['split']} {n}"
    with Journal(tmp_path / "run") as journal:
        config = make_config(reward={"distractors": 4})
        runs = StudentRuns(config, [*documents, *heldout], journal, heldout_ids=[d.id for d in heldout])
        found = {d.id: [runs.questions(d, split)[0].distractors for split in ("reward", "heldout")] for d in documents}
        beside = runs.questions(heldout[0], "heldout")[0].distractors
    assert found == {"shop-0": [("reward 1",), ("heldout 1",)], "shop-1": [("reward 0",), ("heldout 0",)]}
    assert beside == ("heldout 3",)
