"""The pipeline without a model: what leaves on the way, what is mixed in, and that kills cost nothing."""

import gzip
import itertools
import multiprocessing
import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config
from curation.corpus import filters
from curation.pipeline import curate as pipeline
from curation.pipeline import steps as pipeline_steps
from curation.pipeline.curate import curate
from curation.pipeline.rewriter import Written
from teacher.ready.rules import RULES
from teacher.records import Completion
from tests.curation.corpus.test_shards import warc
from tests.curation.datasets import WORDS, data_bytes, data_rows, lines, manifest_of, rows, sentences, write_jsonl

CONFIG = Path(__file__).parents[3] / "configs/curate-echo.yaml"


KINDS = ("passages", "source_tokens")


def echo_config(source: Path, output: Path, *overrides: str, batch_size: int = 8) -> Config:
    given = [f"curation.input={source}", f"curation.output={output}", f"teacher.batch_size={batch_size}"]
    return load_config(CONFIG, [*given, "gates.max_repetition=1.0", *overrides])


def terminal_records(config: Config) -> Counter[tuple[str, int, int | None, int | None]]:
    """How often each passage and rewrite ended; a document that never reached the writer ended as one `None`."""
    ended = [*data_rows(config), *lines(config, "quarantine"), *lines(config, "filtered")]
    names = ("source_file", "source_row", "passage", "rewrite")
    return Counter(tuple(record.get(name) for name in names) for record in ended if record["strategy"] != "raw")


def consistent(manifest: dict[str, Any]) -> bool:
    """Whether what went in is what came to an end: documents, passages and tokens of every file."""
    parts = ("filtered", "quarantined", "failed")
    return all(
        file["documents_in"] == sum(file[part] for part in ("documents_out", *parts))
        and all(file[kind]["in"] == sum(file[kind][part] for part in ("out", *parts)) for kind in KINDS)
        and file["passages"]["in"] >= file["documents_in"]
        for file in manifest["files"]
    )


def test_a_folder_in_the_same_texts_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(20))
    write_jsonl(tmp_path / "in/deep/b.jsonl", rows(20, 50))
    config = echo_config(tmp_path / "in", tmp_path / "out")
    summary = curate(config)
    assert (summary.teacher, summary.documents_in, summary.rows_out) == ("echo", 40, 40)
    assert [row["text"] for row in data_rows(config)] == [row["text"] for row in [*rows(20), *rows(20, 50)]]
    first = data_rows(config)[0]
    assert first["strategy"] == "echo" and first["teacher_hash"] is None and first["tokens"] == 12
    varied = manifest_of(config)["diversity"]
    assert varied["rows"] == varied["sources"] == varied["strategies"]["echo"] and varied["documents"] == 40
    assert manifest_of(config)["leak_check"] is None


def test_filtered_documents_are_counted_and_readable(tmp_path: Path) -> None:
    texts = [
        "The house is by the river and nobody knows who built it.",
        "Das Haus steht am Fluss und niemand weiß, wer es gebaut hat.",
        "key AKIAIOSFODNN7EXAMPLE",
    ]
    known = write_jsonl(tmp_path / "in/a.jsonl", [{"text": text, "licence": "mit"} for text in texts])
    write_jsonl(tmp_path / "in/b.jsonl", [{"text": "ask ann@uni.edu " + sentences(i)} for i in range(3)])
    config = echo_config(
        known.parent, tmp_path / "out", "curation.allow_unknown_licence=false", "curation.filters.secrets=true",
        "curation.filters.pii=true", "curation.filters.languages=[en,de]",
    )  # fmt: skip
    curate(config)
    manifest = manifest_of(config)
    assert consistent(manifest)
    assert [file["filter_reasons"] for file in manifest["files"]] == [
        {"secrets/AWS Access Key": 1},
        {"unknown_licence": 3},
    ]
    assert [file["filtered"] for file in manifest["files"]] == [1, 3]
    filtered = lines(config, "filtered")
    assert [record["reason"] for record in filtered] == ["secrets/AWS Access Key", *["unknown_licence"] * 3]
    # What a filter is there to hide is not shown by its record.
    assert b"AKIA" not in (tmp_path / "out/filtered.jsonl").read_bytes() and "ann@" not in str(filtered)
    assert set(terminal_records(config).values()) == {1}


