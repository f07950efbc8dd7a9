"""Rewrites of two passages: which is read beside which, what the row says, and that kills cost nothing."""

import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config
from curation.corpus import related as corpus_related
from curation.corpus.related import Neighbours, index, relate
from curation.pipeline import steps
from curation.pipeline.curate import curate
from curation.pipeline.preview import preview
from curation.pipeline.rewriter import Rewriter, Written
from curation.pipeline.steps import INDEX
from teacher.gates.checks import Gate
from teacher.prompting.prompts import build_prompt
from teacher.prompting.related import NO_RELATED, related_of
from teacher.records import Completion
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.local import load_teacher
from teacher.writers.no_model import NoModel
from tests.curation.datasets import WORDS, curation_config, data_bytes, data_rows, lines, manifest_of, write_jsonl
from tests.curation.pipeline.test_echo import curate_until_killed
from tests.processes import PATIENCE


def shop(number: int, licence: str, topic: str) -> dict[str, Any]:
    """A document of twelve words, most of them its topic's."""
    rng = random.Random(number)
    own = [word for word in WORDS if word.startswith(topic)]
    return {
        "id": f"d{number}",
        "license": licence,
        "text": " ".join([*rng.choices(own, k=9), *rng.choices(WORDS, k=3)]),
    }


def two_config(folder: Path, teacher: Path, *inputs: Path, output: str = "dataset", **curation: Any) -> Config:
    (own := folder / "both.txt").write_text("ban {document} der {related} fis")
    config = curation_config(folder, teacher, *inputs, output=output, **curation)
    settings = {"prompting": "strategy", "strategies": (str(own),)}
    data = config.data.model_copy(update={"passage_tokens": 16})
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=settings), "data": data})


