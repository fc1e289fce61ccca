"""A small dataset drawn by the program itself, so that the whole chain can be tried without downloading anything."""
