"""What can be set about curating a corpus; part of the config in `schema.py`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.executor import Ray, Slurm
from configs.schema.section import Section


class Filters(Section):
    """Steps before the teacher, in this order. A document that one refuses leaves with its reason, as `filtered`."""

    ftfy: bool = False
    """Repair broken encodings and remove control characters (ftfy)."""
    secrets: bool = False
    """Refuse documents with credentials of known forms: keys, tokens, private keys (detect-secrets)."""
    pii: bool = False
    """Replace e-mail and public IP addresses."""
    languages: tuple[str, ...] = ()
    """Keep documents in these languages (ISO 639-1), by py3langid; empty keeps all."""
    min_language_probability: float = Field(default=0.65, ge=0, le=1)
    """How sure the language must be."""
    gopher_repetition: bool = False
    """MassiveText's rules on repeated lines, paragraphs and n-grams (arXiv 2112.11446, table A1)."""
    gopher_quality: bool = False
    """MassiveText's rules on length, symbols, bullets and stop words (arXiv 2112.11446)."""
    c4: bool = False
    """C4's rules (JMLR 21/140): lines without terminal punctuation go, pages with too few sentences are refused."""
    fineweb: bool = False
    """FineWeb's rules on line ends, short and repeated lines (arXiv 2406.17557)."""


class Curation(Section):
    """What is curated, how, and what comes out."""

    input: tuple[str, ...] = ()
    """Shards to curate: JSONL (plain, .gz, .zst), Parquet or WARC files, folders or globs; local, any fsspec URL, or
    `hf://datasets/ORG/NAME`, read as a stream."""
    output: Path = Path("runs/experiment/dataset")
    """The dataset folder: data/*.parquet, manifest.json, README.md (the card)."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of each file."""
    writer: Literal["teacher", "echo"] = "teacher"
    """`echo` gives each document back as it is, without a model: it shows and measures the pipeline alone."""
    filters: Filters = Filters()
    dedup: Literal["none", "exact", "minhash"] = "none"
    """Keep one of the documents, over all files, whose filtered texts are equal, or also (`minhash`) nearly so."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks whose items no row may carry: `file:PATH.jsonl`, `text:PATH.jsonl`, `lm-eval:TASK`, `olmo:TASK`. An
    item is carried by `gates.leak_ngram` of its question's words in a row, a shorter one by question and answer."""
    embedder: str | None = None
    """A sentence-transformers model (folder or Hub id) that also finds items of `benchmarks` in other words: a sentence
    or two in a row that are like question and answer by `max_similarity`."""
    max_similarity: float = Field(default=0.85, gt=0, le=1)
    """Cosine from which a stretch of text carries an item, for `embedder`; the right number is each embedder's own."""
    decontaminate: bool = True
    """Refuse source documents that carry an item of `benchmarks`, before the teacher."""
    rewrites_per_document: int = Field(default=1, ge=1)
    strategies: dict[str, float] = Field(default_factory=dict)
    """Shares of the rewrites by strategy, e.g. {question-answer: 0.5, table: 0.5}, instead of even shares of
    `teacher.strategies`; weights, which need not sum to 1."""
    max_overlap: float = Field(default=0.9, gt=0, le=1)
    """Refuse a rewrite of whose word 4-grams more than this share stand in an earlier rewrite of its document."""
    keep_raw: float = Field(default=0.0, ge=0, le=1)
    """Share of the documents whose own text is mixed in, as one more row of strategy `raw`."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature while curating; null takes `teacher.evaluation_temperature`, else `teacher.temperature`."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """What runs the tasks, one input file each: processes here, a Slurm job array, or a Ray cluster."""
    workers: int = Field(default=1, ge=1)
    """Worker processes of this machine, one file each: those of `local`, and the search for duplicates."""
    slurm: Slurm = Slurm()
    ray: Ray = Ray()
    wait: bool = False
    """Under `slurm`: wait for the jobs and finish the dataset, instead of ending once they are queued."""
    shard_megabytes: int = Field(default=400, ge=1)
    """Size of a Parquet file of the dataset."""
    licence: str = "unknown"
    """Licence of rows whose metadata names none."""
    allow_unknown_licence: bool = False
    """Also curate documents whose licence is `unknown`."""
    language: str = "en"
    """Language of the texts (ISO 639-1): how filters and dedup cut words, and what the dataset card names."""
    source_datasets: tuple[str, ...] = ("original",)
    """Hub ids of the datasets that the shards come from, for the card; `original` where they come from none."""

    @field_validator("input", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        """One folder needs no list: `curation.input=DIR`."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _embedder(self) -> "Curation":
        if self.embedder is not None and not self.benchmarks:
            raise ValueError("curation.embedder looks for items of curation.benchmarks, which names none")
        return self

    @model_validator(mode="after")
    def _shares(self) -> "Curation":
        if any(share <= 0 for share in self.strategies.values()):
            raise ValueError("curation.strategies are shares above 0: leave out a strategy that gets none")
        return self

    def __hash__(self) -> int:
        # A config is a key of caches, and a dict has no hash.
        return hash(self.model_dump_json())
