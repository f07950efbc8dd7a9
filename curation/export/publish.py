"""Publishes a curated dataset, and the teacher that wrote it, on the Hugging Face Hub.

    notewright export runs/lab/dataset --repo-id ORG/NAME --dry-run
    notewright export runs/lab/dataset --repo-id ORG/NAME --tag v1 --teacher runs/lab

Everything is checked before anything is sent: the folder against its manifest byte by byte, the texts for secrets,
the licences of the rows, and whether the texts were held against a benchmark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from configs.errors import UserError
from curation.console.progress import say
from curation.corpus.secrets import find_secrets
from curation.export.checks import KEPT_HOME, Rows, check_folder, check_rows, refuse_unfit
from curation.export.hub import Published, Target, Upload, check_repo_id, login, push
from curation.export.provenance import evaluation_results, find_run
from curation.export.teacher_card import MARK, teacher_items
from curation.pipeline.card import dataset_card, licence_ids


@dataclass(frozen=True, slots=True)
class Push:
    """One repository, and the files that it will hold."""

    target: Target
    items: tuple[Upload, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an export would push. The teacher, if any, goes first: the dataset's card links it."""

    pushes: tuple[Push, ...]
    rows: Rows
    left: tuple[str, ...]
    """What lies in the folder and is not pushed."""


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
) -> Plan:
    """Checks the dataset folder `output` and makes what is to be pushed. Sends nothing, writes nothing.

    Raises UserError if the folder is no finished dataset or was changed, if its texts are not fit to be published (see
    `export_checks`), or if the run `teacher` did not write it.
    """
    check_repo_id(repo_id)
    manifest, shards = check_folder(output)
    rows = check_rows(output, manifest)
    refuse_unfit(
        output,
        manifest,
        rows,
        allow_unchecked=allow_unchecked,
        allow_secrets=allow_secrets,
        allow_licences=allow_licences,
    )
    if teacher is not None and not manifest["settings"]["trained"]:
        raise UserError(f"{output} was written by an untrained teacher: leave out --teacher")
    run = find_run(output, manifest, teacher)
    teacher_repo = f"{repo_id}-teacher" if teacher is not None else None
    facts = {
        "base": run and run.base,
        "students": run.students if run else (),
        "results": evaluation_results(output, run),
        "teacher_repo": teacher_repo,
    }
    card = str(dataset_card(repo_id.partition("/")[2], manifest, repo_id, facts)).encode()
    texts = [Upload.of("manifest.json", output / "manifest.json"), Upload.of("README.md", card)]

    def target(repo_id: str, repo_type: str, mark: str) -> Target:
        return Target(repo_id=repo_id, repo_type=repo_type, mark=mark, tag=tag, public=public, replace=replace)

    pushes = [Push(target(repo_id, "dataset", "manifest.json"), (*shards, *texts))]
    if teacher_repo is not None:
        assert run is not None
        items = teacher_items(run, manifest["settings"]["teacher_hash"], teacher_repo, repo_id)
        pushes.insert(0, Push(target(teacher_repo, "model", MARK), tuple(items)))
    _refuse_secret_cards(pushes, allow_secrets)
    left = sorted(path.name for path in output.iterdir() if path.name in KEPT_HOME)
    return Plan(tuple(pushes), rows, tuple(left))


def _refuse_secret_cards(pushes: Sequence[Push], allowed: bool) -> None:
    """The cards and the manifest quote sources, which `check_rows` has not seen."""
    for push_ in pushes:
        for item in push_.items:
            if item.path not in ("README.md", "manifest.json", MARK) or allowed:
                continue
            content = item.content if isinstance(item.content, bytes) else item.content.read_bytes()
            if kinds := find_secrets(content.decode("utf-8")):
                raise UserError(
                    f"{item.path} for {push_.target.repo_id} seems to hold secrets ({', '.join(kinds)}): an example's "
                    "source may have them (take it out of the input and curate again, or --allow-secrets)"
                )


def publish(plan: Plan) -> list[Published]:
    """Pushes a plan. What is there already is not sent again; see `hub.push`."""
    api = login()
    done = []
    for push_ in plan.pushes:
        say(f"to {push_.target.url}")
        done.append(push(api, push_.target, push_.items))
    return done


def describe(plan: Plan) -> str:
    """What would be pushed: repositories, files with bytes and hashes, the cards, the checks."""
    lines = []
    for push_ in plan.pushes:
        target = push_.target
        seen = "public" if target.public else "private"
        total = sum(item.size for item in push_.items)
        lines += [f"{target.repo_type} {target.repo_id} ({seen}, tag {target.tag}) at {constants.ENDPOINT}", ""]
        lines += [f"{item.size:>15,}  {item.sha256[:12]}  {item.path}" for item in push_.items]
        lines += [f"{total:>15,}  bytes in {len(push_.items)} files", ""]
        [card] = [item.content for item in push_.items if item.path == "README.md"]
        assert isinstance(card, bytes)
        lines += [*(f"  | {_printable(line)}" for line in card.decode().splitlines()), ""]
    licences = ", ".join(f"{name} ({count} rows)" for name, count in sorted(plan.rows.licences.items()))
    ids, _ = licence_ids(list(plan.rows.licences))
    lines.append(f"checked: {plan.rows.rows} rows, {len(plan.rows.secrets)} with secrets, licences {licences}: {ids}")
    if plan.left:
        lines.append(f"stays here: {', '.join(plan.left)}")
    return "\n".join([*lines, "nothing was pushed (--dry-run)"])


def _printable(line: str) -> str:
    """Without control characters, by which a document quoted in a card could command the terminal."""
    return "".join(c if c == "\t" or c.isprintable() else "�" for c in line)