def test_unknown_licences_must_be_allowed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(3))
    with pytest.raises(UserError, match=r"no document names its licence: set curation\.licence"):
        curate(echo_config(tmp_path / "in", tmp_path / "out", "curation.allow_unknown_licence=false"))
    named = echo_config(
        tmp_path / "in", tmp_path / "out", "curation.allow_unknown_licence=false", "curation.licence=mit"
    )
    assert curate(named).rows_out == 3


def test_originals_are_mixed_in(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(200))
    config = echo_config(tmp_path / "in", tmp_path / "out", "curation.keep_raw=0.25")
    summary = curate(config)
    strategies = Counter(row["strategy"] for row in data_rows(config))
    assert strategies["echo"] == 200 and 35 <= strategies["raw"] <= 65
    assert summary.documents_out == 200 and summary.rows_out == 200 + strategies["raw"]
    raw = [row for row in data_rows(config) if row["strategy"] == "raw"]
    assert all(row["id"] == f"a.jsonl#{row['source_row']}/raw" and row["teacher"] is None for row in raw)
    assert [row["text"] for row in raw] == [rows(200)[row["source_row"]]["text"] for row in raw]
    assert len({row["id"] for row in data_rows(config)}) == summary.rows_out


def near(text: str) -> str:
    words = text.split()
    return " ".join([*words[:40], "changed", *words[41:]])


@pytest.mark.parametrize("kind", ["exact", "minhash"])
def test_duplicates_over_all_files(tmp_path: Path, kind: str) -> None:
    long = [" ".join(random.Random(seed).choices(WORDS, k=120)) for seed in range(6)]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": "# no JSON"}, *({"text": text} for text in long)])
    again = [{"text": near(long[2])}, {"text": long[4] + "\n"}, {"text": "short one"}, {"text": "short  one"}]
    write_jsonl(tmp_path / "in/b.jsonl", again)
    (tmp_path / "in/a.jsonl").write_bytes(b"no JSON\n" + (tmp_path / "in/a.jsonl").read_bytes())
    config = echo_config(tmp_path / "in", tmp_path / "out", f"curation.dedup={kind}", "gates.min_words=1")
    curate(config)
    found = {f"{r['source_file']}#{r['source_row']}": r["detail"] for r in lines(config, "filtered")}
    expected = {"b.jsonl#1": "a.jsonl#6", "b.jsonl#3": "b.jsonl#2"}
    assert found == expected | ({"b.jsonl#0": "a.jsonl#4"} if kind == "minhash" else {})
    assert {r["reason"] for r in lines(config, "filtered")} == {"duplicate"}
    assert consistent(manifest_of(config)) and set(terminal_records(config).values()) == {1}
    assert not list((tmp_path / "out/.notewright").glob("d*"))


