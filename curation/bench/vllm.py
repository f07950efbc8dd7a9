"""The pace of a teacher on vLLM inside the pipeline, against bare vLLM: part of `notewright bench curate`.

SmolLM2-135M rewrites the same documents twice, in turns: by `curate` with `teacher.writer=vllm`, all of it from
preflight to manifest, and by `LLM.generate` in a process of its own (curation.bench.bare_vllm), which gets the very
prompts
as tokens. Both engines have the same arguments, cache and sampling, and both have all prompts of a turn at once. Each
turn has new documents, so that neither finds the other's prefixes, or its own, in its cache.
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

import httpx
import orjson
import psutil
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.bench.pipeline_corpus import row_places
from curation.corpus.shards import find_shards, read_shard
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
"""Of a turn, and the batch."""
PEOPLE = 5
"""Biographies in a document: about 190 tokens."""
NEW_TOKENS = 64
CACHE_GIGABYTES = "1"
"""Of keys and values for each engine: room for the whole batch."""
TARGET = 0.9

Tell = Callable[[str], object]


def missing_requirement() -> str | None:
    """What is missing to measure on this machine, with the command that brings it; None if nothing is."""
    try:
        find_vllm()
    except UserError:
        return "vLLM is not installed: `make vllm`"
    return None if (FOLDER / "config.json").is_file() else f"{FOLDER} is not there: `make smollm2`"


def measure(tell: Tell) -> dict[str, Any]:
    """`vllm_ratio`: tokens a second of the pipeline over those of bare vLLM, the median of `TURNS` turns; `vllm`: what
    each turn gave.

    Raises UserError where vLLM or the model is missing; RunError where the two read different prompts, or a row of the
    curation is missing or doubled.
    """
    if (why := missing_requirement()) is not None:
        raise UserError(why)
    with tempfile.TemporaryDirectory(prefix="notewright-bench-") as name, _cache_of(CACHE_GIGABYTES):
        folder = Path(name)
        config = bench_config(folder, FOLDER)
        with serving(config, None, folder / "server"), bare_vllm(config, folder / "bare.log") as generate:
            # What is compiled, imported or allocated at the first request.
            _turn(config, folder, 0, 8, generate)
            turns = []
            for number in range(1, TURNS + 1):
                turns.append(_turn(config, folder, number, DOCUMENTS, generate))
                tell(
                    f"vLLM, turn {number}: {turns[-1]['tokens_per_second']:.0f} tokens/s through the pipeline,"
                    f" {turns[-1]['bare_tokens_per_second']:.0f} bare"
                )
    ratios = [turn["ratio"] for turn in turns]
    return {
        "vllm_ratio": statistics.median(ratios),
        "vllm": {
            "model": FOLDER.name, "documents_a_turn": DOCUMENTS, "max_new_tokens": NEW_TOKENS,
            "ratio_low": min(ratios), "ratio_high": max(ratios), "within_target": statistics.median(ratios) >= TARGET,
            "rows_exact": True, "turns": turns,
        },
    }  # fmt: skip


def bench_config(folder: Path, model: Path) -> Config:
    """What is curated, but for input and output, which each turn has its own."""
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run")},
            "teacher": {
                "model": str(model), "writer": "vllm", "strategies": ["rewrite"], "max_new_tokens": NEW_TOKENS,
                "temperature": 0.0, "batch_size": DOCUMENTS,
            },
            # On a busy machine a reply takes minutes; one that is asked for again would be counted twice.
            "serving": {"context_tokens": 1024, "concurrency": DOCUMENTS, "timeout_seconds": 3600.0,
                        "deadline_seconds": 7200.0},
            # Short rewrites of a small model: what they are worth is not measured here, and some must be kept.
            "gates": {"truncated": False, "instructions": False, "max_repetition": 1.0, "min_words": 1},
            "curation": {"allow_unknown_licence": True},
        }
    )  # fmt: skip


def _turn(config: Config, folder: Path, number: int, documents: int, generate: "Generate") -> dict[str, Any]:
    """Both arms on new documents; which goes first alternates."""
    place = folder / f"turn-{number}"
    place.mkdir()
    source = place / "people.jsonl"
    source.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in _texts(number, documents)))
    curation = config.curation.model_copy(update={"input": (str(source),), "output": place / "dataset"})
    config = config.model_copy(update={"curation": curation})
    asked = requests(config, source)
    if number % 2:
        ours = _curated(config, documents)
        bare = generate(asked)
    else:
        bare = generate(asked)
        ours = _curated(config, documents)
    if ours["prompt_tokens"] != bare["prompt_tokens"]:
        raise RunError(
            f"the prompts were not the same: {ours['prompt_tokens']} tokens through the pipeline,"
            f" {bare['prompt_tokens']} by bare vLLM"
        )
    speed, bare_speed = (arm["tokens"] / arm["seconds"] for arm in (ours, bare))
    return {
        "ratio": speed / bare_speed, "tokens_per_second": speed, "bare_tokens_per_second": bare_speed,
        "bare_seconds": bare["seconds"], "bare_tokens": bare["tokens"], **ours,
    }  # fmt: skip


def _texts(turn: int, documents: int) -> Iterator[str]:
    told = [world.raw(person) for person in world.make_people(turn, 0, documents * PEOPLE)]
    return (" ".join(told[start : start + PEOPLE]) for start in range(0, len(told), PEOPLE))


def requests(config: Config, source: Path) -> dict[str, list[Any]]:
    """The prompts of a curation of `source`, as token ids, and the sampling of each, as its rewriter sends them."""
    writer = load_endpoint(config.teacher, config.serving, None, Path(os.environ[STATE_VARIABLE]))
    [shard] = find_shards((str(source),))
    documents = [item for item in read_shard(shard) if isinstance(item, Document)]
    prompts, sampling = [], []
    for request in rewrite_requests(config, documents):
        prompt = build_prompt(
            writer.tokenizer, config.teacher, request.document, request.strategy, writer.max_prompt_tokens
        )
        body = writer.request(Sample(prompt, "", config.run.seed), [])
        prompts.append(body["prompt"])
        names = ("max_tokens", "temperature", "top_p", "seed", "stop_token_ids")
        sampling.append({name: body[name] for name in names})
    return {"prompts": prompts, "sampling": sampling}


def _curated(config: Config, documents: int) -> dict[str, Any]:
    """Seconds of `curate`, tokens by the server's own count, and rows, which must be exact."""
    before, began = _counted(), time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        summary = curate(config)
    seconds, after = time.perf_counter() - began, _counted()
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


