"""Settings of the curation of a corpus: filters, teacher, what is refused, and where it runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from configs.schema.executor import Ray, Slurm
from configs.schema.section import Named, Section
from configs.schema.teacher import Teacher


def language_code(tag: Any) -> Any:
    """The shortest code of a language tag's language (BCP 47, ISO 639): `tha` and `th-TH` are `th`, `cmn` is `zh`. What
    is no tag stays, to be refused where the nearest ones are known."""
    import langcodes  # a student needs no config of a corpus

    if tag is False:  # `language: no` in YAML 1.1
        return "no"
    known = isinstance(tag, str) and langcodes.tag_is_valid(tag)
    return langcodes.Language.get(langcodes.standardize_tag(tag, macro=True)).language or tag if known else tag


Language = Annotated[str, BeforeValidator(language_code)]


Temperature = Annotated[float, Field(ge=0)]


class Filters(Section):
    """Steps before the teacher, in this order. A refused document is recorded as `filtered`, with the reason."""

    ftfy: bool = False
    """Repair broken encodings and remove control characters (ftfy)."""
    secrets: bool = False
    """Refuse documents with credentials of known forms: keys, tokens, private keys (detect-secrets)."""
    pii: bool = False
    """Replace e-mail and public IP addresses."""
    languages: tuple[Language, ...] = ()
    """Keep documents in these languages (as in `curation.language`), by py3langid; empty keeps all."""
    min_language_probability: float = Field(default=0.65, ge=0, le=1)
    """Least probability of the language, for `languages`."""
    gopher_repetition: bool = False
    """MassiveText's rules on repeated lines, paragraphs and n-grams (arXiv 2112.11446, table A1)."""
    gopher_quality: bool = False
    """MassiveText's rules on length, symbols, bullets and stop words (arXiv 2112.11446), for prose of web pages:
    of 2,222 manuals in Markdown they refused 1,434, most since marks and signs count as words without letters."""
    c4: bool = False
    """C4's rules (JMLR 21/140): drop lines without terminal punctuation, refuse pages with too few sentences."""
    fineweb: bool = False
    """FineWeb's rules on line ends, short and repeated lines (arXiv 2406.17557)."""


