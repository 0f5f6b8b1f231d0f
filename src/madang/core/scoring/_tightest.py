"""The fullest GPU that fits: where a sharing request goes under every policy but fgd and random."""

import numpy as np

from madang.core.scoring._base import WHOLE_MILLI, Int16s, Int32s, Int64s

OUT_OF_REACH = np.int32(np.iinfo(np.int32).max)


def tightest(free: Int32s, shape: Int64s) -> Int16s:
    """(R,) the fullest device of each row that fits a sharing shape, lowest index first; else -1.

    `free` is (R, G) milli. Rows where nothing fits hold an arbitrary index: their score is NEVER.
    """
    if int(shape[0]) != 1 or int(shape[1]) == WHOLE_MILLI:
        return np.full(len(free), -1, dtype=np.int16)
    slots: Int16s = np.where(free >= shape[1], free, OUT_OF_REACH).argmin(axis=1).astype(np.int16)
    return slots
