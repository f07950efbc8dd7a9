"""Pushes files to a repository of the Hugging Face Hub: what is there is not sent again, and what arrived is checked.

Large files are sent one by one before they are committed, so that a push that was cut off goes on behind the last
complete one. Up to `FILES_PER_COMMIT` files appear in one commit, whole or not at all.
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
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 30, 600
"""The library itself would wait for ever."""
HUBS_OWN = frozenset({".gitattributes"})
"""Files that the Hub puts into every repository."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to push: its path in the repository, and where its bytes are."""

    path: str
    content: Path | bytes
    size: int
    sha256: str

    @staticmethod
    def of(path: str, content: Path | bytes) -> "Upload":
        """An item with its size and hash taken now."""
        if isinstance(content, bytes):
            return Upload(path, content, len(content), hashlib.sha256(content).hexdigest())
        with content.open("rb") as file:
            return Upload(path, content, content.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())

    def same(self, remote: RepoFile) -> bool:
        """Whether the Hub's file has these bytes. It knows large files by SHA-256 and small ones by git's SHA-1."""
        if remote.size != self.size:
            return False
        if remote.lfs is not None:
            return remote.lfs.sha256 == self.sha256
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return remote.blob_id == hashlib.sha1(b"blob %d\0" % self.size + content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a push goes."""

    repo_id: str
    repo_type: str
    """`dataset` or `model`."""
    mark: str
    """The file by which a repository is known as one of ours."""
    tag: str
    public: bool
    replace: bool
    """May take the place of another version of ours; the repository's history keeps it."""

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'datasets/' * (self.repo_type == 'dataset')}{self.repo_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a push did."""

    url: str
    commit: str
    sent: int
    present: int
    """Files that were there already."""


def check_repo_id(repo_id: str) -> None:
    """Raises UserError if the Hub would not have it."""
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


def push(api: HfApi, target: Target, items: Sequence[Upload]) -> Published:
    """Makes the repository hold exactly `items`, checks that it does, tags the commit, and only then makes it public.

    Raises UserError where the repository holds something else, the tag is taken or the token may not; RunError where
    the Hub cannot be reached or what arrived is not what was sent. After both, what was sent need not be sent again.
    """
    with _errors_in_a_line(target):
        get_session().timeout = httpx.Timeout(SECONDS_TO_ANSWER, connect=SECONDS_TO_CONNECT)
        api.create_repo(target.repo_id, repo_type=target.repo_type, private=True, exist_ok=True)
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        if not info.private and not target.public:
            raise UserError(f"{target.repo_id} is public already: say --public, or name another --repo-id")
        remote = _tree(api, target, "main")
        missing = [item for item in items if item.path not in remote or not item.same(remote[item.path])]
        stale = sorted(remote.keys() - {item.path for item in items} - HUBS_OWN)
        _refuse_other_content(target, missing, stale, remote.keys())
        tagged = _tagged(api, target)
        if tagged is not None and (missing or stale or tagged != info.sha):
            raise _tag_taken(target, tagged)
        commit = _send(api, target, missing, stale, info.sha)
        _verify(api, target, items, commit)
        if tagged is None:
            _tag(api, target, commit)
        if target.public and info.private:
            api.update_repo_settings(target.repo_id, repo_type=target.repo_type, private=False)
    return Published(url=target.url, commit=commit, sent=len(missing), present=len(items) - len(missing))


def _tree(api: HfApi, target: Target, revision: str) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(target.repo_id, repo_type=target.repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _refuse_other_content(target: Target, missing: list[Upload], stale: list[str], remote: Collection[str]) -> None:
    """A card alone is no content: the Hub's own pages make one."""
    others = [item.path for item in missing if item.path in remote and item.path != "README.md"] + stale
    if not others or (target.replace and target.mark in remote):
        return
    what = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    if target.mark in remote:
        raise UserError(
            f"{target.repo_id} holds another version ({what} differ): --replace puts this one in its place (the "
            "repository's history keeps the other), or name another --repo-id"
        )
    raise UserError(f"{target.repo_id} holds other content ({what}): name another --repo-id")


def _send(api: HfApi, target: Target, missing: list[Upload], stale: list[str], head: str | None) -> str:
    """Sends and commits; returns the commit that the repository is at then."""
    starts = range(0, len(missing) or bool(stale), FILES_PER_COMMIT)
    for start in starts:
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for number, item in enumerate(missing[start : start + FILES_PER_COMMIT], start + 1):
            content = item.content if isinstance(item.content, bytes) else str(item.content)
            addition = CommitOperationAdd(path_in_repo=item.path, path_or_fileobj=content)
            # Small files are not sent here but with the commit.
            api.preupload_lfs_files(target.repo_id, repo_type=target.repo_type, additions=[addition])
            say(f"{number}/{len(missing)} {item.path} ({item.size:,} bytes)")
            operations.append(addition)
        message = f"Notewright {target.tag}"
        if start == starts[-1]:
            operations += [CommitOperationDelete(path_in_repo=path) for path in stale]
        else:
            message += f", files {start + 1} to {start + FILES_PER_COMMIT}"
        done = api.create_commit(
            target.repo_id,
            repo_type=target.repo_type,
            operations=operations,
            commit_message=message,
            parent_commit=head,
        )
        head = done.oid
    assert head is not None, "a repository has a first commit"
    return head


def _verify(api: HfApi, target: Target, items: Sequence[Upload], commit: str) -> None:
    """Raises RunError unless the commit holds exactly these files, by path, size and hash."""
    remote = _tree(api, target, commit)
    wrong = [f"{item.path} is missing" for item in items if item.path not in remote]
    wrong += [f"{item.path} differs" for item in items if item.path in remote and not item.same(remote[item.path])]
    wrong += [f"{path} is too many" for path in sorted(remote.keys() - {item.path for item in items} - HUBS_OWN)]
    if wrong:
        raise RunError(
            f"{target.repo_id} at {commit[:8]} is not what was pushed ({'; '.join(wrong[:3])}): it stays untagged and "
            "as visible as it was; the same command sends what differs"
        )


def _tagged(api: HfApi, target: Target) -> str | None:
    refs = api.list_repo_refs(target.repo_id, repo_type=target.repo_type)
    return next((ref.target_commit for ref in refs.tags if ref.name == target.tag), None)


def _tag(api: HfApi, target: Target, commit: str) -> None:
    try:
        api.create_tag(target.repo_id, tag=target.tag, revision=commit, repo_type=target.repo_type)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        tagged = _tagged(api, target)
        if tagged != commit:
            raise _tag_taken(target, tagged or "another commit") from None


def _tag_taken(target: Target, commit: str) -> UserError:
    return UserError(f"{target.repo_id} has a tag {target.tag} of other content (at {commit[:8]}): name another --tag")


KEPT = "what was sent is kept there, and the same command goes on"


@contextmanager
def _errors_in_a_line(target: Target) -> Iterator[None]:
    try:
        yield
    except (UserError, RunError):
        raise
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, and an export needs the Hub: unset it") from None
    except RuntimeError as error:
        # The library wraps what an upload failed of.
        if not isinstance(error.__cause__, httpx.HTTPError):
            raise
        raise _in_a_line(target, error.__cause__) from error
    except (httpx.HTTPError, ValueError) as error:
        # ValueError: the Hub refuses the card's metadata, or a large file for want of space.
        raise _in_a_line(target, error) from error


def _in_a_line(target: Target, error: Exception) -> Exception:
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
                return RunError(f"{target.repo_id} was changed by someone else meanwhile; {KEPT}")
        detail = error.server_message or error.response.reason_phrase
        return RunError(f"the Hub answered {error.response.status_code} ({detail}); {KEPT}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RunError(f"cannot reach the Hub at {constants.ENDPOINT} ({error}); {KEPT}")
    if isinstance(error, httpx.HTTPError):
        return RunError(f"the connection to {constants.ENDPOINT} broke ({type(error).__name__}: {error}); {KEPT}")
    return RunError(f"the Hub refuses {target.repo_id}: {error}; {KEPT}")