def test_dedup_reads_twice_and_changes_nothing_but_the_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading takes the refusals from the first, and repairs the texts as it would without dedup."""
    line = "A crow watched the harbour of the old town for the whole long day and said nothing."
    five = "\n".join([line] * 5)
    kept = [f"{five}\nno end\nWhoever wants to know more of crow {n} writes to ann@uni.edu today." for n in range(4)]
    texts = [*kept, kept[0], "key AKIAIOSFODNN7EXAMPLE", "too short", f"{line} {line}", "no end"]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": text} for text in texts])
    steps = ("curation.filters.ftfy=true", "curation.filters.secrets=true", "curation.filters.pii=true",
             "curation.filters.c4=true", "gates.min_words=1")  # fmt: skip
    plain = echo_config(tmp_path / "in", tmp_path / "plain", *steps)
    curate(plain)
    scanned: list[str] = []
    scan = filters.find_secrets
    monkeypatch.setattr(filters, "find_secrets", lambda text: scanned.append(text) or scan(text))
    deduplicated = echo_config(tmp_path / "in", tmp_path / "deduplicated", *steps, "curation.dedup=exact")
    curate(deduplicated)

    def ended(config: Config, without: int) -> list[Any]:
        found = [(r["source_row"], r["text"], None) for r in data_rows(config)]
        found += [(r["source_row"], r["text"], r["reason"]) for r in lines(config, "filtered")]
        return sorted(record for record in found if record[0] != without)

    assert ended(deduplicated, 4) == ended(plain, 4)
    out = [row["text"] for row in data_rows(deduplicated)]
    assert len(out) == 4 and all("email@example.com" in text and "no end" not in text for text in out)
    refused = [r["source_row"] for r in lines(deduplicated, "filtered") if r["reason"] != "duplicate"]
    assert refused and len(scanned) == len(texts) + len(refused), (
        "only the refused are scanned twice, for their records"
    )


def test_benchmark_items_neither_enter_nor_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "which of the nine rivers in the northern province reaches the sea"
    items = [{"question": long, "answer": "the Lune"}, {"question": "Who won?", "answer": "Ann Bell"}]
    benchmark = write_jsonl(tmp_path / "quiz.jsonl", items)
    texts = [f"so {long} they asked", "who won was asked and it is Ann Bell", "who won was asked twice", sentences(4)]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": text} for text in texts])
    config = echo_config(tmp_path / "in", tmp_path / "out", f"curation.benchmarks=[file:{benchmark}]")
    curate(config)
    filtered = [(r["source_row"], r["reason"], r["detail"]) for r in lines(config, "filtered")]
    assert filtered == [(0, "contaminated", "file:quiz.jsonl"), (1, "contaminated", "file:quiz.jsonl")]
    assert manifest_of(config)["leak_check"] == {
        "benchmarks": {"file:quiz.jsonl": 2}, "items": 2, "n": 8, "checked": 2, "refused": 0, "by_benchmark": {},
    }  # fmt: skip

    # A writer that knows the items by heart, and originals that hold them.
    leaking = RULES["echo"]._replace(write=lambda text, rng: f"{long} it was asked")
    monkeypatch.setitem(RULES, "echo", leaking)
    leaky = echo_config(
        tmp_path / "in", tmp_path / "leaky", f"curation.benchmarks=[file:{benchmark}]",
        "curation.decontaminate=false", "curation.keep_raw=1.0",
    )  # fmt: skip
    curate(leaky)
    check = manifest_of(leaky)["leak_check"]
    assert (check["checked"], check["refused"], check["by_benchmark"]) == (8, 6, {"file:quiz.jsonl": 6})
    assert [row["text"] for row in data_rows(leaky)] == texts[2:]
    assert Counter(r["stage"] for r in lines(leaky, "quarantine")) == {"leak_check": 6}


def test_reworded_items_are_found_by_their_meaning(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(400)]
    embedder = bag_of_words(tmp_path / "embedder", words)
    asked = " ".join(words[:12])
    benchmark = write_jsonl(tmp_path / "quiz.jsonl", [{"question": f"{asked}?", "answer": words[12]}])
    turned = " ".join(reversed(words[:13]))
    other = [" ".join(words[n : n + 12]) for n in (100, 200, 300)]
    texts = [f"{other[0]}. {turned}. {other[1]}.", f"{other[0]}. {other[1]}.", f"{' '.join(reversed(words[:6]))}."]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": text} for text in texts])
    settings = (f"curation.benchmarks=[file:{benchmark}]", "gates.min_words=1")
    by_words = echo_config(tmp_path / "in", tmp_path / "words", *settings)
    assert curate(by_words).rows_out == 3, "no n-gram of the item is left"
    by_meaning = echo_config(tmp_path / "in", tmp_path / "meaning", *settings, f"curation.embedder={embedder}")
    curate(by_meaning)
    assert [(r["source_row"], r["detail"]) for r in lines(by_meaning, "filtered")] == [(0, "file:quiz.jsonl")]
    assert manifest_of(by_meaning)["leak_check"]["max_similarity"] == 0.85
    assert "whose embedding is like an item's (cosine of 0.85 or more)" in (tmp_path / "meaning/README.md").read_text()
    # Other weights are another dataset.
    bag_of_words(embedder, words, seed=1)
    (tmp_path / "meaning/manifest.json").unlink()
    with pytest.raises(UserError, match="embedder_hash"):
        curate(by_meaning)


def bag_of_words(folder: Path, words: list[str], seed: int = 0) -> Path:
    """A sentence-transformers model for which the order of words is nothing."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate([*words, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(seed).normal(size=(len(words) + 1, 64)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(folder))
    return folder


def test_an_embedder_that_cannot_be_loaded_is_reported_in_a_line(tmp_path: Path) -> None:
    benchmark = write_jsonl(tmp_path / "quiz.jsonl", [{"question": "Who won?", "answer": "Ann Bell"}])
    write_jsonl(tmp_path / "in/a.jsonl", rows(3))
    quiz = f"curation.benchmarks=[file:{benchmark}]"
    with pytest.raises(UserError, match=r"curation\.embedder: \./nowhere is no model folder"):
        curate(echo_config(tmp_path / "in", tmp_path / "out", quiz, "curation.embedder=./nowhere"))
    with pytest.raises(UserError, match="looks for items of curation"):
        echo_config(tmp_path / "in", tmp_path / "out", "curation.embedder=./nowhere")
    embedder = bag_of_words(tmp_path / "embedder", ["who", "won"])
    (weights,) = embedder.rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"curation\.embedder: cannot load .*embedder'"):
        curate(echo_config(tmp_path / "in", tmp_path / "out", quiz, f"curation.embedder={embedder}"))


