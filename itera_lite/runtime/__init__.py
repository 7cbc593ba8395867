"""The native engine's Python face: a GGUF file in, text and scores out, without PyTorch.

from itera_lite.runtime import Model

model = Model.load("model-q8_0.gguf")
print(model.generate("Once upon a time").text)
"""

from itera_lite.runtime.model import Model, State
from itera_lite.runtime.results import Generation, Score, TextStream

__all__ = ["Generation", "Model", "Score", "State", "TextStream"]