class Curation(Section):
    """What is rewritten, how, and what the dataset holds."""

    input: tuple[Named, ...] = ()
    """Files, folders or globs of documents: JSONL (plain, .gz, .zst), Parquet or WARC; local, any fsspec URL, or
    `hf://datasets/ORG/NAME`, read as a stream."""
    output: Path = Path("runs/experiment/dataset")
    """The dataset folder: data/*.parquet, manifest.json, README.md (the card)."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of each file."""
    writer: Literal["teacher", "echo"] = "teacher"
    """`echo` returns each document as it is, without a model: it shows and measures the pipeline alone. A `teacher`
    whose strategies are all ready (`teacher.strategies`) needs none either."""
    filters: Filters = Filters()
    dedup: Literal["none", "exact", "minhash"] = "none"
    """Keeps one of the documents, in all files, with equal (`exact`) or nearly equal (`minhash`) filtered texts."""
    benchmarks: tuple[Named, ...] = ()
    """Benchmarks whose items no row may hold: `file:PATH.jsonl`, `text:PATH.jsonl`, `lm-eval:TASK`, `olmo:TASK`. A text
    holds an item if it has `gates.leak_ngram` words of its question in a row, or a shorter question and the answer."""
    embedder: Named | None = None
    """A sentence-transformers model (folder or Hub id) that also finds items of `benchmarks` in other words: one or two
    sentences whose cosine similarity to question and answer is `max_similarity` or more."""
    max_similarity: float = Field(default=0.85, gt=0, le=1)
    """Least cosine similarity at which a text holds an item; each `embedder` needs a number of its own."""
    decontaminate: bool = True
    """Also refuse source documents that hold an item of `benchmarks`, before the teacher."""
    rewrites_per_document: int = Field(default=1, ge=1)
    """Rewrites of each document, or of each passage of one that is cut. They are dealt evenly over strategies, the
    temperatures of `temperature`, and the parts of the passage that `windows` names."""
    windows: tuple[Literal["whole", "halves", "thirds", "quarters"], ...] = Field(default=("whole",), min_length=1)
    """What the teacher reads of a passage: all of it, or a part, cut where sentences end. [whole, halves] deals
    rewrites of one passage over three windows: all of it, its first half and its second. A column says which. Texts
    that documents bring and plans are about all of it. Not with `rows: document`."""
    rows: Literal["passage", "document"] = "passage"
    """What a row is of a document that is cut (`data.passage_tokens`): one passage's rewrite, or those of all passages
    put together in order. A passage whose rewrite was refused then stands there as it is, and `raw_share` says how
    much of the document does."""
    best_of: int = Field(default=1, ge=1)
    """The teacher writes so many texts for each rewrite, and that is kept whose students are predicted to gain most, by
    the screen that the run in `run.dir` fitted on its own students (`teacher/screen.json`). The prediction stands in
    columns of the row. Refused where that screen tells too little (`reward.screen.floor`)."""
    strategies: dict[Named, float] = Field(default_factory=dict)
    """Relative share of each strategy, e.g. {question-answer: 2, table: 1}; empty: even, of `teacher.strategies`."""
    max_overlap: float = Field(default=0.9, gt=0, le=1)
    """A rewrite is refused if a larger share of its word 4-grams is in an earlier rewrite of its document."""
    keep_raw: float = Field(default=0.0, ge=0, le=1)
    """Share of the documents whose own text is added, as one more row of strategy `raw`."""
    temperature: Temperature | tuple[Temperature, ...] | None = None
    """Sampling temperature while curating, or a list of some that rewrites are dealt over; null takes
    `teacher.evaluation_temperature`, else `teacher.temperature`."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """What runs the tasks, one for each input file: processes of this machine, a Slurm job array, or a Ray cluster."""
    workers: int = Field(default=1, ge=1)
    """Processes of this machine, each on one file at a time: for `executor: local` and for finding duplicates."""
    slurm: Slurm = Slurm()
    ray: Ray = Ray()
    wait: bool = False
    """With `executor: slurm`: wait for the jobs and finish the dataset, instead of ending when they are queued."""
    shard_megabytes: int = Field(default=400, ge=1)
    """Size of a Parquet file of the dataset."""
    licence: str = "unknown"
    """Licence of documents whose metadata names none."""
    allow_unknown_licence: bool = False
    """Also curate documents whose licence is `unknown`."""
    language: Language = "en"
    """Language of the texts, for the dataset card, and for filters and dedup to divide them into words: a code of ISO
    639 or a tag of BCP 47, of which the language counts (`th`, `tha`, `pt-BR`). A filter that has no rules for it is
    refused."""
    source_datasets: tuple[str, ...] = ("original",)
    """For the card: Hub ids of the datasets that the documents come from; `original` if they come from none."""

    def temperatures(self, teacher: Teacher) -> tuple[float, ...]:
        """Those that the rewrites are dealt over."""
        if isinstance(self.temperature, tuple):
            return self.temperature
        one = (self.temperature, teacher.evaluation_temperature, teacher.temperature)
        return (next(temperature for temperature in one if temperature is not None),)

    @field_validator("input", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        # One folder needs no list: `curation.input=DIR`.
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> "Curation":
        if self.embedder is not None and not self.benchmarks:
            raise ValueError("curation.embedder looks for items of curation.benchmarks, which names none")
        if self.windows != ("whole",) and self.rows == "document":
            raise ValueError("curation.windows are parts of a passage, and curation.rows 'document' needs all of it")
        dealt = self.temperature
        if isinstance(dealt, tuple) and (not dealt or len(set(dealt)) < len(dealt)):
            raise ValueError("curation.temperature is a number, or a list of different ones")
        if any(share <= 0 for share in self.strategies.values()):
            raise ValueError("curation.strategies are shares above 0: leave out a strategy that gets none")
        return self
