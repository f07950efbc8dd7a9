"""What is pushed of a trained teacher: its weights, its tokenizer, a model card and what they are as JSON."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from curation.export.hub import Upload
from curation.export.provenance import TeacherRun
from curation.pipeline.card import licence_ids, render

TEMPLATE = Path(__file__).parent / "teacher_card.md.j2"
MARK = "notewright.json"
"""What the weights are, for programs; also tells a repository of ours from others."""
WEIGHTS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Not optimizer.pt, which only training needs, nor the card that peft leaves."""


def teacher_items(run: TeacherRun, weights_hash: str, repo_id: str, dataset: str) -> list[Upload]:
    """The files of the teacher's repository: the checkpoint's, the card last."""
    assert run.checkpoint is not None
    items = [
        Upload.of(path.name, _without_paths(path, run) or path)
        for path in sorted(run.checkpoint.iterdir())
        if path.is_file() and path.suffix in WEIGHTS
    ]
    facts = _facts(run, weights_hash)
    items.append(Upload.of(MARK, json.dumps({**facts, "dataset": dataset}, indent=2, default=str).encode() + b"\n"))
    return [*items, Upload.of("README.md", teacher_card(run, facts, repo_id, dataset).encode())]


def _facts(run: TeacherRun, weights_hash: str) -> dict[str, Any]:
    config = run.config
    assert run.checkpoint is not None
    return {
        "weights_hash": weights_hash,
        "data_hash": run.data_hash,
        "rounds": int(run.checkpoint.name.rpartition("-")[2]),
        "seed": config.run.seed,
        "rl": config.rl.model_dump(mode="json"),
        "reward": config.reward.model_dump(mode="json", exclude={"benchmarks", "retention_texts"}),
        # A strategy of the user's own is named by its path.
        "teacher": config.teacher.model_dump(mode="json", exclude={"model"})
        | {"strategies": [Path(strategy).stem for strategy in config.teacher.strategies]},
        "base": run.base.name,
        "students": [student.name for student in run.students],
    }


def _without_paths(path: Path, run: TeacherRun) -> bytes | None:
    """An adapter's config with its base model by name: its path would tell of its maker's disk, and help nobody."""
    if path.name != "adapter_config.json":
        return None
    config = json.loads(path.read_bytes()) | {"base_model_name_or_path": run.base.name}
    return json.dumps(config, indent=2).encode() + b"\n"


def teacher_card(run: TeacherRun, facts: dict[str, Any], repo_id: str, dataset: str) -> str:
    """The model card, metadata included."""
    assert run.checkpoint is not None
    adapter = (run.checkpoint / "adapter_config.json").is_file()
    licences, names = licence_ids([run.base.licence])
    data = ModelCardData(
        license=licences[0],
        license_name="-".join(names) or None,
        base_model=None if run.base.local else run.base.name,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["notewright", "synthetic-data", run.config.rl.algorithm.replace("_", "-")],
        datasets=[dataset],
    )
    return render(
        TEMPLATE,
        facts,
        card_data=data.to_yaml(),
        name=repo_id.partition("/")[2],
        repo_id=repo_id,
        dataset=dataset,
        adapter=adapter,
        base=run.base,
        students=run.students,
        results=run.results,
    )
