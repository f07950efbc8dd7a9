"""What is compared and how, written before anything is measured and kept with the run."""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.files import write_whole
from configs.load import differences

DESIGN_FILE = "design.json"

STATISTICS = {
    "unit": "A rewrite within its document: what differs between documents counts nowhere.",
    "clusters": "Titles, where documents have one, else documents.",
    "correlation": "Spearman's rank correlation within each document (equal values share their mean rank), and its mean"
    " over documents, each with the weight of its number of rewrites minus one. 95% by the jackknife over clusters.",
    "silent": "A document where the signal or the target is the same for all rewrites says nothing about the"
    " correlation, and is counted. A signal that is so everywhere cannot be told.",
    "p": "Two-sided, that the correlation is 0, by the jackknife or, where that is larger, by the variance of chance"
    " orders; Holm's correction over all signals.",
    "corrected": "The correlation of the values that noise hides: the covariance within documents over the root of both"
    " true variances (Spearman 1904), with Fieller's 95% interval. Signals have noise where students are trained. It is"
    " given where both sides have two runs, and only where the interval has an end; at a low reliability it is wide.",
    "regret": "The target of the best rewrite minus that of the one with the largest signal, over that of the best"
    " minus the mean, each summed over documents: 0 is the best choice, 1 a random one. Among equal signals the choice"
    " is at random. The best is the best as measured: where the target is noisy no signal reaches 0.",
    "cost": "Tokens that students train on and seconds, a rewrite.",
    "recommendation": "Of the signals with a corrected p below 0.05 and a correlation above 0 the one of the smallest"
    " regret is the best. The cheapest of them (in tokens, then in seconds) is recommended whose regret is not"
    " detectably above the best one's (95% interval of the difference, over clusters). Without such a signal none is"
    " detectably better than chance.",
}


def fix_design(folder: Path, design: dict[str, Any], *, begun: bool) -> None:
    """Writes the design or, where students have been measured under one, holds it against that. Raises UserError where
    they differ."""
    path = folder / DESIGN_FILE
    design = json.loads(json.dumps(design | {"statistics": STATISTICS}))
    if begun and path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read; name another run.dir") from None
        changed = [f"{key}: {old!r} -> {new!r}" for key, old, new in differences(earlier, design)]
        if changed:
            raise UserError(
                f"{folder} was begun with another design ({'; '.join(changed[:3])}); name another run.dir to measure"
                " this one"
            )
        return
    write_whole(path, json.dumps(design, indent=1, ensure_ascii=False) + "\n")
