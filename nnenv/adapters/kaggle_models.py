"""Where Kaggle's models are: the archive of a version, by the public Models API.

Environment: NNENV_KAGGLE_URL, the host if it is another; KAGGLE_USERNAME and KAGGLE_KEY, which that host alone is
shown, over TLS or this machine's loopback, and which are stored nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nnenv.adapters.http import Http, basic_authorization, host_of
from nnenv.adapters.oci_registry import is_loopback
from nnenv.spec.model_source import KaggleSource

_DEFAULT: Final = "https://www.kaggle.com"


def download_address(source: KaggleSource, http: Http, environment: Mapping[str, str]) -> str:
    """The address of the version's archive (a tar, compressed by gzip); `http` knows the credentials afterwards.

    Source: kagglehub 0.3, `models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/download`; it redirects to a signed address.
    """
    base = (environment.get("NNENV_KAGGLE_URL") or _DEFAULT).rstrip("/")
    user, key = environment.get("KAGGLE_USERNAME", ""), environment.get("KAGGLE_KEY", "")
    if user and key and (base.startswith("https://") or is_loopback(host_of(base))):
        http.credentials[host_of(base)] = basic_authorization(user, key)
    return f"{base}/api/v1/models/{source.model}/{source.version}/download"