def _counted() -> dict[str, int]:
    """Tokens that the server has read and written since its start, by its own metrics."""
    url = read_state(Path(os.environ[STATE_VARIABLE])).url.removesuffix("/v1")
    page = httpx.get(f"{url}/metrics", trust_env=False).text
    found = {}
    for name in ("prompt", "generation"):
        values = re.findall(rf"^vllm:{name}_tokens_total{{[^}}]*}} (\S+)$", page, re.MULTILINE)
        found[name] = int(sum(map(float, values)))
    return found


Generate = Callable[[dict[str, list[Any]]], dict[str, Any]]


@contextlib.contextmanager
def bare_vllm(config: Config, log: Path) -> Iterator[Generate]:
    """A function that gives the prompts of `requests` to vLLM alone, which runs while the block does.

    Raises RunError with the end of its log if it does not start, or dies.
    """
    launch = plan_launch(config.teacher, config.serving, config.run.seed, None)
    command = [find_vllm(), "-P", str(Path(__file__).with_name("bare_vllm.py")), *launch.arguments]
    with log.open("wb") as sink:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True)

    def answer() -> dict[str, Any]:
        assert child.stdout is not None
        if not (line := child.stdout.readline()):
            last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise RunError(f"bare vLLM ended with code {child.wait()}: {last}")
        return dict(json.loads(line))

    def generate(asked: dict[str, list[Any]]) -> dict[str, Any]:
        assert child.stdin is not None
        print(json.dumps(asked), file=child.stdin, flush=True)
        return answer()

    try:
        answer()
        yield generate
    finally:
        # Its engine is a process of its own.
        family = [child, *psutil.Process(child.pid).children(recursive=True)] if child.poll() is None else [child]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()


@contextlib.contextmanager
def _cache_of(gigabytes: str) -> Iterator[None]:
    """The same room for keys and values in both engines, and no reports."""
    given = {"VLLM_CPU_KVCACHE_SPACE": gigabytes, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
