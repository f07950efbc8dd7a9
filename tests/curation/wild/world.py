"""A small experiment that works, and what a call of it that is broken must do."""

import traceback
from collections.abc import Sequence
from typing import Any

from curation.cli import main

CONFIG = """
run: {dir: run}
data: {train: [train.jsonl], heldout: [heldout.jsonl]}
student: {model: student, steps: 2, device: cpu, lora: {rank: 2}}
teacher:
  {model: teacher, prompting: policy, strategies: [copy, question-answer, permuted], max_new_tokens: 6, lora: null,
   batch_size: 16, device: cpu}
gates: {min_words: 1, max_repetition: 1.0, truncated: false}
reward: {documents_per_student: 2}
rl: {rounds: 1, documents_per_round: 4, group_size: 2, learning_rate: 0.01, false_keep: null, rest_em: {batch_size: 4}}
curation: {input: [corpus.jsonl], output: dataset, licence: mit}
evaluation: {arms: [none, raw], seeds: 1, against: raw, steps: 2, tokens_per_step: 16}
validity: {documents: 2}
"""
ON_STDOUT = ("doctor", "init", "preview")
"""Verbs that say on stdout what they found."""


def complaint(capfd: Any, arguments: Sequence[str], says: Sequence[str], passes: Sequence[str] | None = None) -> str:
    """What is wrong with how the call ended; empty where it is as it should be: exit code 1 or 2, and one last line on
    stderr with one of the words `says`. Where `passes` is given the call may also do without what is broken, and then
    says one of these words (none: it need not say anything)."""
    capfd.readouterr()
    try:
        code = main(list(arguments))
    except BaseException as error:
        return f"raised {''.join(traceback.format_exception(error))[-1500:]}"
    out, err = capfd.readouterr()
    lines = err.splitlines()
    said = " ".join(f"{err} {out if arguments[0] in ON_STDOUT else ''}".split())
    if "Traceback" in err + out:
        return f"a traceback: {err[-500:]}"
    if code == 0:
        silent = passes is None or (passes and not any(word in said for word in passes))
        return f"exit 0 without a word: {said[-400:]}" if silent else ""
    if code not in (1, 2):
        return f"exit {code}"
    if arguments[0] in ("doctor", "score") and code == 1 and any(word in said for word in says):
        return ""
    if not lines or not lines[-1].startswith("error: ") or sum(line.startswith("error: ") for line in lines) != 1:
        return f"no last line of error: {err[-500:]!r}"
    if not any(" ".join(word.split()) in lines[-1] for word in says):
        return f"no word of {says}: {lines[-1]}"
    return f"a line of {len(lines[-1])} characters: {lines[-1][:300]}" if len(lines[-1]) > 1200 else ""
