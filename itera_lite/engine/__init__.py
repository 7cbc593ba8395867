"""The native engine's Python face: a GGUF file in, text and scores out, without PyTorch.

from itera_lite.engine import Model

model = Model.load("model-q8_0.gguf")
print(model.generate("Once upon a time").text)
"""

from itera_lite.engine.model import Model, State
from itera_lite.engine.results import Generation, TextScore, TextStream

__all__ = ["Generation", "Model", "State", "TextScore", "TextStream"]
