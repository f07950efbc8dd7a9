"""How well lessons are told from noise: `notewright bench selection --json`.

Gains are simulated, everything else is the code of a run: noise is measured on the lessons that are taught twice (with
one repeat those of `teacher.reward.gain.PROBE_DOCUMENTS` documents of a round), a round has 48 documents, and
`teacher.algorithms.selection` chooses. The unit of all gains is the standard deviation of one run's noise.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from configs import schema
from configs.format import number
from configs.schema import Config
from curation.validity.screened import Measured, replay
from student.records import Outcome
from student.statistics.reliability import Noise, measured_noise
from teacher.algorithms.selection import best_units, units_of
from teacher.records import Prediction, Reward, Rewrite, SamplingError
from teacher.reward.gain import PROBE_DOCUMENTS
from teacher.reward.pooling import pooled_values
from teacher.reward.screen import SHORT

DOCUMENTS = 48
SIZES = (2, 4, 8, 16)
REPEATS = (1, 2)
REFUSED = (0, 1, 5)
SPREADS = (0.5, 1.0, 2.0)
STRATEGIES = 6
LEVEL = 0.05
SCREENED = ((0.0, 0.0), (0.4, 0.0), (0.8, 0.0), (0.0, 0.7), (0.6, 0.8))
"""Correlations of signs, and of a short training, with the true worth of a document's lessons."""
SCREENED_LESSONS = 16
EQUAL_DOCUMENTS = 12
SHOWN = ("regret", "kept", "false_keep")
SHORT_STEPS = 0.125
"""Of a student's steps."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NOISES: dict[str, Draw] = {
    "normal": lambda generator, size: generator.normal(size=size),
    "laplace": lambda generator, size: generator.laplace(size=size) / 2**0.5,
    "t5": lambda generator, size: generator.standard_t(5, size=size) / (5 / 3) ** 0.5,
    "t3": lambda generator, size: generator.standard_t(3, size=size) / 3**0.5,
}
"""Of variance 1. The level is stated for all but t3, whose kurtosis is infinite."""


class Round(NamedTuple):
    """A simulated round of D documents with G lessons."""

    true_DG: np.ndarray
    shown_DG: np.ndarray
    """Mean gain over repeats."""
    noise: Noise
    """As measured, of one run."""


class Judged(NamedTuple):
    """What lessons are judged by."""

    values_DG: np.ndarray
    errors_DG: Sequence[Sequence[SamplingError]]
    left_D: Sequence[Sequence[int]] = ()
    """Of each document the lessons that are taught; empty: all."""
    leads_D: Sequence[Prediction] = ()


def simulate(generator: np.random.Generator, true_DG: np.ndarray, repeats: int, draw: Draw) -> Round:
    """Gains of lessons of this true worth, each taught `repeats` times; a common seed moves a group by as much as the
    noise does a lesson."""
    D, G = true_DG.shape
    gains_DGR = true_DG[..., None] + draw(generator, (D, G, max(2, repeats)))
    gains_DGR += generator.normal(size=(D, 1, gains_DGR.shape[2]))
    noise = measured_noise(gains_DGR if repeats > 1 else gains_DGR[:PROBE_DOCUMENTS])
    assert noise is not None
    return Round(true_DG, gains_DGR[..., :repeats].mean(2), noise)


def kept_lessons(judged: Judged, refused: int, level: float | None) -> list[int | None]:
    """The lesson of each document that a run would learn from; the first `refused` of each are refused by a gate."""
    settings = Config.model_validate({"rl": {"false_keep": level}})
    G = judged.values_DG.shape[1]
    group = [Rewrite(document_id="", strategy="", text=str(g), completion="", prompt="") for g in range(G)]
    chosen: list[int | None] = []
    for d, (values_G, errors_G) in enumerate(zip(judged.values_DG.tolist(), judged.errors_DG, strict=True)):
        left = judged.left_D[d] if judged.left_D else range(G)
        ahead = judged.leads_D[d] if judged.leads_D else None
        rewards = [
            Reward(value=min(values_G) - 1.0, outcome=None)
            if g < refused
            else Reward(value=value, outcome=Outcome(gain=value), gains=(value,), error=error, ahead=ahead)
            for g, (value, error) in enumerate(zip(values_G, errors_G, strict=True))
        ]
        rewards = [replace(reward, taught=g in left) for g, reward in enumerate(rewards)]
        units = units_of(settings.reward, settings.rl, group, rewards)
        best = best_units(settings.reward, settings.rl, units)
        chosen.append(int(best[0].rewrites[0].text) if best else None)
    return chosen


def own_errors(round: Round, repeats: int) -> list[list[SamplingError]]:
    """Errors of the lessons' own mean gains, as `GainReward` gives them."""
    error = SamplingError((round.noise.variance / repeats) ** 0.5, round.noise.degrees)
    return [[error] * round.true_DG.shape[1]] * len(round.true_DG)


