"""The pace of a teacher on vLLM inside the pipeline, against bare vLLM: part of `notewright bench curate`.

SmolLM2-135M rewrites the same documents twice, in turns: by `curate` with `teacher.writer=vllm`, from preflight to
manifest, and by `LLM.generate` in a process of its own (curation.bench.bare_vllm), which gets the same prompts as
tokens. Both engines have the same arguments, cache and sampling, and both have all prompts of a turn at once. Each turn
has new documents, so that neither engine finds a prefix in its cache.
"""

import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.files import write_json_lines
from configs.schema import Config
from curation.bench.pipeline_corpus import row_places
from curation.corpus.finding import find_shards
from curation.corpus.shards import read_shard
from curation.lab import world
from curation.models.smollm2 import FOLDER
from curation.pipeline.curate import curate
from curation.pipeline.manifest import read_manifest
from curation.pipeline.rewriter import rewrite_requests
from teacher.prompting.prompts import build_prompt
from teacher.writers.endpoint import Sample, load_endpoint
from teacher.writers.vllm_server import STATE_VARIABLE, find_vllm, plan_launch, read_state, serving

TURNS = 3
DOCUMENTS = 64
"""Documents of a turn, and the size of the batch."""
PEOPLE = 5
"""Biographies in a document: about 190 tokens."""
NEW_TOKENS = 64
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""Both engines have 1 GB for keys and values, which is room for the whole batch, and send no usage reports."""
TARGET = 0.9

Prompts = dict[str, list[Any]]
"""`prompts` (token ids) and `sampling`, both by request."""
Generate = Callable[[Prompts], dict[str, Any]]
"""Has bare vLLM write; returns `seconds`, `tokens`, `prompt_tokens`."""


def missing_requirement() -> str | None:
    """What is missing to measure on this machine, with the command that brings it; None if nothing is."""
    try:
        find_vllm()
    except UserError:
        return "vLLM is not installed: `make vllm`"
    return None if (FOLDER / "config.json").is_file() else f"{FOLDER} is not there: `make smollm2`"


def measure(progress: Callable[[str], object]) -> dict[str, Any]:
    """`vllm_ratio`: tokens a second of the pipeline over those of bare vLLM, the median of `TURNS` turns; `vllm`: the
    measurements of each turn.

    Raises UserError where vLLM or the model is missing; RunError where the two read different prompts, or a row of the
    curation is missing or doubled.
    """
    if (problem := missing_requirement()) is not None:
        raise UserError(problem)
    with tempfile.TemporaryDirectory(prefix="notewright-bench-") as name, patch.dict(os.environ, ENVIRONMENT):
        folder = Path(name)
        config = bench_config(folder, FOLDER)
        with serving(config, None, folder / "server"), bare_vllm(config, folder / "bare.log") as generate:
            # Unmeasured: vLLM compiles, imports and allocates at the first request.
            _turn(config, folder, 0, 8, generate)
            turns = []
            for number in range(1, TURNS + 1):
                turns.append(turn := _turn(config, folder, number, DOCUMENTS, generate))
                progress(
                    f"vLLM, turn {number}: {turn['tokens_per_second']:.0f} tokens/s through the pipeline,"
                    f" {turn['bare_tokens_per_second']:.0f} bare"
                )
    ratios = [turn["ratio"] for turn in turns]
    ratio = statistics.median(ratios)
    return {
        "vllm_ratio": ratio,
        "vllm": {
            "model": FOLDER.name, "documents_a_turn": DOCUMENTS, "max_new_tokens": NEW_TOKENS,
            "ratio_low": min(ratios), "ratio_high": max(ratios), "within_target": ratio >= TARGET, "rows_exact": True,
            "turns": turns,
        },
    }  # fmt: skip


def bench_config(folder: Path, model: Path) -> Config:
    """The config of all turns, without input and output: these differ from turn to turn."""
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run")},
            "teacher": {
                "model": str(model), "writer": "vllm", "strategies": ["rewrite"], "max_new_tokens": NEW_TOKENS,
                "temperature": 0.0, "batch_size": DOCUMENTS,
            },
            # On a busy machine a reply takes minutes, and a repeated request would be counted twice.
            "serving": {"context_tokens": 1024, "concurrency": DOCUMENTS, "timeout_seconds": 3600.0,
                        "deadline_seconds": 7200.0},
            # Some of the small model's short rewrites must be kept; their quality is not measured here.
            "gates": {"truncated": False, "instructions": False, "max_repetition": 1.0, "min_words": 1},
            "curation": {"allow_unknown_licence": True},
        }
    )  # fmt: skip


def _turn(config: Config, folder: Path, number: int, documents: int, generate: Generate) -> dict[str, Any]:
    """Both arms on new documents; which goes first alternates."""
    turn_folder = folder / f"turn-{number}"
    turn_folder.mkdir()
    source = turn_folder / "people.jsonl"
    write_json_lines(source, ({"text": text} for text in _texts(number, documents)))
    curation = config.curation.model_copy(update={"input": (str(source),), "output": turn_folder / "dataset"})
    config = config.model_copy(update={"curation": curation})
    prompts = requests(config, source)
    bare = {} if number % 2 else generate(prompts)
    pipeline = _curate(config, documents)
    bare = bare or generate(prompts)
    tokens, bare_tokens = pipeline["prompt_tokens"], bare["prompt_tokens"]
    if tokens != bare_tokens:
        raise RunError(
            f"the prompts were not the same: {tokens} tokens through the pipeline, {bare_tokens} by bare vLLM"
        )
    speed, bare_speed = (arm["tokens"] / arm["seconds"] for arm in (pipeline, bare))
    return {
        "ratio": speed / bare_speed, "tokens_per_second": speed, "bare_tokens_per_second": bare_speed,
        "bare_seconds": bare["seconds"], "bare_tokens": bare["tokens"], **pipeline,
    }  # fmt: skip


def _texts(turn: int, documents: int) -> Iterator[str]:
    people = [world.raw(person) for person in world.make_people(turn, 0, documents * PEOPLE)]
    return (" ".join(people[start : start + PEOPLE]) for start in range(0, len(people), PEOPLE))


def requests(config: Config, source: Path) -> Prompts:
    """The prompts of a curation of `source`, as token ids, and the sampling of each, as its rewriter sends them."""
    writer = load_endpoint(config.teacher, config.serving, None, Path(os.environ[STATE_VARIABLE]))
    [shard] = find_shards((str(source),))
    documents = [item for item in read_shard(shard) if isinstance(item, Document)]
    bodies = []
    for request in rewrite_requests(config.curation, config.teacher, documents):
        prompt = build_prompt(
            writer.tokenizer, config.teacher, request.document, request.strategy, writer.max_prompt_tokens
        )
        bodies.append(writer.request(Sample(prompt, "", config.run.seed, config.teacher.temperature), []))
    names = ("max_tokens", "temperature", "top_p", "seed", "stop_token_ids")
    sampling = [{name: body[name] for name in names} for body in bodies]
    return {"prompts": [body["prompt"] for body in bodies], "sampling": sampling}


def _curate(config: Config, documents: int) -> dict[str, Any]:
    """Seconds of `curate`, tokens by the server's own count, and rows. Raises RunError unless these are exact."""
    before, start = _tokens_served(), time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        summary = curate(config)
    seconds, after = time.perf_counter() - start, _tokens_served()
    output = config.curation.output
    places = row_places(output, read_manifest(output))
    ended = summary.documents_out + summary.filtered + summary.quarantined + summary.failed
    if not summary.documents_in == ended == len(places) == len(set(places)) == documents:
        raise RunError(
            f"the curated rows are not exact: {documents} documents, {summary.documents_in} in, {ended} ended,"
            f" {len(places)} records of {len(set(places))} rows"
        )
    return {
        "seconds": seconds,
        "tokens": after["generation"] - before["generation"],
        "prompt_tokens": after["prompt"] - before["prompt"],
        "rows_in": summary.documents_in,
        "rows_out": summary.rows_out,
        "rows_quarantined": summary.quarantined,
    }


