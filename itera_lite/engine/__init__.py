"""The native engine in Python: runs GGUF files without PyTorch, to generate and score text.

from itera_lite.engine import Model

model = Model.load("model-q8_0.gguf")
print(model.generate("Once upon a time").text)
"""

from itera_lite.engine.model import Model, State
from itera_lite.engine.results import Generation, TextScore, TextStream

__all__ = ["Generation", "Model", "State", "TextScore", "TextStream"]
