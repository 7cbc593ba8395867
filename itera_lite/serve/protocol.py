"""What clients send and get: OpenAI's requests and answers, and those of our own routes.

Each is a struct, so that decoding, checking, encoding and the document at ``/openapi.json`` come
from one place. A field that isn't known is refused by its name, unless it is null: clients write
nulls for what they leave out. `RequestError` is every refusal, in OpenAI's shape.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MOST_CHOICES = 256  # texts that a request may ask for: prompts times ``n``
MOST_TOP = 20  # tokens beside the chosen one whose log-probabilities a request may ask for
MOST_STOPS = 16
MOST_BITS = 1023  # of an integer that surely is a float too
DEFAULT_TOKENS = 16  # OpenAI's default for completions
DEFAULT_CHAT_TOKENS = 512

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_FIELD = re.compile(r"(?:unknown|required) field `(.*?)`")

Text = TypeVar("Text", bound=Struct)


class RequestError(Exception):
    """A request that is refused.

    Args:
        message: what was given, what is expected; never the client's text.
        status: of the HTTP response.
        param: the field, as ``messages[0].role``; None where it isn't about one.
        code: OpenAI's word for the reason, such as ``context_length_exceeded``.
        headers: of the response, such as Retry-After.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = headers or {}

    def body(self) -> bytes:
        """The response's body."""
        return msgspec.json.encode(self.as_answer())

    def as_answer(self) -> ErrorAnswer:
        """The error as OpenAI writes it."""
        kind = ERROR_TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        return ErrorAnswer(error=ErrorBody(str(self), kind, self.param, self.code))


ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorBody(Struct):
    """What went wrong; ``param`` is the field that it is about."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(Struct):
    """The body of every answer whose status isn't 200."""

    error: ErrorBody


# --- Requests ------------------------------------------------------------------------------------

Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Id = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=0, lt=2**31)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]
Bias = dict[Annotated[str, Meta(pattern="^[0-9]{1,9}$")], Annotated[float, Meta(ge=-100, le=100)]]
Stop = Annotated[str, Meta(min_length=1)]
Prompt = Annotated[
    str | list[str | Id | list[Id]],
    Meta(
        description="A text, a list of texts, token ids, or a list of lists of token ids.",
        extra_json_schema={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 0},
                        "minItems": 1,
                    },
                },
            ]
        },
    ),
]


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a stream."""

    include_usage: bool | None = None


class Generating(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of completions and of chats alike.

    Attributes:
        model: the id that ``/v1/models`` lists; may be left out.
        n: texts a prompt.
        temperature, top_p, top_k, min_p, repetition_penalty: by default what the model's file
            advises; the last three are no fields of OpenAI's.
        seed: text i of a prompt is sampled with ``seed + i``.
        user: accepted, and not used.
    """

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MOST_STOPS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    user: str | None = None

    def options(self) -> dict[str, Any]:
        """The options of `Model.start` that are the same for each text of the request."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        top_p = self.top_p if self.top_p is None else max(self.top_p, 1e-6)  # 0: the first alone
        return {
            "temperature": self.temperature,
            "top_p": top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": {int(name): bias for name, bias in (self.logit_bias or {}).items()},
            "stop": tuple(stops or ()),
        }

    def seed_of(self, index: int) -> int | None:
        """The seed of text ``index`` of a prompt; None: a new one."""
        return None if self.seed is None else (self.seed + index) % 2**63

    def check_stream_options(self) -> None:
        """Refuse options of a stream where there is no stream."""
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "stream_options is only for a stream: set stream to true, or leave it out",
                param="stream_options",
            )

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Generating, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/completions.

    Attributes:
        max_tokens: by default 16; 0 only with ``echo`` is of use, to score the prompt.
        logprobs: how many of the likeliest tokens are listed beside each token.
        echo: whether the prompt stands in front of the text, with its own log-probabilities.
    """

    prompt: Prompt
    max_tokens: Count | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST_TOP)] | None = None
    echo: bool | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if not given:
            raise RequestError("prompt is an empty list: expected one prompt", param="prompt")
        kinds = {type(one) for one in given}
        if len(kinds) > 1:
            raise RequestError(
                "prompt mixes texts, ids and lists of ids: expected a list of one kind",
                param="prompt",
            )
        if kinds == {int}:
            return [given]  # type: ignore[list-item]
        for place, one in enumerate(given):
            if isinstance(one, list) and not one:
                raise RequestError(
                    f"prompt[{place}] is an empty list: expected token ids", param="prompt"
                )
        return given  # type: ignore[return-value]


