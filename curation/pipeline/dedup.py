"""Finds the documents that repeat an earlier one, over all input files: equal texts, then similar ones by MinHash.

The texts are compared as the filters leave them. datatrove's stages do the work, one task a file; a document is named
by its place among its file's documents, which is the same in every reading. The result is one file of verdicts a task,
written whole: after a kill the stages that are not complete run again. The verdicts also have what the filters refused,
so that the second reading need not run those filters again.
"""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, minhash
from datatrove.pipeline.dedup.minhash import MinhashConfig

from configs.files import write_whole
from configs.schema.curation import Curation
from curation.console.progress import say
from curation.corpus.filters import Cleaner
from curation.corpus.languages import Signatures
from curation.pipeline.executors.local import run_tasks
from curation.pipeline.inputs import CurationInputs

# Its progress bar would mix with our own lines.
minhash.tqdm = partial(minhash.tqdm, disable=True)

MINHASH = MinhashConfig()
"""datatrove's (and FineWeb's): 14 buckets of 8 hashes over 5-grams, which finds a pair of similarity 0.8 in 92%."""

Place = tuple[int, int]
"""A document: its task, and its place among the task's documents."""


class Verdicts(NamedTuple):
    """What is known of a task's documents, by their rows: those that the filters refuse, and those that repeat another,
    with the task and row of the first."""

    refused: frozenset[int]
    repeats: dict[int, Place]


HASHES = np.dtype([("hash", "V16"), ("task", "<u4"), ("place", "<u4")])


class HashTexts(PipelineStep):
    """Runs the filters, writes a task's text hashes and row numbers, and passes the documents on. A document that the
    filters refuse keeps its place, and loses its text."""

    type = "🫂 - DEDUP"
    name = "Exact"

    def __init__(self, curation: Curation, folder: Path):
        super().__init__()
        self.curation, self.folder = curation, folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        records, rows = [], []
        with Cleaner(self.curation) as cleaner:
            for place, document in enumerate(data):
                text = "" if cleaner.clean(document) else document.text
                rows.append(document.metadata["source_row"])
                if text:
                    records.append((xxhash.xxh3_128_digest(" ".join(text.split())), rank, place))
                yield Document(text, document.id)
        write_whole(self.folder / f"{rank:05d}.rows", np.array(rows, dtype="<u8").tobytes())
        write_whole(self.folder / f"{rank:05d}.hashes", np.array(records, dtype=HASHES).tobytes())


def find_duplicates(inputs: CurationInputs, read: PipelineStep) -> None:
    """Writes the Verdicts of each task to `inputs.work`, or goes on after a killed call. `read` is the step that
    reads a task's documents."""
    curation, tasks = inputs.config.curation, len(inputs.shards)
    verdicts, scratch = inputs.work / "duplicates", inputs.work / "dedup"
    if (verdicts / "complete").exists():
        return
    say(f"looking for {curation.dedup} duplicates among {inputs.documents} documents")
    steps: list[PipelineStep] = [read, HashTexts(curation, scratch / "hashes")]
    near = curation.dedup == "minhash"
    if near:
        signatures, pairs = str(scratch / "signatures"), str(scratch / "pairs")
        steps.append(Signatures(signatures, MINHASH, curation.language))
    run_tasks(steps, tasks, curation.workers, scratch / "logs-read")
    # Maps each repeat to the first of its kind.
    repeats = exact_duplicates(sorted((scratch / "hashes").glob("*.hashes")))
    if near:
        buckets = MinhashDedupBuckets(signatures, pairs, config=MINHASH)
        run_tasks([buckets], MINHASH.num_buckets, curation.workers, scratch / "logs-pairs")
        clusters = MinhashDedupCluster(pairs, str(scratch / "clusters"), MINHASH, save_cluster_id=True)
        run_tasks([clusters], 1, 1, scratch / "logs-clusters")
        # Equal texts have equal signatures, so every chain of repeats ends in the first of a cluster.
        repeats |= near_duplicates(sorted((scratch / "clusters").glob("*.clusters")))
    rows = [np.fromfile(scratch / "hashes" / f"{task:05d}.rows", dtype="<u8") for task in range(tasks)]
    repeats_of: list[dict[int, Place]] = [{} for _ in range(tasks)]
    for (task, place), (first_task, first_place) in sorted(repeats.items()):
        repeats_of[task][int(rows[task][place])] = first_task, int(rows[first_task][first_place])
    for task in range(tasks):
        passed = np.fromfile(scratch / "hashes" / f"{task:05d}.hashes", dtype=HASHES)["place"]
        verdict = {"refused": np.delete(rows[task], passed).tolist(), "repeats": repeats_of[task]}
        write_whole(verdicts / f"{task:05d}.json", orjson.dumps(verdict, option=orjson.OPT_NON_STR_KEYS))
    write_whole(verdicts / "complete", b"")
    shutil.rmtree(scratch)


def read_verdicts(work: Path, task: int) -> Verdicts:
    """What `find_duplicates` wrote for a task."""
    verdict = orjson.loads((work / "duplicates" / f"{task:05d}.json").read_bytes())
    repeats = {int(row): (task, first) for row, (task, first) in verdict["repeats"].items()}
    return Verdicts(frozenset(verdict["refused"]), repeats)


def exact_duplicates(files: Iterable[Path]) -> dict[Place, Place]:
    """Each document that has the hash of an earlier one, with the first of them. Needs 24 bytes a document."""
    records = np.concatenate([np.frombuffer(path.read_bytes(), dtype=HASHES) for path in files])
    # Sorted by hash, then in the order of the input; a V16 has no order of its own.
    halves = records["hash"].copy().view("<u8").reshape(-1, 2)
    records = records[np.lexsort((records["place"], records["task"], halves[:, 0], halves[:, 1]))]
    same = np.flatnonzero(records["hash"][1:] == records["hash"][:-1]) + 1
    places = records[["task", "place"]]
    repeats: dict[Place, Place] = {}
    for index in same:
        before, document = places[index - 1].item(), places[index].item()
        repeats[document] = repeats.get(before, before)
    return repeats


def near_duplicates(files: Iterable[Path]) -> dict[Place, Place]:
    """Each document of a cluster but the first, with the first. (datatrove itself keeps an arbitrary one.)"""
    first: dict[int, Place] = {}
    repeats: dict[Place, Place] = {}
    for path in files:
        for place, cluster in sorted(np.frombuffer(path.read_bytes(), dtype="<u4").reshape(-1, 2).tolist()):
            document = (int(path.stem), place)
            if first.setdefault(cluster, document) != document:
                repeats[document] = first[cluster]
    return repeats
