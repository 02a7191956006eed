"""The recipe book: recipes made from one table of published settings and results when they are looked up."""

from zoft.config.book.cells import Cell, book_names, cell_of

__all__ = ["Cell", "book_names", "cell_of"]
