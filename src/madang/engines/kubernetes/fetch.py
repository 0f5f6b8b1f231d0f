"""What the init container of our pods runs: code snapshot, SDK, and a place for checkpoints.

Run as `python -m madang.engines.kubernetes.fetch` in Madang's own image. Environment: MADANG_TOP,
the directory to fill; MADANG_CODE, the snapshot's digest, with MADANG_URL and MADANG_CODE_TOKEN to
fetch it; MADANG_STORE, a directory to make. Promises: what arrives is verified against its digest
before anything of it is unpacked; a daemon that restarts meanwhile is waited for; the exit status
is 0 or 1, and one line on standard error says why. The token is never printed.
"""

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from madang.engines.code_store import SNAPSHOT_BYTES_MAX, CodeError
from madang.engines.local.prepare import sdk_files
from madang.engines.local.unpack import unpack

PIECE_BYTES = 1 << 20
TRY_S = 180.0  # a leader changes in seconds; a rollout may take minutes
PAUSE_S = (0.5, 10.0)
CALL_S = 60.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(Exception):
    """A line for people."""


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Do it all; the exit status."""
    try:
        bring(environ)
    except (FetchError, CodeError, OSError) as failure:
        print(f"madang: cannot prepare this member: {failure}", file=sys.stderr)
        return 1
    return 0


def bring(environ: Mapping[str, str], sleep: Callable[[float], None] = time.sleep) -> None:
    """Fill the directory.

    Raises:
        FetchError, CodeError, OSError: with what went wrong.
    """
    top = Path(environ["MADANG_TOP"])
    if store := environ.get("MADANG_STORE"):
        Path(store).mkdir(parents=True, exist_ok=True)
    (top / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name, text in sdk_files().items():
        path = top / "sdk" / "madang" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    digest = environ.get("MADANG_CODE", "")
    if not digest:
        (top / "code").mkdir(exist_ok=True)
        return
    packed = top / "code.tar.zst"
    url = f"{environ['MADANG_URL'].rstrip('/')}/v1/code/{digest}"
    _download(url, environ.get("MADANG_CODE_TOKEN", ""), digest, packed, sleep)
    unpack(packed, top / "code")
    packed.unlink()


def _download(
    url: str, token: str, digest: str, target: Path, sleep: Callable[[float], None]
) -> None:
    """Try until it is here, verified, or it is clear that it will not come."""
    until_s = time.monotonic() + TRY_S
    pause_s, most_s = PAUSE_S
    while True:
        try:
            _once(url, token, digest, target)
            return
        except urllib.error.HTTPError as failure:
            if failure.code not in _PASSING:
                raise FetchError(_refusal(failure.code, digest)) from None
            why = f"the daemon answers {failure.code}"
        except (OSError, http.client.HTTPException) as failure:
            why = f"the daemon does not answer ({failure})"
        if time.monotonic() + pause_s > until_s:
            raise FetchError(f"{why} at {url} for {TRY_S:.0f} s")
        sleep(pause_s)
        pause_s = min(2 * pause_s, most_s)


def _refusal(status: int, digest: str) -> str:
    match status:
        case 401 | 403:
            return f"the token for the code snapshot {digest} is not valid any more ({status})"
        case 404:
            return f"the code snapshot {digest} is not there any more; submit the job again"
        case _:
            return f"the daemon answers {status} when asked for the code snapshot {digest}"


def _once(url: str, token: str, digest: str, target: Path) -> None:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    found, count = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(request, timeout=CALL_S) as answer,
        target.open("wb") as file,
    ):
        while piece := answer.read(PIECE_BYTES):
            count += len(piece)
            if count > SNAPSHOT_BYTES_MAX:
                raise FetchError(f"the code snapshot has more than {SNAPSHOT_BYTES_MAX} bytes")
            found.update(piece)
            file.write(piece)
    if found.hexdigest() != digest:
        raise OSError(f"what came has the digest {found.hexdigest()[:12]}…, not {digest[:12]}…")


if __name__ == "__main__":
    sys.exit(main())
