"""Where the user's machine gets wheels from: nnenv's own variables, else pip's configuration, else pip's default.

No index is named here: the default is whatever the pip installed on this machine calls its default.
Files and precedence: pip documentation, "Configuration": global, user, site, then PIP_CONFIG_FILE, then environment.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnenv.errors import NnenvError


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfiguration:
    """Sources of wheels, in the order in which they are asked."""

    indexes: tuple[str, ...]
    """Simple-index URLs: the main one, then the extra ones."""
    find_links: tuple[str, ...]
    """Folders, `file:` URLs or pages of links."""


def index_configuration(environment: Mapping[str, str], *, home: Path) -> IndexConfiguration:
    """The sources that NNENV_*, PIP_* and pip's configuration files name on this machine.

    Raises NnenvError `source-unconfigured` when there is neither a configured index nor a pip to ask for its default.
    """
    settings = _file_settings(environment, home)
    for name in ("index-url", "extra-index-url", "find-links", "no-index"):
        variable = name.upper().replace("-", "_")
        for prefix in ("PIP_", "NNENV_"):
            if prefix + variable in environment:
                settings[name] = environment[prefix + variable]
    find_links = tuple(settings.get("find-links", "").split())
    if settings.get("no-index", "").strip().lower() in {"1", "true", "yes", "on"}:
        return IndexConfiguration(indexes=(), find_links=find_links)
    main = settings.get("index-url", "").strip() or _default_index()
    extras = settings.get("extra-index-url", "").split()
    if not main and not extras and not find_links:
        raise NnenvError(
            "source-unconfigured",
            "no Python package index is configured",
            because=["neither NNENV_INDEX_URL nor pip's configuration names one, and no pip was found here"],
            fix=["set NNENV_INDEX_URL, or index-url in pip.conf"],
        )
    indexes = dict.fromkeys(url.rstrip("/") for url in (main, *extras) if url)
    return IndexConfiguration(indexes=tuple(indexes), find_links=find_links)


def _file_settings(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    general: dict[str, str] = {}
    special: dict[str, str] = {}
    for path in _config_files(environment, home):
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text("utf-8"), source=str(path))
        except (OSError, UnicodeDecodeError):
            continue
        except configparser.Error as error:
            raise NnenvError(
                "source-unconfigured",
                "pip's configuration file cannot be read",
                where=str(path),
                because=[str(error).replace("\n", " ")],
                fix=["repair the file, or set NNENV_INDEX_URL and PIP_CONFIG_FILE=/dev/null"],
            ) from None
        for section, settings in (("global", general), ("install", special)):
            if parser.has_section(section):
                # pip takes `index_url` for `index-url`.
                settings.update((key.replace("_", "-"), value) for key, value in parser.items(section))
    # What is set for `pip install` wins over what is set for every command, whichever file is read last.
    return {**general, **special}


def _config_files(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    chosen = environment.get("PIP_CONFIG_FILE", "")
    if chosen == "/dev/null":
        return
    for folder in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    if not (chosen and Path(chosen).exists()):
        # pip: a file that PIP_CONFIG_FILE names stands instead of the user's own.
        yield home / ".pip" / "pip.conf"
        yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(environment.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def _default_index() -> str:
    """The default of the pip at hand: installed beside us, or the one that `ensurepip` carries; "" without any."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return _bundled_default()
    return str(PyPI.simple_url)


def _bundled_default() -> str:
    folders = [Path(sys.base_prefix) / "share" / "python-wheels", Path("/usr/share/python-wheels")]
    try:
        import ensurepip

        folders.insert(0, Path(ensurepip.__file__).parent / "_bundled")
    except ImportError:
        pass
    for wheel in sorted(wheel for folder in folders for wheel in folder.glob("pip-*.whl")):
        sys.path.insert(0, str(wheel))
        try:
            from pip._internal.models.index import PyPI

            return str(PyPI.simple_url)
        except ImportError:
            continue
        finally:
            sys.path.remove(str(wheel))
    return ""
