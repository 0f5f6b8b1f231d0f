"""Run by test_buffer.py as a process that is killed: appends frames and says which are safe."""

import sys
from pathlib import Path

from madang.agent.buffer import DiskBuffer


def main() -> None:
    """argv: folder, bytes_max. Writes a number and a line break after each append."""
    buffer = DiskBuffer(Path(sys.argv[1]), int(sys.argv[2]))
    for number in range(1_000_000):
        frame = b"%08d" % number * 50
        buffer.make_room(len(frame))
        buffer.append(frame)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
