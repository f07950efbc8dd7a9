"""`notewright plan`: what a run will take, from about a minute of measuring; nothing is trained or curated for good.

Every quantity has an interval and says whether it was counted, measured here, extrapolated, calculated from the config,
or assumed. What cannot be measured on this machine is assumed, in words.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.format import amount, without_nan
from configs.schema import Config
from configs.schema.curation import Filters
from curation.console.progress import say
from curation.corpus.inputs import model_writes
from curation.pipeline.inputs import find_input
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
from curation.plan.quantity import Quantity, exact
from curation.plan.teacher import PipelineCost, TeacherCost, measure_pipeline, measure_teacher
from curation.plan.training import StudentCost, StudentRunCounts, count_students, student_cost, training_documents

SAMPLE = 256
PARTS_FACTOR = 2.2
"""Disk when the parts are merged: parts and final files, each about the dataset's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratePlan:
    """The plan of `notewright curate`. Hours and dollars are of the whole run."""

    files: int
    files_read: int
    """Files that were read for the plan, in part or whole."""
    gigabytes_in: float
    sampled: int
    documents: Quantity
    documents_written: Quantity
    """Those that reach the teacher."""
    tokens_in: Quantity
    """Their tokens, without the prompt's words around them."""
    rewrites: Quantity
    tokens_written: Quantity
    """By the teacher, refused rewrites included."""
    tokens_out: Quantity
    """Tokens of the kept rows, originals that are mixed in included."""
    kept: Quantity
    """Share of the rewrites."""
    teacher: TeacherCost
    pipeline: PipelineCost
    hours_here: Quantity | None
    """On this machine as it is now; None where the teacher was not run."""
    pipeline_cpu_hours: Quantity
    gpu_hours: Quantity | None
    """On the assumed device; None where the teacher's size is not known."""
    gpus_at_least: int | None
    """As many of the assumed device that weights and a fifth more fit."""
    dataset_gb: Quantity
    disk_gb: Quantity
    """The most that is used while the run goes on."""
    dollars: Quantity | None
    dollars_per_billion: Quantity | None
    """For a billion tokens of kept rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """The plan of `notewright train`."""

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
    progress: Callable[[str], None] = say,
) -> Plan:
    """Measures what it can in about a minute, and works out the rest.

    `parameters` is the teacher's size, where neither its files nor its name tell it. Raises UserError if the config
    names nothing to curate or train on, or a device that is not known.
    """
    disable_progress_bar()
    gpu, notes = find_device(device), list[str]()
    curate = train = None
    if config.curation.input:
        curate = _plan_curate(config, gpu, price, parameters, progress, notes)
    if config.data.train or (config.data.limit and config.student.names[0]):
        # Without a size, an echo curates or the teacher's is not known.
        teacher = curate.teacher if curate and curate.teacher.parameters else None
        train = _plan_train(config, teacher, gpu, price, parameters, progress, notes)
    if curate is None and train is None:
        raise UserError("nothing to plan: name curation.input, or data.train")
    if any(part is not None and part.gpu_hours is not None for part in (curate, train)):
        notes.append(
            f"assumed for {gpu.name}: {SWEEP_SOURCE}, between models by parameters on a log-log line, of which a whole"
            f" run reaches {END_TO_END[0]:.0%}-{END_TO_END[1]:.0%}; other GPUs by data sheet; training at"
            f" {TRAINING_SHARE:.0%} of peak"
        )
    return Plan(curate=curate, train=train, device=gpu, price=price, notes=tuple(dict.fromkeys(notes)))


def _speed(gpu: Device, parameters: float, notes: list[str]) -> Quantity:
    """Tokens a second that a whole run of a model of that size writes on one assumed device."""
    if beyond_sweep(parameters):
        notes.append(f"{parameters:.3g} parameters are beyond the models of the sweep: its ends are carried on")
    low, high = writing_speed(gpu, parameters)
    return Quantity((low + high) / 2, low, high, "assumed")


def _plan_curate(
    config: Config, gpu: Device, price: float | None, parameters: float | None, progress: Callable[[str], None],
    notes: list[str],
) -> CuratePlan:  # fmt: skip
    curation, shards = config.curation, find_input(config)
    progress(f"looking into {amount(len(shards), 'input file')}")
    corpus = survey_corpus(shards, curation.limit, SAMPLE)
    pipeline = measure_pipeline(config, corpus.sample)
    one = config.model_copy(update={"curation": curation.model_copy(update={"best_of": 1})})
    teacher = measure_teacher(one, corpus.sample, parameters, progress)
    notes += teacher.notes
    if curation.dedup != "none":
        notes.append("duplicates are not seen in a sample: with them there is less to write than planned")
    if not teacher.kept.value:
        notes.append(f"none of {teacher.rewrites_measured} rewrites was kept: look why with `notewright preview`")
    reached = corpus.documents * pipeline.past_filters
    rewrites = reached * curation.rewrites_per_document
    tokens_in = reached * teacher.source_tokens
    tokens_written = rewrites * curation.best_of * teacher.sampled_tokens
    tokens_out = rewrites * teacher.kept * teacher.kept_tokens + tokens_in * curation.keep_raw
    cpu_hours = corpus.documents * pipeline.cpu_ms / 3.6e6
    hours_here = None
    if not model_writes(config):
        hours_here = cpu_hours / curation.workers
    elif teacher.tokens_per_second:
        writing = tokens_written / exact(3600 * teacher.tokens_per_second, "measured")
        hours_here = writing + cpu_hours / curation.workers
    gpu_hours = gpus = dollars = dollars_per_billion = None
    if teacher.parameters is not None:
        speed = _speed(gpu, teacher.parameters.value, notes)
        gpu_hours = tokens_written / speed / 3600
        # Two bytes a parameter, and a fifth more for keys and values.
        gpus = math.ceil(1.2 * 2 * teacher.parameters.value / 1e9 / gpu.memory_gb)
        if price is not None:
            dollars = gpu_hours * price
            if teacher.kept.value and tokens_out.value:
                # The number of documents cancels out: only the speed and the kept share are uncertain.
                seconds_at_speed_1 = 1e9 * tokens_written.value / tokens_out.value
                kept_ratio = exact(teacher.kept.value) / teacher.kept
                dollars_per_billion = kept_ratio / speed * (seconds_at_speed_1 / 3600 * price)
    # Tokens of rewrites are taken to have as many characters as those of the sample's documents.
    characters = sum(len(document.text) for document in corpus.sample) / len(corpus.sample)
    bytes_per_token = exact(characters * pipeline.bytes_per_character, "measured") / teacher.source_tokens
    dataset_gb = tokens_out * bytes_per_token / 1e9
    return CuratePlan(
        files=corpus.files, files_read=corpus.files_read, gigabytes_in=corpus.bytes / 1e9, sampled=len(corpus.sample),
        documents=corpus.documents, documents_written=reached, tokens_in=tokens_in, rewrites=rewrites,
        tokens_written=tokens_written, tokens_out=tokens_out, kept=teacher.kept, teacher=teacher, pipeline=pipeline,
        hours_here=hours_here, pipeline_cpu_hours=cpu_hours, gpu_hours=gpu_hours, gpus_at_least=gpus,
        dataset_gb=dataset_gb, disk_gb=dataset_gb * PARTS_FACTOR, dollars=dollars,
        dollars_per_billion=dollars_per_billion,
    )  # fmt: skip


def _plan_train(
    config: Config, teacher: TeacherCost | None, gpu: Device, price: float | None, parameters: float | None,
    progress: Callable[[str], None], notes: list[str],
) -> TrainPlan:  # fmt: skip
    documents, train, heldout = training_documents(config, notes)
    runs = count_students(config, train, heldout)
    if teacher is None and documents:
        # The teacher is measured on training documents, without filters, one rewrite each.
        changes = {"writer": "teacher", "filters": Filters(), "benchmarks": (), "strategies": {}, "dedup": "none",
                   "rewrites_per_document": 1, "best_of": 1, "keep_raw": 0.0,
                   "allow_unknown_licence": True}  # fmt: skip
        curation = config.curation.model_copy(update=changes)
        curating = config.model_copy(update={"curation": curation})
        teacher = measure_teacher(curating, documents[:SAMPLE], parameters, progress)
        notes += teacher.notes
    if teacher is not None:
        length, sampled = teacher.rewrite_tokens, teacher.sampled_tokens
    else:
        most = float(config.teacher.max_new_tokens)
        length = sampled = Quantity(most / 2, most / 8, most, "assumed")
        notes.append(f"a rewrite is assumed to have half of teacher.max_new_tokens ({most:.0f})")
    costs = tuple(student_cost(config, name, documents, length, progress) for name in config.student.names)
    notes += (note for cost in costs for note in cost.notes)
    runs_each = runs.total / len(costs)
    sampled_tokens = sampled * runs.rewrites
    hours_here = gpu_hours = None
    seconds_here = [cost.seconds_here for cost in costs if cost.seconds_here]
    if teacher is not None and teacher.tokens_per_second and len(seconds_here) == len(costs):
        hours_here = sampled_tokens / exact(3600 * teacher.tokens_per_second, "measured")
        for seconds in seconds_here:
            hours_here += seconds * runs_each / 3600
    size = teacher.parameters if teacher is not None else model_size(config.teacher.model, parameters, notes)
    sizes = [cost.parameters.value for cost in costs if cost.parameters]
    if size is not None and len(sizes) == len(costs):
        gpu_hours = sampled_tokens / _speed(gpu, size.value, notes) / 3600
        for cost, student_size in zip(costs, sizes, strict=True):
            seconds_a_token = student_seconds(gpu, student_size, 1.0, full=config.student.mode == "full")
            gpu_hours += cost.tokens * exact(seconds_a_token * runs_each / 3600, "assumed")
    return TrainPlan(
        documents=train, heldout=heldout, rounds=config.rl.rounds, runs=runs, students=costs, rewrite_tokens=length,
        hours_here=hours_here, gpu_hours=gpu_hours,
        dollars=gpu_hours * price if gpu_hours and price is not None else None,
    )  # fmt: skip


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, each quantity as {value, low, high, how}; what is not finite is None."""
    return dict(without_nan(asdict(plan)))
