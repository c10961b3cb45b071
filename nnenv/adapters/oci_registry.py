"""Artifacts in registries, read by the OCI distribution-spec 1.1: manifests, and where their blobs are.

Registries are asked by https; by http only on this machine's loopback, as Docker does. Credentials are those of
`auths` in Docker's config.json ($DOCKER_CONFIG, ~/.docker): shown to the registry that they are for and to the token
server that it names, and stored nowhere.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from nnenv.adapters.http import Http, HttpError, Response, basic_authorization, host_of
from nnenv.errors import NnenvError
from nnenv.formats.oci import document_digest
from nnenv.formats.oci_artifact import MANIFEST_TYPES, ArtifactError, Index, Manifest, read_manifest
from nnenv.spec.artifact import Sha256
from nnenv.spec.model_source import OciSource

_MANIFEST_LIMIT: Final = 4 << 20
"""Bytes; distribution-spec 1.1, "Pushing Manifests": what a registry must at least take."""
_TOKEN_LIMIT: Final = 1 << 20
_CONFIG_LIMIT: Final = 4 << 20
_DEFAULT_HOSTS: Final = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
"""Docker's default registry answers elsewhere than it is called, and has its credentials under an older name."""
_DEFAULT_KEY: Final = "https://index.docker.io/v1/"
_PARAMETER: Final = re.compile(r'(?:([A-Za-z]+) +)?([A-Za-z_]+) *= *(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
"""One parameter of a challenge, with the scheme before the first of them (RFC 9110 section 11.6.1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundArtifact:
    """An artifact as a registry has it now."""

    digest: Sha256
    """Of the manifest."""
    manifest: Manifest


class OciRegistry:
    """The registry of one source, in one session."""

    def __init__(self, source: OciSource, http: Http, environment: Mapping[str, str], home: Path) -> None:
        self._source = source
        self._http = http
        self._environment = environment
        self._home = home
        host = _DEFAULT_HOSTS.get(source.registry, source.registry)
        self._base = f"{'http' if is_loopback(host) else 'https'}://{host}/v2/{source.repository}"

    def artifact(self, reference: str) -> FoundArtifact:
        """The artifact of a tag or `sha256:` digest; an index of one is followed. Afterwards blobs may be asked for.

        Raises NnenvError `offline`, `model-unreachable` (no answer, not there, not allowed, several), or
        `digest-mismatch` if a manifest is not what its name says.
        """
        digest, found = self._manifest(reference)
        if isinstance(found, Index):
            if len(found.manifests) != 1:
                raise self._unreachable(
                    [f"it is an index of {len(found.manifests)} artifacts"],
                    f"name one by its digest: oci:{self._source.registry}/{self._source.repository}@sha256:...",
                )
            digest, found = self._manifest(f"sha256:{found.manifests[0]}")
        if isinstance(found, Index):
            raise self._unreachable(["it is an index of an index"], "name one artifact by its digest")
        return FoundArtifact(digest=digest, manifest=found)

    def address(self, blob: Sha256) -> str:
        """Where a blob is."""
        return f"{self._base}/blobs/sha256:{blob}"

    def _manifest(self, reference: str) -> tuple[Sha256, Manifest | Index]:
        url = f"{self._base}/manifests/{reference}"
        answer = self._authorised(url)
        if answer is None:
            raise self._unreachable([f"the registry has no manifest {reference}"])
        digest = document_digest(answer.body)
        claimed = reference if reference.startswith("sha256:") else answer.headers.get("docker-content-digest", "")
        if claimed.startswith("sha256:") and claimed != f"sha256:{digest}":
            raise NnenvError(
                "digest-mismatch",
                f"the manifest of {self._source.shown} is not the one that is wanted",
                where=self._source.shown,
                because=[f"wanted {claimed.removeprefix('sha256:')}", f"found  {digest}"],
                fix=["ask who runs the registry, or lock again with `nnenv lock -P MODEL`"],
            )
        try:
            return digest, read_manifest(answer.body)
        except ArtifactError as error:
            raise self._unreachable([str(error)]) from None

    def _authorised(self, url: str) -> Response | None:
        """The answer, if need be with what the registry's challenge asks for."""
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        try:
            try:
                return self._http.get(url, limit=_MANIFEST_LIMIT, headers=headers)
            except HttpError as error:
                # A host that the registry redirects to has no claim on its credentials.
                authorization = self._met(error) if error.where == host_of(url) else ""
                if not authorization:
                    raise
            self._http.credentials[host_of(url)] = authorization
            return self._http.get(url, limit=_MANIFEST_LIMIT, headers=headers)
        except HttpError as error:
            raise self._refused(error) from None

    def _met(self, error: HttpError) -> str:
        """The Authorization header that answers the challenge of a 401; empty if there is none."""
        basic = _configured(self._source.registry, self._environment, self._home)
        for scheme, parameters in _challenges(error.challenge):
            if scheme == "bearer":
                return f"Bearer {self._token(parameters, basic)}"
            if scheme == "basic" and basic:
                return basic
        return ""

    def _token(self, parameters: Mapping[str, str], basic: str) -> str:
        """From the token server (distribution, "Token Authentication Specification")."""
        realm = parameters.get("realm", "")
        own = is_loopback(self._source.registry)
        if not (realm.startswith("https://") or (own and realm.startswith("http://") and is_loopback(host_of(realm)))):
            raise self._unreachable([f"it names a token server that is not asked: {realm[:200]!r}"])
        asked = {"scope": parameters.get("scope") or f"repository:{self._source.repository}:pull"}
        if parameters.get("service"):
            asked = {"service": parameters["service"], **asked}
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(asked)}"
        answer = self._http.get(url, limit=_TOKEN_LIMIT, headers={"Authorization": basic} if basic else None)
        try:
            said = json.loads(answer.body) if answer else {}
            token = said.get("token") or said.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise self._unreachable(["its token server gives no token"])
        return token

    def _refused(self, error: HttpError) -> NnenvError:
        if error.status in (401, 403):
            return self._unreachable(
                [f"{error.where}: {error.cause}"],
                f"`docker login {self._source.registry}`, with an account that may read the repository",
            )
        return self._unreachable([f"{error.where}: {error.cause}"])

    def _unreachable(
        self, because: list[str], fix: str = "check registry, repository, and tag or digest"
    ) -> NnenvError:
        shown = self._source.shown
        return NnenvError("model-unreachable", f"{shown} cannot be had", where=shown, because=because, fix=[fix])


