"""At which settings of a student does a lesson teach more than text about something else, and more than the passage?
`notewright bench settings CONFIG`, before rounds are trained there.

Students of every setting in `search.settings` learn the same texts of the same documents, one document each, and are
asked all its questions. What is compared is fixed in the config and kept with the run before anything is measured; the
rule is `settings_report.VERDICT`. No document that something is judged on later may be among these.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from configs.errors import UserError
from configs.files import write_json
from configs.format import without_nan
from configs.load import changed
from configs.schema import Config
from curation.console.progress import say
from curation.study.groups import Group, read_arms
from curation.study.settings_report import VERDICT, Measured, summarise
from curation.study.students import RewriteStudy, session, with_distractors
from student.pools import make_pool
from student.pools.inline import NOT_IN_FINGERPRINT
from student.records import group_of
from teacher.reward.student_models import MakePool


def run_settings(config: Config, *, pools: MakePool = make_pool) -> dict[str, Any]:
    """Measures what is missing, writes `settings.json` into `run.dir`, and returns what it holds. Students are kept in
    `<run.dir>/settings/`, so that a stopped call goes on. Raises UserError and RunError."""
    config = with_distractors(config)
    search = config.search
    decoding = {"decode": True} if "recall" in search.measures else {}
    students = {
        setting_name(changes): changed(config, {"student": decoding | changes}, "search.settings").student
        for changes in search.settings
    }
    if any(student.models or student.model in ("", "teacher") for student in students.values()):
        raise UserError("search.settings: every setting needs one student: set student.model to a folder or a Hub id")
    groups = read_arms(config)
    measured = []
    with session(config, groups, config.run.dir / "settings", _design(config, groups)) as students_of:
        for (name, student), changes in zip(students.items(), search.settings, strict=True):
            with closing(pools(student)) as pool:
                study = RewriteStudy(students_of.runs(student), pool, groups, 1, purpose="settings")
                students_of.progress.expect(study.students(search.repeats, search.repeated_documents))
                with students_of.costs.of(name, study.runs):
                    recording = study.record(search.repeats, search.repeated_documents)
            for error in recording.errors[:1]:
                say(f"{name}: {len(recording.errors)} students failed: {error}")
            tokens, seconds = recording.tokens / max(1, recording.students), students_of.costs.seconds_per_unit(name)
            measured.append(Measured(name, changes, recording, tokens, seconds))
    result = without_nan(summarise(config, groups, [group_of(group.document) for group in groups], measured))
    write_json(config.run.dir / "settings.json", result)
    return dict(result)


def setting_name(changes: Mapping[str, Any]) -> str:
    """What a setting changes: `steps 4, lora.rank 4`."""
    words = []
    for key, value in changes.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        words += [f"{key}.{name} {one}" if name else f"{key} {one}" for name, one in inner]
    return ", ".join(words) or "as it is"


def _design(config: Config, groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "student": config.student.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT - {"model"}),
        "reward": config.reward.model_dump(mode="json", include={"distractors", "retention_texts"}),
        "seed": config.run.seed,
        "search": config.search.model_dump(mode="json"),
        "documents": {group.document.id: [c.text for c in group.candidates] for group in groups},
        "statistics": VERDICT,
    }
