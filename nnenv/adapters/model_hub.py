"""Files of repositories on a model hub, by the hub's own client (the extra `nnenv[hub]`).

Endpoint and token are the client's usual settings: HF_ENDPOINT, HF_TOKEN, or the token that `hf auth login` keeps.
Of a token nnenv stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nnenv.errors import NnenvError
from nnenv.spec.artifact import Sha256
from nnenv.spec.model_source import HubSource

_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file at one commit."""

    commit: str
    url: str
    sha256: Sha256 | None
    """Known of large files alone (LFS)."""
    size: int | None
    licence: str
    """As the repository's card says; empty if it does not."""


class ModelHub:
    """A hub as the environment configures it."""

    def __init__(self, environment: Mapping[str, str], *, offline: bool = False) -> None:
        self._endpoint = environment.get("HF_ENDPOINT") or None
        self._token = environment.get("HF_TOKEN") or None
        self._offline = offline

    def find(self, source: HubSource) -> HubFile:
        """The file as it is now: a branch or tag becomes the commit that it is at.

        Raises NnenvError `offline`, `model-unreachable` (no client, no answer, no such repository, revision or file,
        or no right to see it).
        """
        if self._offline:
            what = f"--offline forbids to ask the hub for {source.identity}"
            raise NnenvError("offline", what, where=source.identity, fix=["run the command once without --offline"])
        hub = _client()
        from huggingface_hub.errors import HfHubHTTPError

        api = hub.HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(source.repository, revision=source.revision, files_metadata=True, timeout=_SECONDS)
        except HfHubHTTPError as error:
            raise _refused(source, error) from None
        except Exception as error:
            # The client's transport has exceptions of its own, and changes it between releases.
            raise _unreachable(source, f"{type(error).__name__}: {_first_line(error)}") from None
        file = next((one for one in info.siblings or () if one.rfilename == source.path), None)
        if file is None or not info.sha:
            raise _unreachable(source, f"revision {source.revision} has no file {source.path}")
        lfs: Any = file.lfs
        return HubFile(
            commit=info.sha,
            url=self.address(source, info.sha),
            sha256=Sha256(lfs.sha256) if lfs is not None else None,
            size=file.size,
            licence=_licence(info),
        )

    def address(self, source: HubSource, commit: str) -> str:
        """Where the file of a commit is."""
        url = _client().hf_hub_url(source.repository, source.path, revision=commit, endpoint=self._endpoint)
        return str(url)

    def token(self) -> str:
        """What the hub is to be shown; empty without one."""
        return self._token or _client().get_token() or ""


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise NnenvError(
            "model-unreachable",
            "a source of scheme hf: needs the hub's client, which is not installed",
            fix=["pip install 'nnenv[hub]'", "or name an https: address of the file, with its sha256"],
        ) from None
    return huggingface_hub


def _licence(info: Any) -> str:
    card = getattr(info, "card_data", None)
    licence = getattr(card, "license", None) if card is not None else None
    return licence if isinstance(licence, str) else ""


def _refused(source: HubSource, error: Any) -> NnenvError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return NnenvError(
            "model-unreachable",
            f"the hub does not let us see {source.identity}",
            where=source.identity,
            because=[_first_line(error)],
            fix=["accept the conditions of the repository on the hub, and set HF_TOKEN"],
        )
    return _unreachable(source, _first_line(error))


def _unreachable(source: HubSource, because: str) -> NnenvError:
    return NnenvError(
        "model-unreachable",
        f"the hub gives no {source.identity}",
        where=source.identity,
        because=[because],
        fix=["check repository, revision and path", "HF_ENDPOINT names another hub"],
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
