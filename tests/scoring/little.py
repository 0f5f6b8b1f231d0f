"""Little clusters as text, for tables of cases.

    pool('''
    a: 1000 1000 470 | 32 cores, 64 GiB, T4
    b: 1000          | 8 cores, 16 GiB
    c:               | 64 cores, 128 GiB
    ''')

One node a line: a name, the milli-GPU left on each device, then cores, memory and the GPU model,
named after what is free. Models get codes in the order they appear.
"""

import numpy as np

from madang.core.scoring import Place, Pool, Shape, Unplaced


def pool(text: str) -> tuple[Pool, list[str]]:
    """The pool, and the names of its rows."""
    lines = [line.strip() for line in text.strip().splitlines()]
    names, free, rest = [], [], []
    for line in lines:
        name, _, body = line.partition(":")
        gpus, _, sizes = body.partition("|")
        names.append(name)
        free.append([int(milli) for milli in gpus.split()])
        rest.append([part.split()[0] for part in sizes.split(",")])
    width = max(1, *(len(gpus) for gpus in free))
    codes: dict[str, int] = {}
    cpu = np.array([int(sizes[0]) * 1000 for sizes in rest], dtype=np.int64)
    memory = np.array([int(sizes[1]) * 1024 for sizes in rest], dtype=np.int64)
    model = [codes.setdefault(sizes[2], len(codes)) if len(sizes) > 2 else -1 for sizes in rest]
    made = Pool(
        gpu_free=np.array([gpus + [0] * (width - len(gpus)) for gpus in free], dtype=np.int32),
        gpu_count=np.array([len(gpus) for gpus in free], dtype=np.int32),
        cpu_free=cpu,
        cpu_total=cpu.copy(),
        memory_free=memory,
        memory_total=memory.copy(),
        model=np.array(model, dtype=np.int16),
        open=np.ones(len(names), dtype=np.bool_),
    )
    return made, names


def shape(text: str) -> Shape:
    """'2x1000 8c 16g' or '1x470 4c 8g m0|m1' or '4c 8g' for CPU only; m0 is model code 0."""
    gpus, milli, cpu, memory = 0, 0, 0, 0
    models = None
    for word in text.split():
        if "x" in word:
            gpus, milli = (int(part) for part in word.split("x"))
        elif word.startswith("m"):
            models = frozenset(int(part[1:]) for part in word.split("|"))
        elif word.endswith("c"):
            cpu = int(word[:-1]) * 1000
        else:
            memory = int(word[:-1]) * 1024
    return Shape(gpus, milli, cpu, memory, models)


def told(names: list[str], place: Place | Unplaced) -> str:
    """'a 0,1', or 'no: gpu' with the reason."""
    if isinstance(place, Unplaced):
        return f"no: {place.reason}"
    return f"{names[place.row]} {','.join(str(device) for device in place.devices)}".strip()
