"""`madang pull`: the code a job was submitted with, back into an empty directory.

The snapshot is verified by its digest and unpacked as hostile: nothing lands outside the directory.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.client.errors import MadangError

UNPACKED_BYTES_MAX = 2 << 30


def pull_verb(given: Given, desk: Desk) -> int:
    """Get a job's code back."""
    job = desk.job(given.text("job"))
    if not job["code"]:
        raise UsageError(
            f"{job['id']} was submitted without code", code="no_code", given=given.text("job")
        )
    target = given.text("dir") or job["id"]
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise UsageError(
            f"{target} is there already and not empty",
            code="usage",
            given=target,
            tries=[f"madang pull {job['id']} ANOTHER_DIR"],
        )
    packed = desk.client.code(job["code"])
    if hashlib.sha256(packed).hexdigest() != job["code"]:
        raise MadangError("what came is not what was submitted: its digest differs", code="digest")
    count = unpack(packed, target)
    desk.answer(
        {"job": job["id"], "code": job["code"], "dir": os.path.abspath(target), "entries": count},
        f"{target}: {count} files and directories",
    )
    return 0


def unpack(packed: bytes, target: str) -> int:
    """Unpack a .tar.zst; returns the number of its entries.

    Raises:
        MadangError: it is malformed, too large, or would write outside `target`.
    """
    import zstandard

    os.makedirs(target, exist_ok=True)
    count = size = 0
    try:
        stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed))
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                size += member.size
                if size > UNPACKED_BYTES_MAX:
                    raise MadangError("the snapshot unpacks to more than 2 GiB", code="too_large")
                tar.extract(member, target, filter="data")
                count += 1
    except (tarfile.TarError, zstandard.ZstdError, OSError) as error:
        raise MadangError(f"the snapshot cannot be unpacked: {error}", code="bad_code") from error
    return count
