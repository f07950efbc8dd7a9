"""`notewright plan`: what a run will take, from about a minute of measuring; nothing is trained or curated for good.

    notewright plan CONFIG.yaml --device h100 --price 2.5

Every figure has an interval and says whether it was counted, measured here, extrapolated, calculated from the config,
or assumed. What cannot be measured on this machine is assumed, in words.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.schema import Config
from curation.console.progress import say
from curation.pipeline.fingerprint import shards_of
from curation.plan.corpus import survey_corpus
from curation.plan.gpus import (
    END_TO_END,
    SWEEP_SOURCE,
    TRAINING_SHARE,
    Device,
    beyond_sweep,
    find_device,
    student_seconds,
    writing_speed,
)
from curation.plan.models import model_size
from curation.plan.quantity import Quantity, exact, inverse, product, total
from curation.plan.teacher import PipelineFigures, TeacherFigures, measure_pipeline, measure_teacher
from curation.plan.training import StudentCost, StudentRunCounts, count_students, student_cost, training_documents

SAMPLE = 256
PARTS_FACTOR = 2.2
"""Disk at the merger: parts and final files, each about the dataset's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratePlan:
    """Of `notewright curate`. Hours and dollars are of the whole run."""

    files: int
    files_read: int
    """Of these, looked into for the plan."""
    gigabytes_in: float
    sampled: int
    documents: Quantity
    documents_written: Quantity
    """Those that reach the teacher."""
    tokens_in: Quantity
    """Of the documents that reach the teacher, without the prompt's words around them."""
    rewrites: Quantity
    tokens_written: Quantity
    """By the teacher, refused rewrites included."""
    tokens_out: Quantity
    """Of the kept rows, originals that are mixed in included."""
    kept: Quantity
    """Share of the rewrites."""
    teacher: TeacherFigures
    pipeline: PipelineFigures
    hours_here: Quantity | None
    """On this machine as it is now; None where the teacher was not run."""
    pipeline_cpu_hours: Quantity
    gpu_hours: Quantity | None
    """On the assumed device; None where nobody tells the teacher's size."""
    gpus_at_least: int | None
    """Of the assumed device, so that weights and a fifth more fit."""
    dataset_gb: Quantity
    disk_gb: Quantity
    """At the most, while the run is going."""
    dollars: Quantity | None
    dollars_per_billion: Quantity | None
    """For a billion tokens of kept rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """Of `notewright train`."""

    documents: int
    heldout: int
    rounds: int
    runs: StudentRunCounts
    students: tuple[StudentCost, ...]
    rewrite_tokens: Quantity
    hours_here: Quantity | None
    """Sampling and students; the teacher's own updates come on top."""
    gpu_hours: Quantity | None
    """The same by arithmetic on the assumed device: at least that, since small models leave a GPU idle in between."""
    dollars: Quantity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a config will take. A part that the config does not name is None."""

    curate: CuratePlan | None
    train: TrainPlan | None
    device: Device
    price: float | None
    """Dollars a GPU-hour."""
    notes: tuple[str, ...]
    """What is assumed, and why."""


def make_plan(
    config: Config,
    *,
    device: str = "h100",
    price: float | None = None,
    parameters: float | None = None,
    tell: Callable[[str], None] = say,
) -> Plan:
    """Measures what it can in about a minute, and works out the rest.

    `parameters` is the teacher's size, where neither its files nor its name tell it. Raises UserError if the config
    names nothing to curate or train on, or a device without figures.
    """
    disable_progress_bar()
    gpu = find_device(device)
    notes: list[str] = []
    curate = _plan_curate(config, gpu, price, parameters, notes, tell) if config.curation.input else None
    train = None
    if config.data.train or (config.data.limit and config.student.names[0]):
        train = _plan_train(config, gpu, price, parameters, curate.teacher if curate else None, notes, tell)
    if curate is None and train is None:
        raise UserError("nothing to plan: name curation.input, or data.train")
    if any(part is not None and part.gpu_hours is not None for part in (curate, train)):
        notes.append(
            f"assumed for {gpu.name}: {SWEEP_SOURCE}, between models by parameters on a log-log line, of which a whole"
            f" run reaches {END_TO_END[0]:.0%}-{END_TO_END[1]:.0%}; other GPUs by data sheet; training at"
            f" {TRAINING_SHARE:.0%} of peak"
        )
    return Plan(curate=curate, train=train, device=gpu, price=price, notes=tuple(dict.fromkeys(notes)))


def _plan_curate(
    config: Config, device: Device, price: float | None, parameters: float | None, notes: list[str],
    tell: Callable[[str], None],
) -> CuratePlan:  # fmt: skip
    curation = config.curation
    shards = shards_of(config)
    tell(f"looking into {len(shards)} input file{'s' * (len(shards) > 1)}")
    corpus = survey_corpus(shards, curation.limit, SAMPLE)
    pipeline = measure_pipeline(config, corpus.sample)
    teacher = measure_teacher(config, corpus.sample, parameters, tell)
    notes += teacher.notes
    if curation.dedup != "none":
        notes.append("duplicates are not seen in a sample: with them there is less to write than planned")
    reached = product(corpus.documents, pipeline.past_filters)
    rewrites = product(reached, exact(curation.rewrites_per_document))
    tokens_in = product(reached, teacher.source_tokens)
    tokens_written = product(rewrites, teacher.written_tokens)
    tokens_out = total(
        product(rewrites, teacher.kept, teacher.kept_tokens), product(tokens_in, exact(curation.keep_raw))
    )
    cpu_hours = product(corpus.documents, pipeline.cpu_ms, exact(1 / 3.6e6))
    here = None
    if curation.writer == "echo":
        here = product(cpu_hours, exact(1 / curation.workers))
    elif teacher.tokens_per_second:
        writing = product(tokens_written, exact(1 / teacher.tokens_per_second / 3600, "measured"))
        here = total(writing, product(cpu_hours, exact(1 / curation.workers)))
    gpu_hours = gpus = dollars = per_billion = None
    if teacher.parameters is not None:
        speed = _speed(device, teacher.parameters, notes)
        gpu_hours = product(tokens_written, inverse(speed), exact(1 / 3600))
        gpus = math.ceil(1.2 * 2 * teacher.parameters.value / 1e9 / device.memory_gb)
        if price is not None:
            dollars = product(gpu_hours, exact(price))
            per_billion = _per_billion(price, speed, teacher.kept, tokens_written.value, tokens_out.value)
    if not teacher.kept.value:
        notes.append(f"none of {teacher.rewrites_measured} rewrites was kept: look why with `notewright preview`")
    # Tokens to characters as in the sample's documents.
    characters = sum(len(document.text) for document in corpus.sample) / len(corpus.sample)
    per_token = product(exact(characters * pipeline.bytes_per_character, "measured"), inverse(teacher.source_tokens))
    dataset = product(tokens_out, per_token, exact(1e-9))
    return CuratePlan(
        files=corpus.files,
        files_read=corpus.files_read,
        gigabytes_in=corpus.bytes / 1e9,
        sampled=len(corpus.sample),
        documents=corpus.documents,
        documents_written=reached,
        tokens_in=tokens_in,
        rewrites=rewrites,
        tokens_written=tokens_written,
        tokens_out=tokens_out,
        kept=teacher.kept,
        teacher=teacher,
        pipeline=pipeline,
        hours_here=here,
        pipeline_cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        gpus_at_least=gpus,
        dataset_gb=dataset,
        disk_gb=product(dataset, exact(PARTS_FACTOR)),
        dollars=dollars,
        dollars_per_billion=per_billion,
    )


def _speed(device: Device, parameters: Quantity, notes: list[str]) -> Quantity:
    """Tokens a second that a whole run writes on one such device."""
    if beyond_sweep(parameters.value):
        notes.append(f"{parameters.value:.3g} parameters are beyond the models of the sweep: its ends are carried on")
    low, high = writing_speed(device, parameters.value)
    return Quantity((low + high) / 2, low, high, "assumed")


def _per_billion(price: float, speed: Quantity, kept: Quantity, written: float, out: float) -> Quantity | None:
    """Dollars for a billion tokens of rows. The number of documents cancels out: what is unsure is the speed and the
    kept share. None where nothing is kept."""
    if not kept.value or not out:
        return None
    share = Quantity(1.0, kept.value / kept.high, kept.value / max(kept.low, 1e-9), kept.how)
    return product(exact(price * 1e9 / 3600 * written / out), share, inverse(speed))


def _plan_train(
    config: Config, device: Device, price: float | None, parameters: float | None, teacher: TeacherFigures | None,
    notes: list[str], tell: Callable[[str], None],
) -> TrainPlan:  # fmt: skip
    documents, train, heldout = training_documents(config, notes)
    runs = count_students(config, train, heldout)
    if teacher is None or teacher.parameters is None:
        # Nothing to curate (or an echo does it): the documents to train on are what the teacher is tried on.
        writes = config.model_copy(update={"curation": _on_training_documents(config)})
        teacher = measure_teacher(writes, documents[:SAMPLE], parameters, tell) if documents else None
        notes += teacher.notes if teacher is not None else ()
    most = float(config.teacher.max_new_tokens)
    length = teacher.written_tokens if teacher is not None else Quantity(most / 2, most / 8, most, "assumed")
    if teacher is None:
        notes.append(f"a rewrite is assumed to have half of teacher.max_new_tokens ({most:.0f})")
    costs = tuple(student_cost(config, name, documents, length, tell) for name in config.student.names)
    notes += (note for cost in costs for note in cost.notes)
    each = exact(runs.total / len(costs))
    sampled = product(exact(runs.rewrites), length)
    here = gpu = None
    if teacher is not None and teacher.tokens_per_second and all(cost.seconds_here for cost in costs):
        sampling = product(sampled, exact(1 / teacher.tokens_per_second / 3600, "measured"))
        taught = (product(cost.seconds_here, each, exact(1 / 3600)) for cost in costs if cost.seconds_here)
        here = total(sampling, *taught)
    size = teacher.parameters if teacher is not None else model_size(config.teacher.model, parameters, notes)
    if size is not None and all(cost.parameters for cost in costs):
        taught = (
            product(exact(student_seconds(device, cost.parameters.value, 1.0, full=config.student.mode == "full")),
                    cost.tokens, each, exact(1 / 3600, "assumed"))
            for cost in costs
            if cost.parameters
        )  # fmt: skip
        writing = product(sampled, inverse(_speed(device, size, notes)), exact(1 / 3600))
        gpu = total(writing, *taught)
    return TrainPlan(
        documents=train,
        heldout=heldout,
        rounds=config.rl.rounds,
        runs=runs,
        students=costs,
        rewrite_tokens=length,
        hours_here=here,
        gpu_hours=gpu,
        dollars=product(gpu, exact(price)) if gpu is not None and price is not None else None,
    )


def _on_training_documents(config: Config) -> Any:
    """The curation settings under which a training document is rewritten: no filters, one rewrite."""
    return config.curation.model_copy(
        update={"writer": "teacher", "filters": type(config.curation.filters)(), "benchmarks": (), "strategies": {},
                "rewrites_per_document": 1, "keep_raw": 0.0, "allow_unknown_licence": True, "dedup": "none"}
    )  # fmt: skip


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, each figure as {value, low, high, how}."""

    def plain(value: Any) -> Any:
        if isinstance(value, Quantity):
            return {name: plain(part) for name, part in value._asdict().items()}
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple | list):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in plain(plan).items()}