class TextPart(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a message: text alone is supported."""

    type: Literal["text"]
    text: str


class Message(Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(Generating, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions. The texts of the messages are joined by line breaks, and the
    model goes on from there: a base model wasn't trained on roles."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_TOP)] | None = None

    def prompt(self) -> str:
        """The text that the model goes on from."""
        return CHAT_SEPARATOR.join(message.text for message in self.messages)

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are listed; None: no log-probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError(
                "top_logprobs is only for log-probabilities: set logprobs to true, or leave it out",
                param="top_logprobs",
            )
        return (self.top_logprobs or 0) if self.logprobs else None


CHAT_SEPARATOR = "\n"
CHAT_TEMPLATE = (  # the same in Jinja, for clients that apply it themselves
    "{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)


class TokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /tokenize; ``add_special_tokens``: put the token that begins a document in front."""

    prompt: str
    add_special_tokens: bool | None = None
    model: str | None = None


class DetokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /detokenize."""

    tokens: list[Id]
    model: str | None = None


class ScoreRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /score."""

    text: str | Annotated[list[str], Meta(min_length=1, max_length=MOST_CHOICES)]
    model: str | None = None


class CompleteRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /complete: the ``k`` likeliest words, or with ``lines`` the rests of the line."""

    prefix: str
    k: Annotated[int, Meta(ge=1, le=50)] | None = None
    lines: bool | None = None
    model: str | None = None


def decode(body: bytes, kind: type[Text]) -> Text:
    """The request in a body.

    Raises:
        RequestError: it isn't JSON, a field is missing, unknown, or of a wrong type or range; the
            message names the field and holds nothing of the body.
    """
    try:
        plain = _without_nulls(msgspec.json.decode(body))
        if isinstance(plain, dict):
            known = _fields(kind)
            for name in plain:
                if name not in known:
                    raise RequestError(
                        f"the field '{printable(name)}' isn't supported: leave it out. Supported "
                        f"are {', '.join(sorted(known))}",
                        param=printable(name),
                        code="unsupported_parameter",
                    )
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError("the body isn't JSON: expected an object in UTF-8") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None


def _without_nulls(value: Any, *, names_are_fields: bool = True) -> Any:
    """The value without the fields that are null, in the objects inside it too.

    The names in a `logit_bias` are tokens, so a null there stays, and is refused. An integer that
    no float holds becomes infinite, which every field refuses by its name: `msgspec.convert` would
    leave an error behind without raising it.
    """
    if isinstance(value, dict):
        return {
            name: _without_nulls(each, names_are_fields=name != "logit_bias")
            for name, each in value.items()
            if each is not None or not names_are_fields
        }
    if isinstance(value, list):  # mostly of ids, which nothing is changed of
        return [_without_nulls(each) if isinstance(each, (dict, list)) else each for each in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return math.inf if value > 0 else -math.inf
    return value


@cache
def _fields(kind: type[Struct]) -> frozenset[str]:
    """The names of a request's fields."""
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


def printable(name: str) -> str:
    """A field's name for a message: cut, and without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name[:64])


def _invalid(message: str) -> RequestError:
    """The refusal for a message of msgspec's, such as "Expected `int`, got `str` - at `$.n`"."""
    place = _PATH.search(message)
    path = place[1] if place else ""
    reason = message.removesuffix(place[0]) if place else message
    if "enum value" in reason:  # msgspec quotes what was given
        reason = "a value that isn't supported"
    if field := _FIELD.search(reason):
        path = f"{path}.{field[1]}" if path else field[1]
    path = printable(re.sub(r"\[\.\.\.\]", "", path))
    reason = reason.replace("`", "'")
    return RequestError(f"{path}: {reason}" if path else reason, param=path or None)


# --- Answers -------------------------------------------------------------------------------------

FinishReason = Literal["stop", "length"]


class Usage(Struct):
    """Numbers of tokens: of all prompts together, of all texts, and their sum."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt: int, completion: int) -> Usage:
        return cls(prompt, completion, prompt + completion)


class LogProbs(Struct):
    """Log-probabilities of a completion's tokens, in nats; an entry a token in each list.

    Attributes:
        tokens: their texts; one that is no whole text is written as ``bytes:\\xe2\\x80``.
        token_logprobs: None for a first token, which nothing predicts.
        top_logprobs: text -> log-probability of the likeliest tokens and of the one that stands
            there; of two tokens with the same text the likelier.
        text_offset: where each begins in the text, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(Struct):
    """A text; ``finish_reason`` is null in all but the last part of a stream."""

    index: int
    text: str
    logprobs: LogProbs | None
    finish_reason: FinishReason | None


class Completion(Struct):
    """Answer of /v1/completions; in a stream, each part of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType | None = UNSET


class TopToken(Struct):
    """A token with its log-probability and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TopToken):
    """A token of a chat's answer, and the likeliest ones in its place."""

    top_logprobs: list[TopToken]


