"""The dataset card: a README.md with metadata for the Hub, written from the manifest."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from datasets import Features, SplitDict, SplitInfo
from datasets.info import DatasetInfo, DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from curation.corpus.licences import is_unknown, licence_parts, terms
from curation.pipeline.accounts import accounts
from curation.pipeline.dataset import COLUMNS

# From https://huggingface.co/docs/hub/repositories-licenses: the licences of texts and datasets.
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit openrail cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 c-uda bsd bsd-2-clause bsd-3-clause
    gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 mpl-2.0 isc unlicense wtfpl odc-by odbl pddl etalab-2.0
    gemma llama3 llama3.1 llama3.2 llama3.3 unknown other
    """.split()
)
NO_ITEMS = hashlib.sha256(b"[]").hexdigest()
"""The manifest's `benchmark_items` where there were none."""
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def dataset_card(
    name: str, manifest: dict[str, Any], repo_id: str | None = None, facts: Mapping[str, Any] | None = None
) -> DatasetCard:
    """The card of a dataset called `name`; `repo_id` is its place on the Hub, if it is to be there.

    `facts` are what an export knows beyond the manifest: `base` and `students` (models with `name` and `licence`),
    `results` (lines with `arm`, `gain`, `accuracy`, `n`, `in`), `teacher_repo`.
    """
    files = manifest["files"]
    content = render(
        Path(__file__).parent / "card.md.j2",
        manifest,
        {"base": None, "students": (), "results": (), "teacher_repo": None, **(facts or {})},
        card_data=card_data(manifest).to_yaml(),
        name=name,
        repo_id=repo_id,
        terms=terms(manifest["licences"]),
        unknown_rows=sum(count for licence, count in manifest["licences"].items() if is_unknown(licence)),
        leaks_checked=leaks_checked(manifest),
        documents_in=sum(file["documents_in"] for file in files),
        documents_out=sum(file["documents_out"] for file in files),
        accounts=accounts(files),
        columns=[{"name": f.name, "type": str(f.type), "about": f.metadata[b"about"].decode()} for f in COLUMNS],
    )
    return DatasetCard(content)


def leaks_checked(manifest: Mapping[str, Any]) -> bool:
    """Whether benchmark items were searched for in the texts: by the leak check, or by a gate that had items."""
    gated = "leak" in manifest["gates"] and manifest["settings"].get("benchmark_items", NO_ITEMS) != NO_ITEMS
    return gated or bool(manifest.get("leak_check"))


def render(template: Path, *values: Mapping[str, Any], **more: Any) -> str:
    """A card's text from its template; a name without a value is an error. The filter `cell` escapes a table cell,
    `figure` writes a number that may be missing."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["figure"] = lambda number, digits: "–" if number is None else f"{number:.{digits}f}"
    merged = {name: value for mapping in (*values, more) for name, value in mapping.items()}
    return environment.from_string(template.read_text(encoding="utf-8")).render(merged)


def card_data(manifest: dict[str, Any]) -> DatasetCardData:
    """The card's metadata: what the Hub shows, filters by, and loads with."""
    curation = manifest["settings"]["curation"]
    licences, names = licence_ids(list(manifest["licences"]))
    data = DatasetCardData(
        language=[curation["language"]],
        license=licences[0] if len(licences) == 1 else licences,
        annotations_creators=["no-annotation" if curation["writer"] == "echo" else "machine-generated"],
        source_datasets=list(curation["source_datasets"]),
        size_categories=[size_category(manifest["rows"])],
        tags=["notewright"] if curation["writer"] == "echo" else ["synthetic", "notewright"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    )
    if names:
        data["license_name"] = "-".join(names)
    num_bytes = manifest["bytes_in_memory"]
    train = SplitInfo(name="train", num_bytes=num_bytes, num_examples=manifest["rows"], dataset_name=None)
    info = DatasetInfo(
        features=Features.from_arrow_schema(COLUMNS),
        splits=SplitDict({"train": train}),
        download_size=sum(shard["bytes"] for shard in manifest["shards"]),
        dataset_size=num_bytes,
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data


def licence_ids(licences: list[str]) -> tuple[list[str], list[str]]:
    """The Hub's ids of licences, and the names of those without an id (which become `other`)."""
    slugs = {_hub_id(part) for licence in licences for part in licence_parts(licence)}
    known, others = slugs & HUB_LICENCES, sorted(slugs - HUB_LICENCES)
    return sorted(known | ({"other"} if others else set())), others


def _hub_id(licence: str) -> str:
    """The Hub's id of one licence: without what SPDX says about later versions (`gpl-3.0-only`), and for some without
    a version (`odbl-1.0`). A slug of its name where the Hub has none."""
    slug = re.sub(r"[\s_]+", "-", (licence or "unknown").lower())
    shorter = (re.sub(r"-(only|or-later)$", "", slug), re.sub(r"-[\d.]+$", "", slug))
    return next((id for id in (slug, *shorter) if id in HUB_LICENCES), slug)


def size_category(rows: int) -> str:
    """The Hub's name for the size of a dataset: `n<1K`, `1K<n<10K`, ... `n>1T`."""
    above = min(max(len(str(rows)) - 3, 0), len(_SIZES))
    if above == 0:
        return f"n<{_SIZES[0]}"
    return f"n>{_SIZES[-1]}" if above == len(_SIZES) else f"{_SIZES[above - 1]}<n<{_SIZES[above]}"
