"""Pushes files to a repository of the Hugging Face Hub: sends only what is not there yet, and checks what arrived.

Large files are sent one by one before they are committed, so a push that was cut off goes on after the last complete
one. Up to `FILES_PER_COMMIT` files appear in one commit, all or none.
"""

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from configs.errors import RunError, UserError
from curation.console.progress import say

FILES_PER_COMMIT = 50
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
    tag: str
    public: bool
    replace: bool
    """May take the place of another version of ours; the repository's history keeps that one."""

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'datasets/' * (self.repo_type == 'dataset')}{self.repo_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Result of a push; `present` files were there already."""

    url: str
    commit: str
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
    """Makes the repository hold exactly `uploads`, checks that it does, tags the commit, and only then makes it public.

    Raises UserError where the repository holds something else, the tag is taken or the token lacks the right; RunError
    where the Hub cannot be reached or what arrived is wrong. After both, files that were sent are not sent again.
    """
    with _errors_in_a_line(target):
        # The library itself would wait for ever.
        get_session().timeout = httpx.Timeout(600, connect=30)
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=True, exist_ok=True)
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        if not info.private and not target.public:
            raise UserError(f"{target.repo_id} is public already: say --public, or name another --repo-id")
        remote = _files_at(api, target, "main")
        missing = [upload for upload in uploads if not upload.is_in(remote)]
        stale = _extra(remote, uploads)
        _refuse_other_content(target, missing, stale, remote.keys())
        tagged = _tagged_commit(api, target)
        if tagged is not None and (missing or stale or tagged != info.sha):
            raise _tag_taken(target, tagged)
        commit = _send(api, target, missing, stale, info.sha)
        remote = _files_at(api, target, commit)
        arrived_wrong = [upload.path for upload in uploads if not upload.is_in(remote)]
        wrong = [f"{path} {'differs' if path in remote else 'is missing'}" for path in arrived_wrong]
        wrong += [f"{path} is too many" for path in _extra(remote, uploads)]
        if wrong:
            raise RunError(
                f"{target.repo_id} at {commit[:8]} is not what was pushed ({'; '.join(wrong[:3])}): it stays untagged "
                "and as visible as it was; the same command sends what differs"
            )
        if tagged is None:
            api.create_tag(target.repo_id, tag=target.tag, revision=commit, repo_type=target.repo_type, exist_ok=True)
            # Someone else may have made the tag meanwhile.
            if (tagged := _tagged_commit(api, target)) != commit:
                raise _tag_taken(target, tagged or "another commit")
        if target.public and info.private:
            api.update_repo_settings(target.repo_id, repo_type=target.repo_type, private=False)
    return Published(url=target.url, commit=commit, sent=len(missing), present=len(uploads) - len(missing))


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


def _send(api: HfApi, target: Target, missing: list[Upload], stale: list[str], head: str | None) -> str:
    """Sends and commits; returns the commit that the repository is at afterwards."""
    starts = range(0, len(missing) or bool(stale), FILES_PER_COMMIT)
    for start in starts:
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for number, upload in enumerate(missing[start : start + FILES_PER_COMMIT], start + 1):
            content = upload.content if isinstance(upload.content, bytes) else str(upload.content)
            addition = CommitOperationAdd(path_in_repo=upload.path, path_or_fileobj=content)
            # This sends large files alone; small ones are sent with the commit.
            api.preupload_lfs_files(target.repo_id, repo_type=target.repo_type, additions=[addition])
            say(f"{number}/{len(missing)} {upload.path} ({upload.size:,} bytes)")
            operations.append(addition)
        message = f"Notewright {target.tag}"
        if start == starts[-1]:
            operations += [CommitOperationDelete(path_in_repo=path) for path in stale]
        else:
            message += f", files {start + 1} to {start + FILES_PER_COMMIT}"
        commit = api.create_commit(
            target.repo_id,
            repo_type=target.repo_type,
            operations=operations,
            commit_message=message,
            parent_commit=head,
        )
        head = commit.oid
    assert head is not None, "a repository has a first commit"
    return head


def _tagged_commit(api: HfApi, target: Target) -> str | None:
    refs = api.list_repo_refs(target.repo_id, repo_type=target.repo_type)
    return next((ref.target_commit for ref in refs.tags if ref.name == target.tag), None)


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