def pooled(round: Round, shares_DGS: np.ndarray, left_D: Sequence[list[int]]) -> Judged:
    """Predictions of `reward.pool_strategies` where the lessons `left_D` are taught."""
    D, G, S = shares_DGS.shape
    shares_LS, numbers_DT = shares_DGS.reshape(-1, S), [[d * G + g for g in left] for d, left in enumerate(left_D)]
    numbers_N = np.array([number for numbers_T in numbers_DT for number in numbers_T])
    found = pooled_values(round.shown_DG.ravel()[numbers_N], numbers_N[:, None], numbers_N // G, shares_LS, round.noise)
    errors = [[found.error(d * G + g) for g in range(G)] for d in range(D)]
    leads = [found.lead(shares_LS, numbers_T, range(d * G, d * G + G)) for d, numbers_T in enumerate(numbers_DT)]
    return Judged(found.values_L.reshape(D, G), errors, left_D, leads)


def run_bench(rounds: int = 60) -> dict[str, Any]:
    """Simulates so many rounds of every design. Keys of the result:

    * `false_keep`: lessons of a document are all equal. `rate`: share of documents of which one is kept at the level
      of 5%; `without_level`: by `rl.false_keep: null`.
    * `power`: the true worth of a group's 8 lessons is normal with standard deviation `spread`, as is noise. `kept`:
      share of documents of which one is kept; `true_gain`: its mean true worth above the group's mean;
      `true_gain_without_level` of the best of each group; `best` of the truly best.
    * `pooled`: the same of predictions by `reward.pool_strategies` over six strategies. `effect` and `own` are the
      standard deviations of the strategies' worth and of the lessons' own. `regret` is how much less the lesson of the
      highest prediction is truly worth than the best of its group, `regret_alone` that of the highest own gain.
      `of_two`: the same where in three of four documents only the two lessons of the best strategies are taught.
    * `screened`: runs of four rounds with `reward.screen`, of 16 lessons a document whose true worth has the noise's
      standard deviation; of further 12 documents a round, about which the signs are wrong, all lessons are equal. All
      figures are of rounds 2 to 4. `on`: share of rounds in which lessons are left out; `tokens` that students train
      on, as a share of those without a screen; `regret`, of the lead of the truly best over the mean; `kept`: share
      of documents of which a lesson is kept; `false_keep`: the same where all are equal; each `..._of_all` without a
      screen.
    """
    generator = np.random.default_rng(0)
    false_keep, power, predictions = [], [], []
    for name, draw in NOISES.items():
        for size in SIZES:
            for repeats in REPEATS:
                simulated = [simulate(generator, np.zeros((DOCUMENTS, size)), repeats, draw) for _ in range(rounds)]
                # With one lesson left nothing is compared.
                for refused in (refused for refused in REFUSED if size - refused >= 2):
                    rates = [
                        statistics.fmean(
                            choice is not None
                            for one in simulated
                            for choice in kept_lessons(Judged(one.shown_DG, own_errors(one, repeats)), refused, level)
                        )
                        for level in (LEVEL, None)
                    ]
                    false_keep.append(
                        {"noise": name, "lessons": size, "repeats": repeats, "refused": refused,
                         "rate": rates[0], "without_level": rates[1]}
                    )  # fmt: skip
    for spread in SPREADS:
        for repeats in REPEATS:
            truths = (spread * generator.normal(size=(DOCUMENTS, 8)) for _ in range(rounds))
            simulated = [simulate(generator, true_DG, repeats, NOISES["normal"]) for true_DG in truths]
            values = [Judged(one.shown_DG, own_errors(one, repeats)) for one in simulated]
            power.append({"spread": spread, "repeats": repeats, **_power(simulated, values)})
    for effect, own in ((0.0, 0.0), (1.0, 0.2), (1.0, 3.0)):
        simulated, values, of_two = [], [], []
        for true_DG, shares_DGS, worth_DG in _of_strategies(generator, rounds, effect, own):
            simulated.append(simulate(generator, true_DG, 1, NOISES["normal"]))
            best_DG = np.argsort(-worth_DG, 1, kind="stable").tolist()
            left_D = [best_G[: None if d < DOCUMENTS // 4 else 2] for d, best_G in enumerate(best_DG)]
            values.append(pooled(simulated[-1], shares_DGS, best_DG))
            of_two.append(pooled(simulated[-1], shares_DGS, left_D))
        regret = statistics.fmean(_regret(one, judged.values_DG) for one, judged in zip(simulated, values, strict=True))
        alone = statistics.fmean(_regret(one, one.shown_DG) for one in simulated)
        regrets = {"regret": regret, "regret_alone": alone, "of_two": _power(simulated, of_two)}
        predictions.append({"effect": effect, "own": own, **_power(simulated, values), **regrets})
    screened = [
        {"signs": signs, "short": short, **_screened(generator, max(1, rounds // 4), signs, short)}
        for signs, short in SCREENED
    ]
    return {"level": LEVEL, "rounds": rounds, "documents": DOCUMENTS, "false_keep": false_keep, "power": power,
            "pooled": predictions, "screened": screened}  # fmt: skip


def _screened(generator: np.random.Generator, runs: int, signs: float, short: float) -> dict[str, float]:
    """See `run_bench`; `teacher.reward.screen` decides, on planted signs."""
    settings = schema.Screen(signs=("length",), steps=1 if short else None)
    D, G = DOCUMENTS + EQUAL_DOCUMENTS, SCREENED_LESSONS
    errors = [[SamplingError(1.0, 1000.0)] * G] * D
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        truths, steps = [], []
        for step in range(4):
            told_DG = generator.normal(size=(D, G))
            cheap_DG, early_DG = (
                r * told_DG + (1 - r**2) ** 0.5 * generator.normal(size=(D, G)) for r in (signs, short)
            )
            told_DG[DOCUMENTS:] = 0.0
            gain_DG = told_DG + generator.normal(size=(D, G))
            early = {SHORT: early_DG} if short else {}
            signs_DG = [[{name: table[d, g] for name, table in ({"cheap": cheap_DG} | early).items()} for g in range(G)]
                        for d in range(D)]  # fmt: skip
            truths.append(told_DG)
            steps.append([Measured(f"{step} {d}", d, signs_DG[d], gain_DG[d].tolist()) for d in range(D)])
        replayed = replay(settings, steps, Noise(1.0, 1000.0), generator)
        for true_DG, documents, choices in list(zip(truths, steps, replayed, strict=True))[1:]:
            gain_DG = np.array([one.gains_G for one in documents])
            found["on"].append(choices[0].on)
            found["tokens"].append(statistics.fmean(len(c.left) + SHORT_STEPS * c.short for c in choices) / G)
            for suffix, left_D in (("", [choice.left for choice in choices]), ("_of_all", [list(range(G))] * D)):
                best_D = [max(left, key=gain_DG[d].__getitem__) for d, left in enumerate(left_D)]
                lost_D = true_DG.max(1) - true_DG[np.arange(D), best_D]
                kept_D = np.array([g is not None for g in kept_lessons(Judged(gain_DG, errors, left_D), 0, LEVEL)])
                found[f"regret{suffix}"].append(lost_D[:DOCUMENTS].mean())
                found[f"kept{suffix}"].append(kept_D[:DOCUMENTS].mean())
                found[f"false_keep{suffix}"].append(kept_D[DOCUMENTS:].mean())
    lead = float(np.random.default_rng(0).normal(size=(20_000, G)).max(1).mean())
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means | {name: means[name] / lead for name in means if name.startswith("regret")}


def _of_strategies(
    generator: np.random.Generator, rounds: int, effect: float, own: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """True worth (D, G), strategies' shares (D, G, S) and the part of the worth that is theirs (D, G), of rounds of 8
    lessons, each of one strategy."""
    for _ in range(rounds):
        shares_DGS = np.eye(STRATEGIES)[generator.integers(STRATEGIES, size=(DOCUMENTS, 8))]
        worth_DG = shares_DGS @ (effect * generator.normal(size=STRATEGIES))
        yield worth_DG + own * generator.normal(size=worth_DG.shape), shares_DGS, worth_DG


def _power(simulated: Sequence[Round], values: Sequence[Judged]) -> dict[str, Any]:
    gains: dict[float | None, list[float]] = {LEVEL: [], None: []}
    best: list[float] = []
    for one, judged in zip(simulated, values, strict=True):
        lead_DG = one.true_DG - one.true_DG.mean(1, keepdims=True)
        best += lead_DG.max(1).tolist()
        for level, found in gains.items():
            choices = kept_lessons(judged, 0, level)
            found += [float(lead_DG[d, g]) for d, g in enumerate(choices) if g is not None]
    return {
        "kept": len(gains[LEVEL]) / len(best),
        "true_gain": statistics.fmean(gains[LEVEL]) if gains[LEVEL] else None,
        "true_gain_without_level": statistics.fmean(gains[None]) if gains[None] else None,
        "best": statistics.fmean(best),
    }


def _regret(one: Round, values_DG: np.ndarray) -> float:
    chosen_D = values_DG.argmax(1)
    return float(np.mean(one.true_DG.max(1) - one.true_DG[np.arange(len(chosen_D)), chosen_D]))


def table(result: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = [
        f"false keeps at a level of {result['level']:.0%} (without level), over noise, repeats and refused lessons:"
    ]
    for size in SIZES:
        of_size = [line for line in result["false_keep"] if line["lessons"] == size]
        for noise in NOISES:
            rates = [line["rate"] for line in of_size if line["noise"] == noise]
            without = [line["without_level"] for line in of_size if line["noise"] == noise]
            lines.append(f"  {size:2} lessons, {noise:8} at most {max(rates):.3f} ({max(without):.2f})")
    lines.append("groups of 8 with real differences: kept, true gain of the kept (of the best of each group; best)")
    for line in result["power"]:
        lines.append(f"  spread {line['spread']:.1f}, {line['repeats']} repeats: {_gains(line)}")
    lines.append("predictions by six strategies: the same, and regret (of own gains)")
    for line in result["pooled"]:
        regret = f"regret {line['regret']:.3f} ({line['regret_alone']:.3f})"
        lines.append(f"  effect {line['effect']:.1f}, own {line['own']:.1f}: {_gains(line)}, {regret}")
        lines.append(f"    two lessons taught in three of four documents: {_gains(line['of_two'])}")
    lines.append("screened lessons: rounds with a screen, tokens; regret, kept and false keeps (of all lessons)")
    for line in result["screened"]:
        name = f"signs {line['signs']:.1f}, short {line['short']:.1f}"
        pairs = (f"{key.replace('_', ' ')} {line[key]:.3f} ({line[f'{key}_of_all']:.3f})" for key in SHOWN)
        lines.append(f"  {name}: on {line['on']:.2f}, tokens {line['tokens']:.2f}; {', '.join(pairs)}")
    return "\n".join(lines)


def _gains(line: dict[str, Any]) -> str:
    gain, without = number(line["true_gain"], 2), number(line["true_gain_without_level"], 2)
    return f"kept {line['kept']:.2f}, gain {gain} ({without}; {line['best']:.2f})"