def _tokens_served() -> dict[str, int]:
    """Tokens that the server has read and written since its start, by its own metrics."""
    url = read_state(Path(os.environ[STATE_VARIABLE])).url.removesuffix("/v1")
    page = httpx.get(f"{url}/metrics", trust_env=False).text
    return {
        name: int(sum(map(float, re.findall(rf"^vllm:{name}_tokens_total{{[^}}]*}} (\S+)$", page, re.MULTILINE))))
        for name in ("prompt", "generation")
    }


@contextlib.contextmanager
def bare_vllm(config: Config, log: Path) -> Iterator[Generate]:
    """A function that gives prompts to vLLM alone, which runs while the block does.

    Raises RunError with the end of its log if it does not start, or dies.
    """
    launch = plan_launch(config.teacher, config.serving, config.run.seed, None)
    command = [find_vllm(), "-P", str(Path(__file__).with_name("bare_vllm.py")), *launch.arguments]
    with log.open("wb") as sink:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True)

    assert child.stdin is not None and child.stdout is not None
    requests, answers = child.stdin, child.stdout

    def answer() -> dict[str, Any]:
        if not (line := answers.readline()):
            last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise RunError(f"bare vLLM ended with code {child.wait()}: {last}")
        return dict(json.loads(line))

    def generate(prompts: Prompts) -> dict[str, Any]:
        print(json.dumps(prompts), file=requests, flush=True)
        return answer()

    try:
        answer()  # the line that says it is ready
        yield generate
    finally:
        # vLLM's engine is a child process, which would outlive its parent.
        family = [child, *psutil.Process(child.pid).children(recursive=True)] if child.poll() is None else [child]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()
