"""Reads the documents of a shard, for all steps of a task."""

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from curation.corpus.finding import Shard
from curation.corpus.shards import read_shard
from curation.corpus.training_data import training_id


class ReadShard(PipelineStep):
    """Task `rank` reads the documents of shard `rank`; preflight recorded unreadable rows.

    `documents` are the numbers of preflight, one a shard. Where a shard gives another number now (its store failed for
    a while), RunError is raised at its end, so that the next step does not take the break for the end of the file.
    """

    type = "📖 - READER"
    name = "Shard"

    def __init__(self, shards: list[Shard], limit: int | None, documents: list[int] | None = None):
        super().__init__()
        self.shards, self.limit, self.documents = shards, limit, documents

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        assert world_size == len(self.shards), "one task a shard"
        shard, count, broken = self.shards[rank], 0, ""
        for item in read_shard(shard, self.limit):
            if isinstance(item, Document):
                count += 1
                item.metadata["training_id"] = training_id(shard, item.metadata["source_row"], item.text)
                self.update_doc_stats(item)
                yield item
            elif item.row is None:
                broken = f" ({item.reason})"
        if self.documents is not None and count != self.documents[rank]:
            raise RunError(
                f"{shard.name} gave {count} documents, and {self.documents[rank]} when it was checked{broken}: once it "
                "can be read again, the same command goes on from there"
            )
