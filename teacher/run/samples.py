"""Rewrites on disk: sampled ones that were not scored yet, and the journal's lines about what they earned."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from configs.files import read_own, write_whole
from teacher.records import Reward, Rewrite
from teacher.run.journal import Journal


def write_rewrites(path: Path, groups: Sequence[Sequence[Rewrite]]) -> None:
    """Groups of rewrites as JSON, whole or not at all."""
    write_whole(path, json.dumps([[asdict(rewrite) for rewrite in group] for group in groups], ensure_ascii=False))


def read_rewrites(path: Path) -> list[list[Rewrite]]:
    """What `write_rewrites` wrote."""
    return read_own(path, lambda groups: [[Rewrite(**rewrite) for rewrite in group] for group in groups])


def journal_rewrites(
    journal: Journal,
    groups: Sequence[Sequence[Rewrite]],
    rewards: Sequence[Sequence[Reward]] = (),
    *,
    arm: str,
    round: int,
    set_size: int,
    step: int = 0,
) -> None:
    """A line of rewrites.jsonl for each rewrite, with its reward's parts where it was rewarded. `sample` numbers the
    rewrites of a document in a step, `set` the lessons of `set_size` rewrites that they were taught in."""
    for d, group in enumerate(groups):
        for sample, rewrite in enumerate(group):
            line = {"arm": arm, "round": round, "step": step, "document_id": rewrite.document_id, "sample": sample}
            line |= {"set": sample // set_size, "strategy": rewrite.strategy, "rejected": rewrite.rejected}
            if rewards:
                reward = rewards[d][sample]
                gain = sum(reward.gains) / len(reward.gains) if reward.gains else None
                line |= {"reward": reward.value, "gain": gain, "gains": list(reward.gains), "noise": reward.noise}
                line |= {"penalties": reward.penalties}
                if reward.signs is not None:
                    line |= {"taught": reward.taught, "signs": reward.signs}
            line |= {"plan": rewrite.plan} if rewrite.plan else {}
            line |= {"reason": rewrite.reason} if rewrite.reason else {}
            journal.rewrites.append(line | {"text": rewrite.text})