class ChatLogProbs(Struct):
    """Log-probabilities of a chat's answer, in nats."""

    content: list[ChatToken]


class ChatMessage(Struct):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str


class ChatDelta(Struct):
    """What a part of a stream adds; the role stands in the first one."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChoice(Struct):
    """A text of a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason | None


class ChatPart(Struct):
    """A part of a text of a chat."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason | None


class Chat(Struct):
    """Answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(Struct):
    """A part of a stream of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatPart]
    usage: Usage | UnsetType | None = UNSET


class ModelCard(Struct):
    """The model that is served; ``max_model_len``: tokens that a text may have."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(Struct):
    """Answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(Struct):
    """Answer of /tokenize."""

    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(Struct):
    """Answer of /detokenize."""

    prompt: str


class TokenizerInfo(Struct):
    """Answer of /tokenizer_info, for clients that tokenize through this server.

    A text that begins with ``bos_token`` or ``eos_token`` begins with that token; elsewhere in a
    text they are read as the characters that they are.
    """

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    eos_token: str
    eos_token_id: int
    bos_token: str | None
    bos_token_id: int | None
    pad_token: str | None
    chat_template: str


class TokenSurprise(Struct):
    """A token of a scored text; ``bits`` is None where nothing predicts it."""

    id: int
    token: str
    bits: float | None


class Scored(Struct):
    """The score of a text, as `itera score` gives it.

    Attributes:
        bytes, tokens: of the text; the end of the text counts as a token.
        nats: minus the natural log-probability of the whole.
        bits_per_byte: None for an empty text.
        surprises: each token with its surprise in bits, the end of the text last.
    """

    bytes: int
    tokens: int
    nats: float
    bits_per_byte: float | None
    surprises: list[TokenSurprise]


class ScoreAnswer(Struct):
    """Answer of /score: a score a text."""

    model: str
    scores: list[Scored]


class Candidate(Struct):
    """A way to go on: the text to put behind the prefix, and its probability."""

    text: str
    probability: float


class CompleteAnswer(Struct):
    """Answer of /complete, the likeliest first."""

    model: str
    candidates: list[Candidate]


class Health(Struct):
    """Answer of /healthz."""

    status: Literal["ok", "stopping"]
    model: str
    active: int
    waiting: int
