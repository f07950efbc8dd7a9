"""The index in which a run looks for related passages: made before the tasks, of all that reaches the teacher."""

from collections.abc import Iterator

from datatrove.data import Document

from curation.console.progress import say
from curation.corpus.filters import Cleaner
from curation.corpus.related import write_index
from curation.pipeline.dedup import read_verdicts
from curation.pipeline.inputs import CurationInputs
from curation.pipeline.reader import ReadShard
from curation.pipeline.steps import INDEX, RewriteWithTeacher


def index_corpus(inputs: CurationInputs, read: ReadShard) -> None:
    """Writes the index where a strategy reads a related passage, and it is not there from an earlier call. Takes one
    more reading of the input, by this process, in the memory of a passage; a killed call begins anew."""
    step, path = RewriteWithTeacher(inputs), inputs.work / INDEX
    if not step.reads_related or path.exists():
        return
    say(f"indexing {inputs.documents} documents for related passages")

    def passages() -> Iterator[tuple[Document, str]]:
        curation, tasks = inputs.config.curation, len(inputs.shards)
        with Cleaner(curation) as cleaner:
            for rank in range(tasks):
                verdicts = None if curation.dedup == "none" else read_verdicts(inputs.work, rank)
                for document in read.run(rank=rank, world_size=tasks):
                    if step.refusal(document, cleaner, verdicts) is None:
                        for passage in step.cutter.cut(document):
                            yield passage, step.licence(document)

    write_index(path, passages())
