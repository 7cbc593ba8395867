"""A plugin of pytest that imports the package from the current folder: ``-p tools.mutated``.

`mutmut` runs the tests in a copy of the sources that it changed. An editable installation names the
original files, so its finder is told to find nothing but what was compiled.
"""

import sys

for finder in sys.meta_path:
    if type(finder).__name__ == "ScikitBuildRedirectingFinder":
        finder.known_source_files = {}  # type: ignore[attr-defined]
        finder.submodule_search_locations = {}  # type: ignore[attr-defined]
