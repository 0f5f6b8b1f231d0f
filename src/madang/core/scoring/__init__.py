"""Placement policies: which node, and which GPUs on it, one member of a job gets.

A family: `_base` says what a policy sees and promises, one small file holds each policy, and
`Board` applies one to a pool with scores kept between decisions. Integers only; equal inputs give
equal placements on every machine, with numba or without.
"""

from madang.core.scoring._accelerate import HAVE_NUMBA, compiles, defer
from madang.core.scoring._base import (
    ANY_MODEL,
    MODELS_MAX,
    NEVER,
    WHOLE_MILLI,
    Place,
    Policy,
    Pool,
    Shape,
    Unplaced,
    why_unplaced,
)
from madang.core.scoring._board import Board
from madang.core.scoring.best_fit import BestFit
from madang.core.scoring.dot_product import DotProduct
from madang.core.scoring.fgd import Fgd, fgd_of
from madang.core.scoring.fragmentation import Typical, fragmentation, typical_of
from madang.core.scoring.fullest import Fullest
from madang.core.scoring.madang import Madang
from madang.core.scoring.most_allocated import MostAllocated
from madang.core.scoring.packing import Packing
from madang.core.scoring.random import Random

POLICIES = ("random", "best-fit", "dot-product", "most-allocated", "packing", "fgd", "madang")
DEFAULT_POLICY = "madang"

__all__ = [
    "ANY_MODEL",
    "DEFAULT_POLICY",
    "HAVE_NUMBA",
    "MODELS_MAX",
    "NEVER",
    "POLICIES",
    "WHOLE_MILLI",
    "BestFit",
    "Board",
    "DotProduct",
    "Fgd",
    "Fullest",
    "Madang",
    "MostAllocated",
    "Packing",
    "Place",
    "Policy",
    "Pool",
    "Random",
    "Shape",
    "Typical",
    "Unplaced",
    "compiles",
    "defer",
    "fgd_of",
    "fragmentation",
    "typical_of",
    "why_unplaced",
]
