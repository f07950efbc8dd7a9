"""Publishes a curated dataset, and the teacher that wrote it, on the Hugging Face Hub.

    notewright export runs/lab/dataset --repo-id ORG/NAME --dry-run
    notewright export runs/lab/dataset --repo-id ORG/NAME --tag v1 --teacher runs/lab

Everything is checked before anything is sent: the folder against its manifest byte by byte, the texts for secrets,
the licences of the rows, and whether the texts were searched for benchmark items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from configs.errors import UserError
from curation.console.progress import say
from curation.corpus.secrets import find_secrets
from curation.export.checks import NOT_PUSHED, check_folder, check_rows, unfit_licences
from curation.export.hub import CARD, Published, Target, Upload, check_repo_id, login, push
from curation.export.provenance import evaluation_results, find_run
from curation.export.teacher_card import MARK, teacher_uploads
from curation.pipeline.card import dataset_card, leaks_checked, licence_ids


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """All that an export would push: each repository with the files that it will hold. The teacher, if any, goes first,
    because the dataset's card links it. `licences` are by number of rows; `not_pushed` are files that stay here."""

    pushes: list[tuple[Target, list[Upload]]]
    licences: dict[str, int]
    secrets: list[str]
    not_pushed: list[str]


def plan_export(
    output: Path,
    repo_id: str,
    *,
    tag: str = "v1",
    public: bool = False,
    replace: bool = False,
    teacher: Path | None = None,
    allow_unchecked: bool = False,
    allow_secrets: bool = False,
    allow_licences: Sequence[str] = (),
) -> ExportPlan:
    """Checks the dataset folder `output` and prepares what is to be pushed. Sends nothing, writes nothing.

    Raises UserError if the folder is no finished dataset or was changed, if its texts are not fit to be published (see
    `checks`), or if the run `teacher` did not write it.
    """
    check_repo_id(repo_id)
    manifest, shards = check_folder(output)
    secrets = check_rows(output, manifest)
    problems = []
    if secrets and not allow_secrets:
        some = ", ".join(secrets[:3]) + (", ..." if len(secrets) > 3 else "")
        problems.append(f"{len(secrets)} texts seem to hold secrets: {some} (take them out, or --allow-secrets)")
    problems += unfit_licences(manifest["licences"], allow_licences)
    if not leaks_checked(manifest) and not allow_unchecked:
        problems.append(
            "no leak check ran: the curation had no benchmark items, so held-out questions may be in the texts (name "
            "curation.benchmarks or data.heldout and curate again, or --allow-unchecked)"
        )
    if problems:
        raise UserError(f"{output} is not fit to be published: {'; '.join(problems)}")
    if teacher is not None and not manifest["settings"]["trained"]:
        raise UserError(f"{output} was written by an untrained teacher: leave out --teacher")
    run = find_run(output, manifest, teacher)
    target = partial(Target, tag=tag, public=public, replace=replace)
    pushes = []
    facts: dict[str, Any] = {"results": evaluation_results(output, run)}
    if run is not None:
        facts |= {"base": run.base, "students": run.students}
    if teacher is not None:
        assert run is not None
        facts["teacher_repo"] = f"{repo_id}-teacher"
        weights = manifest["settings"]["teacher_hash"]
        uploads = teacher_uploads(run, weights, facts["teacher_repo"], repo_id)
        of_teacher = target(repo_id=facts["teacher_repo"], repo_type="model", mark=MARK, fingerprint=weights)
        pushes.append((of_teacher, uploads))
    card = str(dataset_card(repo_id.partition("/")[2], manifest, repo_id, facts)).encode()
    texts = [Upload.of("manifest.json", output / "manifest.json"), Upload.of(CARD, card)]
    made_from = manifest["fingerprint"]
    of_dataset = target(repo_id=repo_id, repo_type="dataset", mark="manifest.json", fingerprint=made_from)
    pushes.append((of_dataset, [*shards, *texts]))
    if not allow_secrets:
        _refuse_secret_cards(pushes)
    not_pushed = sorted(path.name for path in output.iterdir() if path.name in NOT_PUSHED)
    return ExportPlan(pushes, manifest["licences"], secrets, not_pushed)


def _refuse_secret_cards(pushes: Sequence[tuple[Target, list[Upload]]]) -> None:
    """Cards and manifest quote source documents, which `check_rows` has not read."""
    for target, uploads in pushes:
        for upload in uploads:
            if upload.path in (CARD, "manifest.json", MARK) and (kinds := find_secrets(upload.read().decode("utf-8"))):
                raise UserError(
                    f"{upload.path} for {target.repo_id} seems to hold secrets ({', '.join(kinds)}): an example's "
                    "source may have them (take it out of the input and curate again, or --allow-secrets)"
                )


def publish(plan: ExportPlan) -> list[Published]:
    """Pushes a plan. What is there already is not sent again, and where all is, nothing is done; see `hub.push`."""
    api = login()
    results = []
    for target, uploads in plan.pushes:
        say(f"to {target.url}")
        results.append(push(api, target, uploads))
    return results


def describe(plan: ExportPlan) -> str:
    """What would be pushed: repositories, files with bytes and hashes, the cards, the checks."""
    lines = []
    for target, uploads in plan.pushes:
        visibility = "public" if target.public else "private"
        total = sum(upload.size for upload in uploads)
        lines += [f"{target.repo_type} {target.repo_id} ({visibility}, tag {target.tag}) at {constants.ENDPOINT}", ""]
        lines += [f"{upload.size:>15,}  {upload.sha256[:12]}  {upload.path}" for upload in uploads]
        lines += [f"{total:>15,}  bytes in {len(uploads)} files", ""]
        [card] = [upload.read().decode() for upload in uploads if upload.path == CARD]
        # A document that a card quotes could command the terminal by control characters.
        printable = "".join(c if c in "\t\n" or c.isprintable() else "�" for c in card)
        lines += [*(f"  | {line}" for line in printable.splitlines()), ""]
    licences = ", ".join(f"{name} ({count} rows)" for name, count in sorted(plan.licences.items()))
    rows, (ids, _) = sum(plan.licences.values()), licence_ids(list(plan.licences))
    lines.append(f"checked: {rows} rows, {len(plan.secrets)} with secrets, licences {licences}: {ids}")
    if plan.not_pushed:
        lines.append(f"stays here: {', '.join(plan.not_pushed)}")
    return "\n".join([*lines, "nothing was pushed (--dry-run)"])
