"""Usage: the journal folded into books, and reports made of the books. Pure, as all of core."""
