"""Priority classes: provisioning × category × purpose as one integer, higher first.

Provisioning decides first, then category, then purpose: the three axes never trade places.
"""

from madang.core.model import Category, Provisioning, Purpose

_PROVISIONING = {Provisioning.RESERVED: 2, Provisioning.ON_DEMAND: 1, Provisioning.SPOT: 0}
_CATEGORY = {Category.SERVING: 3, Category.INTERACTIVE: 2, Category.TRAINING: 1, Category.DATA: 0}
_PURPOSE = {Purpose.SERVICE: 3, Purpose.QA: 2, Purpose.PRODUCE: 1, Purpose.TEST: 0}


def class_priority(provisioning: Provisioning, category: Category, purpose: Purpose) -> int:
    """An integer in [0, 48)."""
    return _PROVISIONING[provisioning] * 16 + _CATEGORY[category] * 4 + _PURPOSE[purpose]