def is_loopback(host: str) -> bool:
    """True of a host, with a port or without, that is this machine by its name alone."""
    return re.fullmatch(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", host) is not None


def _challenges(text: str) -> list[tuple[str, dict[str, str]]]:
    """(scheme in lower case, parameters) of each challenge."""
    found: list[tuple[str, dict[str, str]]] = []
    for match in _PARAMETER.finditer(text[:8192]):
        scheme, name, quoted, plain = match.groups()
        if scheme:
            found.append((scheme.lower(), {}))
        if found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
    return found


def _configured(registry: str, environment: Mapping[str, str], home: Path) -> str:
    """The Authorization header that Docker's configuration has for a registry; empty if none can be read."""
    path = Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    try:
        with path.open("rb") as stream:
            config = json.loads(stream.read(_CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return ""
    auths = config.get("auths") if isinstance(config, dict) else None
    if not isinstance(auths, dict):
        return ""
    keys = [_DEFAULT_KEY] if registry in _DEFAULT_HOSTS else []
    keys += [registry, *(key for key in auths if re.sub(r"^https?://", "", key).partition("/")[0] == registry)]
    entry: Any = next((auths[key] for key in keys if isinstance(auths.get(key), dict) and auths[key]), {})
    try:
        user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (KeyError, TypeError, ValueError):
        user, colon, password = "", "", ""
    if not colon and isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        user, colon, password = entry["username"], ":", entry["password"]
    return basic_authorization(user, password.rstrip("\0")) if colon and user else ""
