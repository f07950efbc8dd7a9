"""Pushes files to a repository of the Hugging Face Hub: sends only what is not there yet, and publishes it at once.

The files go to a branch that is named by their content, where they are checked. Then one commit changes `main`: it
copies from the branch what main lacks (the Hub does so by hash, without a file being sent again) and takes out what is
too many. A push that is killed leaves main as it was or as it is to be, and the same command goes on.

The Hub has no better step. Its API moves no existing branch on the condition that nobody else moved it, and merging a
pull request would take in what others committed meanwhile; `create_commit` refuses unless main is at `parent_commit`.
"""

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from configs.errors import RunError, UserError
from curation.console.progress import say

FILES_PER_COMMIT = 50
"""On the branch; the commit to main copies all (the Hub's limit is 25,000 files)."""
BRANCHES = "notewright-"
"""How the branches of unfinished pushes begin."""
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to push: its path in the repository, and its bytes or the file that has them."""

    path: str
    content: Path | bytes
    size: int
    sha256: str

    @staticmethod
    def of(path: str, content: Path | bytes) -> "Upload":
        """An upload with the size and hash that the content has now."""
        if isinstance(content, bytes):
            return Upload(path, content, len(content), hashlib.sha256(content).hexdigest())
        with content.open("rb") as file:
            return Upload(path, content, content.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def is_in(self, remote: dict[str, RepoFile]) -> bool:
        """Whether the Hub has these bytes at this path. It knows large files by SHA-256, small ones by git's SHA-1."""
        file = remote.get(self.path)
        if file is None or file.size != self.size:
            return False
        if file.lfs is not None:
            return file.lfs.sha256 == self.sha256
        return file.blob_id == hashlib.sha1(b"blob %d\0" % self.size + self.read()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a push goes."""

    repo_id: str
    repo_type: str
    """`dataset` or `model`."""
    mark: str
    """The file that marks a repository as one of ours."""
    fingerprint: str
    """What the files were made from: the dataset's fingerprint, or the hash of the teacher's weights. The commit names
    it."""
    tag: str
    public: bool
    replace: bool
    """May take the place of another version of ours; the repository's history keeps that one."""

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'datasets/' * (self.repo_type == 'dataset')}{self.repo_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Result of a push; `present` files were there already. Not `changed`: all was there, and nothing was done."""

    url: str
    commit: str
    changed: bool
    sent: int
    present: int


def check_repo_id(repo_id: str) -> None:
    """Raises UserError if the Hub would not accept the name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id {repo_id!r}: {str(error).splitlines()[0]}") from None
    if repo_id.count("/") != 1:
        raise UserError(f"--repo-id {repo_id!r} names no owner: ORG/NAME")


def login() -> HfApi:
    """The Hub as the user. Raises UserError where there is no token."""
    token = get_token()
    if token is None:
        raise UserError("no token for the Hub: set HF_TOKEN, or run `hf auth login`")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(token=token)


def push(api: HfApi, target: Target, uploads: Sequence[Upload]) -> Published:
    """Makes the repository hold exactly `uploads`, tags that commit, and only then makes it public. Does nothing where
    all this is so already.

    Raises UserError where the repository holds something else, the tag is taken or the token lacks the right; RunError
    where the Hub cannot be reached, what arrived is wrong, or somebody else changes main meanwhile. After both, what
    was published before is as it was, and files that were sent are not sent again.
    """
    with _errors_in_a_line(target):
        # The library itself would wait for ever.
        get_session().timeout = httpx.Timeout(600, connect=30)
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=True, exist_ok=True)
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        assert info.sha is not None, "a repository has a first commit"
        if not info.private and not target.public:
            raise UserError(f"{target.repo_id} is public already: say --public, or name another --repo-id")
        remote = _files_at(api, target, info.sha)
        missing = [upload for upload in uploads if not upload.is_in(remote)]
        stale = _extra(remote, uploads)
        _refuse_other_content(target, missing, stale, remote.keys())
        tagged, branches = _refs(api, target)
        if tagged is not None and (missing or stale or tagged != info.sha):
            raise _tag_taken(target, tagged)
        content = _content_hash(uploads)
        branch = BRANCHES + content[:12]
        hidden = target.public and info.private
        changed = bool(missing or stale or tagged is None or branch in branches or hidden)
        sent, commit = 0, info.sha
        if missing or stale:
            sent, checked = _send(api, target, missing, branch, branches.get(branch), info.sha)
            commit = _move_main(api, target, missing, stale, checked, info.sha, content)
            _check(api, target, uploads, commit, "it stays untagged and as visible as it was", whole=True)
        if tagged is None:
            api.create_tag(target.repo_id, tag=target.tag, revision=commit, repo_type=target.repo_type, exist_ok=True)
        if changed:
            tagged, branches = _refs(api, target)
            # Someone else may have made the tag meanwhile.
            if tagged != commit:
                raise _tag_taken(target, tagged or "another commit")
        if branch in branches:
            api.delete_branch(target.repo_id, branch=branch, repo_type=target.repo_type)
        for other in sorted(branches.keys() - {branch}):
            if other.startswith(BRANCHES):
                say(f"the branch {other} of {target.repo_id} is of another push that has not ended")
        if hidden:
            api.update_repo_settings(target.repo_id, repo_type=target.repo_type, private=False)
    return Published(url=target.url, commit=commit, changed=changed, sent=sent, present=len(uploads) - sent)


