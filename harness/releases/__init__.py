"""Old and new releases: an environment for each, every loader state tried in it, and where good begins.

``build`` makes an environment of a lock and stands alone; ``catalogue`` says which releases there are and
what is expected of them; ``job`` tries them, and ``render`` shows the matrix.
"""

from harness.releases.cache import default_folder
from harness.releases.catalogue import LOADERS, Catalogue, Release, load_catalogue
from harness.releases.job import run_releases
from harness.releases.matrix import Cell, Matrix
from harness.releases.options import ReleasesOptions
from harness.releases.render import MATRIX_FILES, print_matrix, write_matrix

__all__ = [
    "LOADERS",
    "MATRIX_FILES",
    "Catalogue",
    "Cell",
    "Matrix",
    "Release",
    "ReleasesOptions",
    "default_folder",
    "load_catalogue",
    "print_matrix",
    "run_releases",
    "write_matrix",
]
