"""What a screen (`reward.screen`) would have saved on lessons that were all taught, and what it would have cost.

A run is replayed: it learns of a lesson only what it would have taught. What its choices are worth is said by the
target, which no choice has seen.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs import schema
from configs.errors import UserError, check_known
from configs.schema import Config
from configs.seeds import stable_seed
from curation.study.groups import Group
from curation.validity.signals import Signal
from student.statistics.prediction import regret, regret_difference
from student.statistics.reliability import Noise, mean_of_runs, measured_noise
from teacher.reward.screen import SHORT, Known, Screen, Signs, strategy_signs
from teacher.reward.signs import SIGNS

STEPS, ORDERS = 4, 20
"""A replay has the documents in so many equal steps; there is one for each of so many orders of the documents."""
WAYS = ("all", "screen", "random", "shuffled")
"""How the lessons are found that are taught: all of them; those that the screen leaves; as many drawn at random; those
of a screen that is fitted on outcomes shuffled within documents."""


class Measured(NamedTuple):
    """A document whose lessons were all taught."""

    name: str
    batch: Hashable
    """Which documents shared students."""
    signs_G: Sequence[Signs]
    """`SHORT` among them where there are short trainings."""
    gains_G: Sequence[float]
    """What a run chooses by, and its screen is fitted on."""


class Choice(NamedTuple):
    """What a run would have taught of a document."""

    on: bool
    """Whether the screen of its step left lessons out."""
    short: int
    """Lessons that were taught for a few steps."""
    left: list[int]
    """Lessons that were taught in full."""


def replay(
    settings: schema.Screen, steps: Sequence[Sequence[Measured]], noise: Noise | None, generator: np.random.Generator
) -> list[list[Choice]]:
    """A choice for each document of each step, by a screen that is fitted as in a run: on the documents of earlier
    steps that were taught whole, those of the first step and a share of the others."""
    known: list[Known] = []
    choices: list[list[Choice]] = []
    for step, documents in enumerate(steps, 1):
        screen = Screen(settings, None, step, known, noise)
        drawn = {batch: generator.random() < settings.share for batch in dict.fromkeys(d.batch for d in documents)}
        choices.append([])
        for one in documents:
            left, signs, whole = list(range(len(one.gains_G))), dict(enumerate(one.signs_G)), drawn[one.batch]
            screened, short = screen.on and not whole, 0
            if screened:
                left = screen.promising(0, left, signs)
            if settings.steps is not None and (screen.on or screen.untried or whole):
                short = len(left)
            if screened:
                left = screen.promising(1, left, signs)
            choices[-1].append(Choice(screen.on, short, left))
            if screen.untried or whole:
                known += [
                    Known((step, one.name), (step, hash(one.batch)), of_one, gain)
                    for of_one, gain in zip(one.signs_G, one.gains_G, strict=True)
                ]
    return choices


def check_screen(config: Config, signs: Sequence[str]) -> None:
    """Raises UserError where `validity` does not measure what `reward.screen` reads."""
    screen, validity = config.reward.screen, config.validity
    check_known("sign in reward.screen.signs that validity.signs reads", screen.signs, signs)
    check_known("reward.measure among validity.measures", [config.reward.measure], validity.measures)
    if screen.steps is not None and screen.steps not in validity.steps[:-1]:
        raise UserError(f"reward.screen.steps={screen.steps} is not in validity.steps, before those of whole students")


def judge_screen(
    config: Config, groups: Sequence[Group], batches: Sequence[int], signals: Sequence[Signal],
    target_DGR: np.ndarray, clusters: Sequence[Hashable],
) -> list[dict[str, Any]]:  # fmt: skip
    """Each of `WAYS`: what students train on as a share of all tokens, in the whole replay and `later`, after its first
    step, where a screen has nothing to be fitted on. The other figures are of the later steps: the share of documents
    at whose step lessons were left out (`on`), the `regret` of the choices, and its difference to that of all lessons,
    with p.

    Of the `signals` the students of `reward.measure` in the first of `validity.credits` are taken. Those of the most
    steps choose, and those of `reward.screen.steps` are the short ones. `batches` are of documents that share students.
    """
    screen = config.reward.screen
    students = [s for s in signals if s.measure == config.reward.measure and s.credit == config.validity.credits[0]]
    whole, short = students[-1], next((s for s in students if s.steps == screen.steps), None)
    tables = {name: s.values_DG for name in screen.signs for s in signals if s.name == SIGNS[name].words}
    if short is not None:
        tables[SHORT] = short.values_DG
    target_DG = np.where(np.isfinite(whole.values_DG), mean_of_runs(target_DGR), np.nan)
    lessons_D = [np.flatnonzero(np.isfinite(target_G)) for target_G in target_DG]
    signs_DG = [
        [strategy_signs([group.candidates[g].strategy]) | {name: float(of[d, g]) for name, of in tables.items()}
         for g in lessons_D[d]]
        for d, group in enumerate(groups)
    ]  # fmt: skip
    gains_D = [whole.values_DG[d, lessons] for d, lessons in enumerate(lessons_D)]
    noise, generator = measured_noise(whole.runs_DGR), np.random.default_rng(stable_seed(config.run.seed, "replay"))
    later_D: list[int] = []
    found: dict[str, list[tuple[float, bool, int]]] = {way: [] for way in WAYS}
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ORDERS):
        order = np.array_split(generator.permutation(max(batches) + 1), STEPS)
        steps = [[d for d, batch in enumerate(batches) if batch in of and len(lessons_D[d])] for of in order]
        replays = []
        for told_D in (gains_D, [generator.permutation(gains_G) for gains_G in gains_D]):
            whole_D = [
                Measured(group.document.id, batch, signs_G, gains_G.tolist())
                for group, batch, signs_G, gains_G in zip(groups, batches, signs_DG, told_D, strict=True)
            ]
            replays.append(replay(screen, [[whole_D[d] for d in step] for step in steps], noise, generator))
        for number, step in enumerate(steps):
            later_D += step if number else []
            for place, d in enumerate(step):
                kept = replays[0][number][place]
                some = generator.choice(len(gains_D[d]), len(kept.left), replace=False).tolist()
                everything = Choice(False, 0, list(range(len(gains_D[d]))))
                choices = (everything, kept, everything._replace(left=some), replays[1][number][place])
                for way, choice in zip(WAYS, choices, strict=True):
                    cost = choice.short * short.tokens / whole.tokens if short is not None else 0.0
                    costs[way].append((len(choice.left) + cost) / len(gains_D[d]))
                    if number:
                        best = lessons_D[d][max(choice.left, key=gains_D[d].__getitem__)]
                        found[way].append((costs[way][-1], choice.on, int(best)))
    names = [clusters[d] for d in later_D]
    lessons_G = np.arange(target_DG.shape[1])
    chosen = {way: 1.0 * (np.array([best for *_, best in of])[:, None] == lessons_G) for way, of in found.items()}
    results = []
    for way in WAYS:
        lost = regret(chosen[way], target_DG[later_D], names).estimate()
        more = regret_difference(chosen[way], chosen["all"], target_DG[later_D], names)
        later, on = (float(np.mean(column)) for column in list(zip(*found[way], strict=True))[:2])
        results.append(
            {"way": way, "tokens": float(np.mean(costs[way])), "later": later, "on": on, "regret": list(lost),
             "minus_all": None if way == "all" else [*more.estimate(), more.p]}
        )  # fmt: skip
    return results
