"""A plugin of pytest that imports the package from the current folder: ``-p tools.mutated``.

`mutmut` runs the tests in a copy of the sources that it changed. The import finder of an editable
installation would load the original files. So the lists of Python files in it are emptied, and it
finds only the compiled modules.
"""

import sys

for finder in sys.meta_path:
    if type(finder).__name__ == "ScikitBuildRedirectingFinder":
        finder.known_source_files = {}  # type: ignore[attr-defined]
        finder.submodule_search_locations = {}  # type: ignore[attr-defined]