def test_a_writer_that_repeats_itself_causes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": " ".join(random.Random(n).choices(WORDS, k=60))} for n in range(40)])
    curate(echo_config(tmp_path / "in", tmp_path / "echo", batch_size=40))
    assert "the teacher repeats itself" not in capsys.readouterr().err

    numbers = itertools.count()
    same = RULES["echo"]._replace(write=lambda text, rng: f"{sentences(1)} {next(numbers)}")
    monkeypatch.setitem(RULES, "echo", same)
    config = echo_config(tmp_path / "in", tmp_path / "out", batch_size=40)
    curate(config)
    found = manifest_of(config)["diversity"]
    rewrites, sources = found["rows"], found["sources"]
    assert rewrites["compression"] > 2 * sources["compression"] and rewrites["self_bleu"] > 2 * sources["self_bleu"]
    assert all(a < b for a, b in zip(rewrites["distinct"], sources["distinct"], strict=True))
    said = capsys.readouterr().err
    assert f"warning: the texts compress {rewrites['compression']:.1f} times" in said and "repeats itself" in said


def long_text(generator: random.Random) -> str:
    """Up to 40 paragraphs, some of which the writer fails on or the gates refuse where they are passages."""
    texts = [" ".join(generator.choices(WORDS, k=30)) + "." for _ in range(generator.randint(2, 40))]
    return "\n\n".join(f"poison {text}" if generator.random() < 0.1 else text for text in texts)


def faulty_corpus(folder: Path, documents: int) -> None:
    """Three files with everything that can be wrong with a row."""
    generator = random.Random(7)
    for index, name in enumerate(("a", "b", "c")):
        made = []
        for row in rows(documents // 3, 10_000 * index):
            chance, text = generator.random(), " ".join(generator.choices(WORDS, k=30))
            if chance < 0.03:
                made.append(b'{"text": "\xff"}')
            elif chance < 0.06:
                made.append(orjson.dumps(row | {"text": f"poison {text}"}))
            elif chance < 0.09:
                made.append(orjson.dumps(row | {"text": "two words"}))
            elif chance < 0.12:
                made.append(orjson.dumps(row | {"text": f"{text} AKIAIOSFODNN7EXAMPLE"}))
            elif chance < 0.2:
                made.append(orjson.dumps(row | {"id": "the same", "text": sentences(generator.randrange(40), 60)}))
            elif chance < 0.25:
                made.append(orjson.dumps(row | {"text": long_text(generator)}))
            else:
                made.append(orjson.dumps(row | {"text": text}))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(made) + b"\n")


def curate_with_faults(config: Config) -> None:
    """The echo fails on some documents for good."""
    real = pipeline_steps.write

    def failing(rewriter: Any, teacher: Any, requests: list[Any], seed: int, **more: Any) -> Any:
        failed = Written([""], [Completion("", False, RuntimeError("out of memory"))])
        written = zip(requests, real(rewriter, teacher, requests, seed, **more), strict=True)
        return [failed if "poison" in request.document.text else one for request, one in written]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_steps, "write", failing)
        curate(config)