def corpus(folder: Path, count: int) -> list[Path]:
    """Two files of documents of several topics and licences; the second document of each is long."""
    paths = []
    for name, begin in (("a", 0), ("b", 1000)):
        licences, topics = ("cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0"), ("ba", "de", "fi", "go")
        records = [shop(begin + i, licences[i % 4], topics[(i // 4) % 4]) for i in range(count)]
        text = "\n\n".join(" ".join(random.Random(i).choices(WORDS, k=12)) + "." for i in range(5))
        records[1]["text"] = text
        paths.append(write_jsonl(folder / f"in/{name}.jsonl", records))
    return paths


def test_a_row_names_all_its_sources_and_has_the_strictest_licence(tmp_path: Path, teacher: Path) -> None:
    inputs = corpus(tmp_path, 24)
    config = two_config(tmp_path, teacher, *inputs)
    summary = curate(config)
    table, texts = data_rows(config), {}
    for path in inputs:
        texts |= {f"{path.name}#{n}": line for n, line in enumerate(map(orjson.loads, path.read_text().splitlines()))}
    assert summary.rows_out == len(table) > 40 and {row["strategy"] for row in table} == {"both"}
    for row in table:
        own, other = row["sources"]
        whole, beside = (source["id"].partition("/")[0] for source in (own, other))
        assert own["id"] == row["id"] and (own["start_index"], own["end_index"]) == (
            row["start_index"],
            row["end_index"],
        )
        assert own["licence"] == texts[whole]["license"] and other["licence"] == texts[beside]["license"]
        if row["passages"] > 1:
            # Of a document that is cut the next passage, of the last the one before.
            assert whole == beside and abs(int(other["id"].partition("/")[2]) - row["passage"]) == 1
            ends_there = row["passage"] == row["passages"]
            assert other["end_index"] == own["start_index"] if ends_there else other["start_index"] == own["end_index"]
        else:
            assert whole != beside
            # The topic is what two texts have in common; licences that do not go together are passed over.
            both = {own["licence"], other["licence"]}
            assert not {"cc-by-nc-4.0", "cc-by-sa-4.0"} <= both
            strict = next(name for name in ("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-4.0", "cc0-1.0") if name in both)
            assert row["licence"] == strict
    alike = [row for row in table if row["passages"] == 1]
    topics = [{topic_of(texts[s["id"].partition("/")[0]]["text"]) for s in row["sources"]} for row in alike]
    assert sum(len(topic) == 1 for topic in topics) > 0.8 * len(alike)
    manifest = manifest_of(config)
    assert manifest["several_sources"] == manifest["rows"] == len(table)
    assert f"{len(table)} rows are of several sources" in (config.curation.output / "README.md").read_text()
    assert not (config.curation.output / ".notewright" / INDEX).exists(), "only an unfinished run needs it"


def topic_of(text: str) -> str:
    starts = [word[:2] for word in text.split()]
    return max(sorted(set(starts)), key=starts.count)


def test_a_document_without_a_neighbour_is_refused_and_a_policy_is_not_asked(tmp_path: Path, teacher: Path) -> None:
    alone = write_jsonl(
        tmp_path / "a.jsonl", [{"text": "ban bar bas"}, {"text": "den der des"}, {"text": "ban bar fin"}]
    )
    config = two_config(tmp_path, teacher, alone)
    curate(config)
    assert [[s["id"] for s in row["sources"]] for row in data_rows(config)] == [
        ["a.jsonl#0", "a.jsonl#2"], ["a.jsonl#2", "a.jsonl#0"],
    ]  # fmt: skip
    assert [(r["source_row"], r["stage"], r["reason"]) for r in lines(config, "quarantine")] == [
        (1, "gate", NO_RELATED)
    ]
    policy = config.teacher.model_copy(update={"prompting": "policy"})
    with pytest.raises(UserError, match="reads a related passage, which the prompt of a policy does not show"):
        curate(two_config(tmp_path, teacher, alone, output="policy").model_copy(update={"teacher": policy}))


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the teacher's place what writes both passages, one after another: a fork of this process cannot run torch."""

    def write(rewriter: Any, teacher: Any, requests: list[Any], seed: int, **more: Any) -> list[Written]:
        read = [(request.document.text, related_of(request.document)) for request in requests]
        return [Written(["asked"], [Completion(f"{own} {beside and beside.text}", True)]) for own, beside in read]

    monkeypatch.setattr(steps, "write", write)
    monkeypatch.setattr(steps, "load_rewriter", lambda inputs: Rewriter(NoModel(inputs.config.teacher), ()))


def test_kills_while_indexing_and_while_writing_change_no_row(tmp_path: Path, teacher: Path, joins: None) -> None:
    inputs = corpus(tmp_path, 40)
    config, undisturbed = (two_config(tmp_path, teacher, *inputs, output=name) for name in ("killed", "undisturbed"))
    found = config.curation.output / ".notewright" / INDEX
    for module, name, call, indexed in (
        (corpus_related, "span_of", 30, False), (corpus_related, "span_of", 80, False), (steps, "write_part", 1, True),
        (steps, "write_part", 9, True),
    ):  # fmt: skip
        child = multiprocessing.get_context("fork").Process(
            target=curate_until_killed, args=(config, module, name, call, 0.0)
        )
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == -signal.SIGKILL and found.exists() == indexed
    assert curate(config).resumed > 20
    curate(undisturbed)
    assert data_bytes(config) == data_bytes(undisturbed) and manifest_of(config) == manifest_of(undisturbed)
    refused = sum(record["reason"] == NO_RELATED for record in lines(config, "quarantine"))
    texts = {row["id"]: row["text"] for row in data_rows(config)}
    assert len(texts) + refused == manifest_of(config)["rewrites"] and refused < 5
    for row in data_rows(config):
        if row["passages"] > 1 and row["passage"] < row["passages"]:
            following = texts[f"{row['source_file']}#{row['source_row']}/{row['passage'] + 1}"]
            assert following.split()[0] in row["text"].split()


@pytest.mark.slow
def test_two_workers_read_one_index(tmp_path: Path, teacher: Path) -> None:
    inputs = corpus(tmp_path, 12)
    one, two = (two_config(tmp_path, teacher, *inputs, output=f"w{n}", workers=n) for n in (1, 2))
    curate(one)
    curate(two)
    assert data_bytes(one) == data_bytes(two)


def test_a_preview_shows_the_passage_beside(tmp_path: Path, teacher: Path) -> None:
    config = two_config(tmp_path, teacher, *corpus(tmp_path, 12))
    shown = [row for row in preview(config, 6) if row.records]
    assert all(len(row.records[0]["sources"]) == 2 for row in shown) and any("passage" in row.place for row in shown)
    assert not config.curation.output.exists()


def as_document(text: str, id: str) -> Document:
    return Document(text, id, metadata={})


def test_the_nearest_is_about_the_same_things_and_no_version_of_the_text() -> None:
    texts = {
        "a": "The harbour of Tarvik froze in the winter of 1902, and its ferries lay still for a month.",
        "copy": "The harbour of Tarvik froze in the winter of 1902, and its ferries lay still for a month, they say.",
        "b": "Ferries from Tarvik carried salt to the islands, until the harbour was closed.",
        "c": "Bread is baked of flour and water, and of yeast where it is to rise in the oven.",
        "ja": "東京の港は冬に凍ることがない。船は毎日島へ塩を運ぶ。",
        "ja2": "島の人々は東京の港から来る船を待ち、塩を買う。",
    }
    # Which words are common has to show.
    others = {f"{n}": f"Number {n} of the many lists is in a drawer, and the key is lost." for n in range(12)}
    documents = [as_document(text, id) for id, text in (texts | others).items()]
    neighbours = Neighbours(index((document, "mit") for document in documents))
    found = {document.id: neighbours.beside(document, "mit") for document in documents}
    assert (found["a"].id, found["copy"].id, found["ja"].id, found["ja2"].id) == ("b", "b", "ja2", "ja")
    assert found["b"].id in ("a", "copy")
    assert neighbours.beside(documents[0], "cc-by-nd-4.0") is None
    assert neighbours.beside(as_document("!!! ---", "none"), "mit") is None
    relate(documents, ["implications"])
    assert all(related_of(document) is None for document in documents), "nobody asks for it"


def test_training_reads_both_passages_and_the_gates_know_both(tmp_path: Path, teacher: Path) -> None:
    config = two_config(tmp_path, teacher)
    documents = [as_document(text, f"d{n}") for n, text in enumerate(["ban bar bas", "ban bar fin", "gol gon gor"])]
    relate(documents, config.teacher.strategies)
    writer = load_teacher(config.teacher)
    prompt = build_prompt(writer.tokenizer, config.teacher, documents[0], config.teacher.strategies[0])
    assert prompt == "ban ban bar bas der ban bar fin fis\n"
    seen = []

    def watching(document: Document, text: str, ended: bool) -> bool:
        seen.append(document.text)
        return False

    groups = sample_rewrites(writer, documents, Sampling(rewrites=2, seed=0), [Gate("watching", watching)])
    assert seen == ["ban bar bas\n\nban bar fin"] * 2 + ["ban bar fin\n\nban bar bas"] * 2
    assert [[one.rejected for one in group] for group in groups] == [[None] * 2] * 2 + [[NO_RELATED] * 2]
    assert groups[0][0].prompt == prompt and not groups[2][0].prompt
