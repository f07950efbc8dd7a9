"""The repository of a trained teacher: its weights, its tokenizer, a model card, and facts about them as JSON."""

import json
from pathlib import Path

from huggingface_hub import ModelCardData

from configs.files import read_own
from curation.export.hub import CARD, Upload
from curation.export.provenance import TeacherRun
from curation.pipeline.card import licence_ids, render
from teacher.run.checkpoints import is_adapter

MARK = "notewright.json"
"""Facts about the weights, for programs; also marks a repository as one of ours."""
WEIGHTS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Neither optimizer.pt, which only training needs, nor the card that peft writes."""


def teacher_uploads(run: TeacherRun, weights_hash: str, repo_id: str, dataset: str) -> list[Upload]:
    """The files of the teacher's repository: the checkpoint's, the card last."""
    config = run.config
    assert run.checkpoint is not None
    uploads = []
    for path in sorted(run.checkpoint.iterdir()):
        if not path.is_file() or path.suffix not in WEIGHTS:
            continue
        content: Path | bytes = path
        if path.name == "adapter_config.json":
            # It names its base model by a path, which would show this machine's disk and help nobody.
            settings = read_own(path, dict) | {"base_model_name_or_path": run.base.name}
            content = json.dumps(settings, indent=2).encode() + b"\n"
        uploads.append(Upload.of(path.name, content))
    facts = {
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
    uploads.append(Upload.of(MARK, json.dumps({**facts, "dataset": dataset}, indent=2, default=str).encode() + b"\n"))
    adapter = is_adapter(run.checkpoint)
    licences, names = licence_ids([run.base.licence])
    data = ModelCardData(
        license=licences[0],
        license_name="-".join(names) or None,
        base_model=None if run.base.local else run.base.name,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["notewright", "synthetic-data", config.rl.algorithm.replace("_", "-")],
        datasets=[dataset],
    )
    card = render(
        Path(__file__).parent / "teacher_card.md.j2",
        facts,
        card_data=data.to_yaml(),
        name=repo_id.partition("/")[2],
        repo_id=repo_id,
        dataset=dataset,
        adapter=adapter,
        # A whole model loads its own file; adapters of earlier versions have none.
        own_sampling=adapter and (run.checkpoint / "generation_config.json").is_file(),
        base=run.base,
        students=run.students,
        results=run.results,
    )
    return [*uploads, Upload.of(CARD, card.encode())]
