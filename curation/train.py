"""A config's training run: reads the documents that it names, and trains its teacher on students of this process."""

from functools import partial

from transformers.utils.logging import disable_progress_bar

from configs.schema import Config
from curation.console.progress import say
from curation.corpus.exam_items import all_evaluation_items
from curation.corpus.training_data import read_splits
from student.pools import make_pool
from teacher.algorithms.table import start_ranks
from teacher.training.loop import train_teacher
from teacher.training.summary import TrainSummary


def train_from_config(config: Config) -> TrainSummary:
    """Trains, or goes on training, the teacher in `run.dir`; progress goes to stderr. Raises UserError and RunError."""
    disable_progress_bar()  # a bar for each model that is loaded would hide the lines of progress
    ranks = start_ranks(config)
    with ranks.rank_0_first():  # it may write questions
        train, heldout = read_splits(config)
    if not heldout and not ranks.is_helper:
        say("data.heldout is not set: the gain of the trained teacher will not be measured")
    pools = partial(make_pool, sharing=len(config.student.names))
    items = all_evaluation_items(config)
    return train_teacher(config, train, heldout, pools, progress=say, ranks=ranks, exam_items=items)