def _files_at(api: HfApi, target: Target, revision: str) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(target.repo_id, repo_type=target.repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _extra(remote: dict[str, RepoFile], uploads: Sequence[Upload]) -> list[str]:
    """Files of the repository that are neither among the uploads nor put into every repository by the Hub."""
    return sorted(remote.keys() - {upload.path for upload in uploads} - {".gitattributes"})


def _refuse_other_content(target: Target, missing: list[Upload], stale: list[str], remote: Collection[str]) -> None:
    """Raises UserError if the push would change files that it may not. A card alone is no content, because the Hub's
    own pages make one."""
    others = [upload.path for upload in missing if upload.path in remote and upload.path != CARD] + stale
    is_notewright = target.mark in remote
    if not others or (target.replace and is_notewright):
        return
    names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    if is_notewright:
        raise UserError(
            f"{target.repo_id} holds another version ({names} differ): --replace puts this one in its place (the "
            "repository's history keeps the other), or name another --repo-id"
        )
    raise UserError(f"{target.repo_id} holds other content ({names}): name another --repo-id")


def _content_hash(uploads: Sequence[Upload]) -> str:
    lines = sorted(f"{upload.sha256}  {upload.path}\n" for upload in uploads)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _send(
    api: HfApi, target: Target, missing: Sequence[Upload], branch: str, branch_head: str | None, main: str
) -> tuple[int, str]:
    """Makes the branch hold `missing`, and checks that it does. Returns how many files it lacked, and its head.
    `branch_head` is None where there is no such branch yet."""
    if branch_head is None:
        api.create_branch(target.repo_id, repo_type=target.repo_type, branch=branch, revision=main, exist_ok=True)
    head = branch_head or main
    there = _files_at(api, target, head)
    lacking = [upload for upload in missing if not upload.is_in(there)]
    for start in range(0, len(lacking), FILES_PER_COMMIT):
        additions = []
        for number, upload in enumerate(lacking[start : start + FILES_PER_COMMIT], start + 1):
            content = upload.content if isinstance(upload.content, bytes) else str(upload.content)
            additions.append(CommitOperationAdd(path_in_repo=upload.path, path_or_fileobj=content))
            # This sends large files alone; small ones are sent with the commit.
            api.preupload_lfs_files(
                target.repo_id, repo_type=target.repo_type, additions=additions[-1:], revision=branch
            )
            say(f"{number}/{len(lacking)} {upload.path} ({upload.size:,} bytes)")
        head = api.create_commit(
            target.repo_id,
            repo_type=target.repo_type,
            operations=additions,
            commit_message=f"Notewright {target.tag}, {start + len(additions)} of {len(lacking)} files",
            revision=branch,
            parent_commit=head,
        ).oid
    _check(api, target, missing, head, "main is as it was", whole=False)
    return len(lacking), head


def _move_main(
    api: HfApi, target: Target, missing: Sequence[Upload], stale: Sequence[str], checked: str, main: str, content: str
) -> str:
    """The one commit that publishes, by copies from the commit `checked`; the Hub refuses it unless main is still at
    `main`. Returns the new commit."""
    copies = [
        CommitOperationCopy(src_path_in_repo=upload.path, path_in_repo=upload.path, src_revision=checked)
        for upload in missing
    ]
    commit = api.create_commit(
        target.repo_id,
        repo_type=target.repo_type,
        operations=[*copies, *(CommitOperationDelete(path_in_repo=path) for path in stale)],
        commit_message=f"Notewright {target.tag}",
        commit_description=f"Fingerprint: {target.fingerprint}\nFiles: {content}",
        parent_commit=main,
    )
    return commit.oid


def _check(api: HfApi, target: Target, uploads: Sequence[Upload], commit: str, kept: str, *, whole: bool) -> None:
    """Raises RunError unless the commit holds `uploads`, and nothing else if it has to be the `whole`."""
    remote = _files_at(api, target, commit)
    arrived_wrong = [upload.path for upload in uploads if not upload.is_in(remote)]
    wrong = [f"{path} {'differs' if path in remote else 'is missing'}" for path in arrived_wrong]
    if whole:
        wrong += [f"{path} is too many" for path in _extra(remote, uploads)]
    if wrong:
        raise RunError(
            f"{target.repo_id} at {commit[:8]} is not what was pushed ({'; '.join(wrong[:3])}): {kept}; the same "
            "command sends what differs"
        )


def _refs(api: HfApi, target: Target) -> tuple[str | None, dict[str, str]]:
    """The commit that has the target's tag, if any, and the heads of the branches by name."""
    refs = api.list_repo_refs(target.repo_id, repo_type=target.repo_type)
    tagged = next((ref.target_commit for ref in refs.tags if ref.name == target.tag), None)
    return tagged, {ref.name: ref.target_commit for ref in refs.branches}


def _tag_taken(target: Target, commit: str) -> UserError:
    return UserError(f"{target.repo_id} has a tag {target.tag} of other content (at {commit[:8]}): name another --tag")


@contextmanager
def _errors_in_a_line(target: Target) -> Iterator[None]:
    try:
        yield
    except (UserError, RunError):
        raise
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, and an export needs the Hub: unset it") from None
    except (httpx.HTTPError, RuntimeError, ValueError) as error:
        # The library raises ValueError where the Hub refuses the card's metadata, or a large file for want of space,
        # and wraps the cause of a failed upload in a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(error, RuntimeError) and not isinstance(cause, httpx.HTTPError):
            raise
        raise _explained(target, cause) from error


def _explained(target: Target, error: BaseException | None) -> Exception:
    kept = "what was sent is kept there, and the same command goes on"
    if isinstance(error, HfHubHTTPError):
        owner = target.repo_id.partition("/")[0]
        match error.response.status_code:
            case 401:
                return UserError("the Hub does not accept the token: renew HF_TOKEN, or run `hf auth login`")
            case 403:
                return UserError(f"the token may not write to {target.repo_id}: it needs write access to {owner}")
            case 404:
                return UserError(f"no {target.repo_type} {target.repo_id} on the Hub, or the token may not see it")
            case 412:
                return RunError(f"{target.repo_id} was changed by someone else meanwhile; {kept}")
        detail = error.server_message or error.response.reason_phrase
        return RunError(f"the Hub answered {error.response.status_code} ({detail}); {kept}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RunError(f"cannot reach the Hub at {constants.ENDPOINT} ({error}); {kept}")
    if isinstance(error, httpx.HTTPError):
        return RunError(f"the connection to {constants.ENDPOINT} broke ({type(error).__name__}: {error}); {kept}")
    return RunError(f"the Hub refuses {target.repo_id}: {error}; {kept}")
