"""The native engine in Python: runs GGUF files without PyTorch, to generate and score text.

from itera_lite.engine import Model

model = Model.load("model-q8_0.gguf")
print(model.generate("Once upon a time").text)
"""

from itera_lite.engine.complete import Completer
from itera_lite.engine.model import Model, State
from itera_lite.engine.results import Completion, Generation, TextScore, TextStream, TokenScore

__all__ = [
    "Completer",
    "Completion",
    "Generation",
    "Model",
    "State",
    "TextScore",
    "TextStream",
    "TokenScore",
]
