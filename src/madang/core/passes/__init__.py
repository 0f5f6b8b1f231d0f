"""The passes of a plan, one file each. A pass looks at a draft and adds decisions to it."""