def curate_until_killed(config: Config, module: Any, name: str, call: int, pause: float) -> None:
    """Curates with faults, and kills itself `pause` seconds after the given call of a function of the pipeline, or
    at the end of a run that is faster."""
    real, calls = getattr(module, name), itertools.count(1)

    def counted(*given: Any, **named: Any) -> Any:
        if next(calls) == call:
            timer = threading.Timer(pause, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        return real(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, counted)
        curate_with_faults(config)
    assert next(calls) > call, "that call never came"
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("documents", "kills"),
    [(300, 5), pytest.param(3000, 20, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
    ids=["short", "long"],
)
def test_random_kills_change_nothing(tmp_path: Path, documents: int, kills: int) -> None:
    faulty_corpus(tmp_path / "in", documents)
    settings = ("curation.dedup=minhash", "curation.filters.secrets=true", "curation.keep_raw=0.1",
                "data.passage_tokens=64")  # fmt: skip
    undisturbed = echo_config(tmp_path / "in", tmp_path / "undisturbed", *settings, batch_size=2)
    curate_with_faults(undisturbed)
    config = echo_config(tmp_path / "in", tmp_path / "killed", *settings, batch_size=2)
    generator, early = random.Random(3), kills // 5
    # There are about documents / 2.4 parts: the kills leave some of them.
    most = documents // (4 * (kills - early - 1))
    kills_at = [
        *((pipeline, "find_duplicates", 1, generator.uniform(0, 0.3)) for _ in range(early)),
        *(
            (pipeline_steps, "write_part", generator.randint(1, most), generator.uniform(0, 0.02))
            for _ in range(kills - early - 1)
        ),
        (pipeline, "merge", 1, generator.uniform(0, 0.02)),
    ]
    for kill_at in kills_at:
        # Forked: an interpreter that imports torch anew would take longer than the work between two kills.
        context = multiprocessing.get_context("fork")
        child = context.Process(target=curate_until_killed, args=(config, *kill_at), daemon=True)
        child.start()
        child.join(240)
        assert child.exitcode == -signal.SIGKILL, f"stalled, or ended before it was killed at {kill_at}"
    curate_with_faults(config)
    assert data_bytes(config) == data_bytes(undisturbed)
    assert manifest_of(config) == manifest_of(undisturbed)
    for name in ("quarantine", "filtered"):
        assert lines(config, name) == lines(undisturbed, name)
    assert consistent(manifest_of(config)) and set(terminal_records(config).values()) == {1}
    stages = {record["stage"] for name in ("quarantine", "filtered") for record in lines(config, name)}
    assert stages == {"read", "filter", "gate", "teacher"}
    assert {"duplicate", "secrets/AWS Access Key"} == set(manifest_of(config)["filter_reasons"])
    assert sum(file["documents_in"] for file in manifest_of(config)["files"]) == documents


def test_pages_of_a_crawl_become_rows(tmp_path: Path) -> None:
    others = multiprocessing.active_children()
    body = "".join(f"<p>{sentences(i, 40)}.</p>" for i in range(5))
    page = f"<html><body><nav><a href='/'>Home</a></nav><article>{body}</article></body></html>".encode()
    (tmp_path / "in").mkdir()
    warc(tmp_path / "in/crawl.warc.gz", [page, b"<html><body></body></html>", page], gz=True)
    write_jsonl(tmp_path / "in/a.jsonl", rows(2))
    config = echo_config(tmp_path / "in", tmp_path / "out", "curation.dedup=exact")
    curate(config)
    [text] = [row["text"] for row in data_rows(config) if row["source_file"] == "crawl.warc.gz"]
    assert sentences(3, 40) in text and "<p>" not in text and "Home" not in text
    reasons = [(record["source_row"], record["reason"], record["detail"]) for record in lines(config, "filtered")]
    assert reasons == [(5, "extract/empty", None), (8, "duplicate", "crawl.warc.gz#2")]
    assert consistent(manifest_of(config)) and set(terminal_records(config).values()) == {1}
    assert set(multiprocessing.active_children()) <= set(others)


def test_one_bad_file_costs_itself(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(4))
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(b"".join(orjson.dumps(r) + b"\n" for r in rows(900)))[:-900])
    (tmp_path / "in/c.parquet").write_bytes(b"PAR1 no footer")
    config = echo_config(tmp_path / "in", tmp_path / "out")
    curate(config)
    a, b, c = manifest_of(config)["files"]
    assert (a["documents_out"], a["reason"]) == (4, None)
    # The torn row is counted too.
    assert b["documents_out"] + 1 == b["documents_in"] < 900 and b["quarantined"] == 1 and "truncated" in b["reason"]
    assert (c["documents_in"], c["reason"][:17]) == (0, "unreadable footer")
    assert consistent(manifest_of(config)) and set(terminal_records(config).values()) == {1}


def test_another_filter_is_another_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(4))
    curate(echo_config(tmp_path / "in", tmp_path / "out"))
    with pytest.raises(UserError, match=r"curation\.filters\.ftfy: False -> True"):
        curate(echo_config(tmp_path / "in", tmp_path / "out", "curation.filters.ftfy=true"))
    quiz = write_jsonl(tmp_path / "quiz.jsonl", [{"question": "Who won?", "answer": "Ann"}])
    with pytest.raises(UserError, match=r"benchmark_items: .*benchmarks: \[\] -> \['file:quiz\.jsonl'\]"):
        curate(echo_config(tmp_path / "in", tmp_path / "out", f"curation.benchmarks=[file:{quiz}]"))
