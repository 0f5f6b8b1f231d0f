"""Cells promised whole: HiveD's guarantee (Zhao et al., OSDI 2020) for reserved work.

`forest` the trees that there are, `book` who holds what of them, `promises` what operators may
promise, `room` what firm work of others may take, `claims` what a tenant's own work gets.
"""
