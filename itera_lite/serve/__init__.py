"""The server of `itera serve`: OpenAI's API, and more, in front of the native engine.

A request is read and checked (`protocol`), its texts are decoded together with those of others by
one thread (`scheduler`), and `app` turns what that thread gives into answers. Nothing here imports
PyTorch; Starlette, uvicorn and prometheus-client come with the extra ``serve``.
"""
