"""Every refusal nnenv can utter: a stable code, what, where, because, fix.

Inner code raises with data; `cli.render` makes sentences of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CODES: Final[dict[str, str]] = {
    "adaptation-drift": "A step of adaptation moves a model's outputs further than it may.",
    "adaptation-failed": "A step of adaptation made no model that can be used.",
    "archive-refused": "A .deb, or an archive that holds a model, breaks a rule of the strict gate.",
    "case-invalid": "An inference test case cannot be read or does not fit its model.",
    "changed-meanwhile": "A file changed on disk between nnenv's reading and writing it.",
    "clock-or-release": "A Debian Release file is expired, older than the locked one, or for another suite.",
    "command-not-started": "A command could not be started inside an image.",
    "compute-capability-uncovered": "A library has no code for a GPU that the target names.",
    "cuda-major-conflict": "Two packages of a target need different CUDA majors.",
    "cuda-on-cpu-target": "A target without an accelerator would contain a part of CUDA.",
    "cuda-outside-range": "A package is of another CUDA than the target asks for.",
    "cuda-unknown": "nnenv knows no CUDA release in the range that the target asks for.",
    "cudnn-outside-range": "A package is of another cuDNN than the target asks for.",
    "debian-index-invalid": "An index of a Debian archive, or a Debian version or relation, breaks its format.",
    "debian-unsatisfiable": "No set of Debian packages meets the dependencies of the target.",
    "derivation-differs": "A file that adaptation made cannot be had again as it is locked.",
    "digest-mismatch": "Bytes do not have the sha256 or size that was locked.",
    "disk-full": "The disk refused a write.",
    "driver-too-old": "The driver that the hosts are promised to have does not run what the target needs.",
    "emulator-missing": "A foreign-architecture image needs qemu-user to run here.",
    "engine-unavailable": "No Docker engine answered.",
    "evaluation-invalid": "The data of a measure does not fit the model or the metric.",
    "file-unreadable": "A named file is missing, too large, not a regular file, or may not be read.",
    "git-unavailable": "There is no git, or no repository that it can read.",
    "glibc-too-new": "A library needs a newer glibc than the target's operating system has.",
    "image-mismatch": "The built image differs from the one the lock expects.",
    "index-unreachable": "A package index or archive did not answer.",
    "internal": "A bug in nnenv.",
    "interrupted": "The user interrupted the command.",
    "layer-collision": "Two artifacts own one path with different bytes.",
    "libstdcxx-too-new": "A library needs a newer libstdc++ than the target's operating system has.",
    "lock-edited": "model.lock is not what nnenv wrote: edited, merged or torn.",
    "lock-missing": "There is no model.lock.",
    "lock-stale": "model.lock does not match model.toml any more.",
    "lock-version": "model.lock was written by a newer nnenv.",
    "maintainer-script": "A .deb's maintainer script does something that no rule of nnenv reproduces.",
    "manifest-exists": "There is a model.toml already, and nothing is overwritten.",
    "manifest-invalid": "model.toml breaks a rule.",
    "manifest-missing": "There is no model.toml.",
    "metadata-mismatch": "A wheel's metadata differs from what was locked.",
    "model-invalid": "A model file cannot be read or uses a forbidden construct.",
    "model-pickle": "A model file is or holds a pickle, and loading it would run code.",
    "model-unreachable": "A model file cannot be had from any of its places.",
    "name-unknown": "A name is asked for that model.lock does not hold.",
    "offline": "The command needs something that is not in the store, and --offline forbids fetching.",
    "opset-unsupported": "A model is of a newer format or operator set than the locked runtime loads.",
    "path-escapes": "A path leaves the project directory.",
    "path-refused": "A path or link that no image layer can hold.",
    "python-unsatisfiable": "No set of wheels meets the requirements of the target.",
    "quantisation-saturates": "A quantised model would overflow on some of the target's processors.",
    "repair-impossible": "model.toml says it in a way that --apply-fix cannot edit.",
    "revision-unknown": "A git revision does not exist, or holds no model.lock.",
    "sandbox-unavailable": "This host offers no way to isolate a process.",
    "signature-invalid": "A Debian Release file is not signed by the distribution's key.",
    "soname-missing": "A shared library that a wheel needs is provided by nothing in the target.",
    "source-unconfigured": "No index or archive is configured where one is needed.",
    "store-corrupt": "A store entry does not hash to its name.",
    "store-missing": "An entry that should be in the store is not there.",
    "store-unusable": "The store's place offers no kernel locks, has no path, or was laid out by a newer nnenv.",
    "target-unknown": "A target is named that model.toml does not define.",
    "usage": "The command line is wrong.",
    "variant-collision": "A target asks for two distributions that bring one module.",
    "verification-failed": "The image did not pass verification.",
    "wheel-refused": "A wheel's zip structure or RECORD breaks a rule of the strict gate.",
}
"""Code -> meaning; `docs/errors.md` lists the same codes (a test compares)."""


class Repair:
    """A change of model.toml that was tried, and helps; `nnenv lock --apply-fix` makes it.

    `what` is for people, with what it leads to; `key` the path of the key to change. `old` is the element of that array
    which is replaced, empty where the key holds no array of requirements; `new` the element in its place, or the key's
    value as TOML, empty to remove the key. `more` are further (old, new) of that array.
    A plain class: a confirmed lock is not to pay for importing dataclasses.
    """

    __slots__ = ("key", "more", "new", "old", "what")

    def __init__(
        self,
        *,
        what: str,
        key: tuple[str, ...],
        old: str = "",
        new: str = "",
        more: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.what = what
        self.key = key
        self.old = old
        self.new = new
        self.more = more


class NnenvError(Exception):
    """A refusal with everything a person or a program needs.

    `code` is a key of `CODES`; `what` one sentence; `where` a file:line, key path, package or target;
    `because` the evidence, one line each; `fix` what the user can do, one line each; `repairs` what nnenv can do.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str | None = None,
        because: Sequence[str] = (),
        fix: Sequence[str] = (),
        repairs: Sequence[Repair] = (),
        exit_code: int = 1,
    ) -> None:
        assert code in CODES, code
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.because = tuple(because)
        self.repairs = tuple(repairs)
        self.fix = (*(f"{one.what}  (--apply-fix {n})" for n, one in enumerate(self.repairs, 1)), *fix)
        self.exit_code = exit_code

    def as_json(self) -> dict[str, object]:
        """The error as plain values, as `--json` prints it."""
        return {
            "code": self.code,
            "message": self.what,
            "where": self.where,
            "because": list(self.because),
            "fix": list(self.fix),
            **({"repairs": [_repair_json(one) for one in self.repairs]} if self.repairs else {}),
        }


def _repair_json(repair: Repair) -> dict[str, object]:
    plain = {"what": repair.what, "key": list(repair.key), "old": repair.old, "new": repair.new}
    return {**plain, **({"more": [{"old": old, "new": new} for old, new in repair.more]} if repair.more else {})}


class SeveralErrors(NnenvError):
    """Mistakes found in one pass, reported together; `errors` holds at least one."""

    def __init__(self, errors: Sequence[NnenvError]) -> None:
        first = errors[0]
        super().__init__(
            first.code, first.what, where=first.where, because=first.because, fix=first.fix, exit_code=first.exit_code
        )
        self.errors = tuple(errors)
