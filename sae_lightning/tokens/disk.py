"""A full disk or a folder that can't be written, told in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_lightning.core import UserError

_NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the disk or its permissions into a UserError about ``path``; others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        raise UserError(
            f"{error.filename or path}: cannot be written ({error.strerror}) while making {path.name}; free some space "
            "or choose another place, what is finished is kept"
        ) from error
