"""Trains many small models at once on a GPU: the search for a recipe, not a part of the product.

Every run has a learning rate, a decay, a seed and so on of its own; shape, batch and number of
steps are common. Weights carry a first dimension for the run, so that one product does the work of
all. The models are those of `itera_lite.model`, with dense experts (each token passes all of them,
and the gates of those that were not chosen are zero) and bfloat16 products.

    python experiments/search.py PLAN.json DATA OUT.jsonl

PLAN.json is a list of sweeps (`Sweep`); DATA holds token streams, SET_train.npy
and SET_valid.npy, and bytes.json, the bytes of each SET's validation text. What it found is in
search_results.jsonl.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPUTE = torch.bfloat16
COEFFICIENTS = (
    (8.2193, -23.3375, 16.6266),
    (3.9681, -2.8404, 0.5161),
    (3.4599, -2.4914, 0.4779),
    (2.2316, -1.6482, 0.3882),
)
# Of a run, where the plan gives nothing else. ``order``: how windows are cut from the text.
RUN = {
    "seed": 0, "lr_matrix": 0.015, "lr_embedding": 0.02, "lr_other": 0.02, "wd": 0.1,
    "wd_matrix": None, "momentum": 0.95, "beta1": 0.9, "beta2": 0.95, "warmup": 0.02, "decay": 0.6,
    "end": 0.0, "dropout": 0.0, "order": "circle", "balance": 0.01, "clip": 1.0, "cautious": 0.0,
    "normuon": 0.0,
}  # fmt: skip
NUMBERS = [k for k, v in RUN.items() if k not in ("seed", "order", "wd_matrix")] + ["wd_matrix"]
CHUNK = 64


@dataclass
class Sweep:
    """Runs of one shape. ``runs``: what differs from `RUN`; ``seeds``: each run with each."""

    name: str
    shape: dict[str, Any]
    tokens: float
    runs: list[dict[str, Any]]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    batch: int = 16
    length: int = 256
    data: str = "tinystories"
    ema: list[float] = field(default_factory=list)  # half-lives, as shares of the run
    micro: int = 1


SHAPE = {"family": "itera", "pattern": "mmam", "d": 128, "vocab": 2048, "head_dim": 32, "kv": 1,
         "rope": False, "d_ff": 0, "experts": 24, "top_k": 3, "d_expert": 32, "state": 8,
         "ssm_head": 32}  # fmt: skip


# --------------------------------------------------------------------------- data


def order_of(tokens: np.ndarray, mode: str, seed: int, length: int, windows: int) -> np.ndarray:
    """Starts of ``windows`` windows, as positions (windows, length + 1)."""
    n = len(tokens) - 1
    eot = np.flatnonzero(tokens == tokens[0])
    out, have, epoch = [], 0, 0
    arange = np.arange(length + 1)
    while have < windows:
        rng = np.random.default_rng([seed, epoch])
        if mode == "circle":
            offset = int(rng.integers(n))
            starts = offset + rng.permutation(n // length) * length
            found = (starts[:, None] + arange) % n
        else:
            docs = rng.permutation(len(eot) - 1)
            first, sizes = eot[docs], eot[docs + 1] - eot[docs]
            ends = np.cumsum(sizes)
            stream = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes) + np.repeat(first, sizes)
            stream = np.concatenate([stream, stream[: length + 1]])
            if mode == "shuffle":
                offset = int(rng.integers(length))
                count = (ends[-1] - offset) // length
                starts = offset + np.arange(count) * length
            else:  # start: windows begin at documents or where the last window of a long one ended
                starts = np.concatenate(
                    [
                        np.arange(e - s, max(e - length // 2, e - s + 1), length)
                        for e, s in zip(ends, sizes, strict=True)
                    ]
                )
            starts = rng.permutation(starts)
            found = stream[starts[:, None] + arange]
        out.append(found.astype(np.int32))
        have += len(found)
        epoch += 1
    return np.concatenate(out)[:windows]


def valid_windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (W, length) of every prediction once, -100 where it isn't scored."""
    eot = np.flatnonzero(tokens == tokens[0])
    ids, targets = [], []
    for a, b in itertools.pairwise(eot):
        row = tokens[a : b + 1].astype(np.int64)
        scored, total = 0, len(row) - 1
        while scored < total:
            end = min(length, total) if scored == 0 else min(scored + length // 2, total)
            start = max(0, end - length)
            x = np.full(length, row[0]), np.full(length, -100)
            x[0][: end - start] = row[start:end]
            x[1][scored - start : end - start] = row[scored + 1 : end + 1]
            ids.append(x[0])
            targets.append(x[1])
            scored = end
    return np.stack(ids), np.stack(targets)


# --------------------------------------------------------------------------- model


class Ensemble:
    """R models of one shape: parameters by name, each (R, ...), float32."""

    def __init__(self, shape: dict[str, Any], seeds: list[int]) -> None:
        self.s = {**SHAPE, **shape}
        s = self.s
        self.muon: dict[str, tuple[int, int]] = {}  # name -> (m, n)
        made = [self._weights(seed) for seed in seeds]
        # Matrices of one shape lie side by side, then what AdamW updates.
        self.shapes: dict[tuple[int, int], list[str]] = {}
        for name, shape in self.muon.items():
            self.shapes.setdefault(shape, []).append(name)
        self.rest = [name for name in made[0] if name not in self.muon]
        self.names = [name for names in self.shapes.values() for name in names] + self.rest
        self.sizes = {name: made[0][name].shape for name in self.names}
        self.flat = torch.stack(
            [torch.cat([m[name].flatten() for name in self.names]) for m in made]
        ).to(DEVICE)
        self.p = {name: w.detach().requires_grad_() for name, w in self.views(self.flat).items()}
        self.layers = len(s["pattern"])
        if s["experts"]:
            self.load = torch.full(
                (self.layers, len(seeds), s["experts"]), 1 / s["experts"], device=DEVICE
            )
        heads = torch.arange(0, s["head_dim"], 2, dtype=torch.float64) / s["head_dim"]
        angle = torch.arange(1024, dtype=torch.float64)[:, None] * 10_000.0**-heads
        angle = torch.cat([angle, angle], dim=-1)
        self.cos = angle.cos().to(DEVICE, COMPUTE)
        self.sin = angle.sin().to(DEVICE, COMPUTE)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The weights by name, of (R, n) numbers."""
        found, at = {}, 0
        for name in self.names:
            size = self.sizes[name]
            found[name] = flat[:, at : at + size.numel()].view(-1, *size)
            at += size.numel()
        return found

    def _weights(self, seed: int) -> dict[str, Tensor]:
        s, d = self.s, self.s["d"]
        g = torch.Generator().manual_seed(1000 + seed)
        p: dict[str, Tensor] = {}

        def matrix(
            name: str, m: int, n: int, k: int = 1, zero: bool = False, std: float = 0.0
        ) -> None:
            w = torch.randn(k * m, n, generator=g) * (std or n**-0.5)
            p[name] = torch.zeros_like(w) if zero else w
            self.muon[name] = (m, n)

        gpt2 = s["family"] == "gpt2"
        last = 0.02 / (2 * len(s["pattern"])) ** 0.5
        p["emb"] = torch.randn(s["vocab"], d, generator=g) * 0.02
        if gpt2:
            p["pos"] = torch.randn(512, d, generator=g) * 0.01
            p["norm.b"] = torch.zeros(d)
        p["norm.w"] = torch.ones(d)
        for i, kind in enumerate(s["pattern"]):
            L = f"{i}."
            p[L + "n1.w"], p[L + "n2.w"] = torch.ones(d), torch.ones(d)
            if gpt2:
                p[L + "n1.b"], p[L + "n2.b"] = torch.zeros(d), torch.zeros(d)
            if kind == "m":
                inner, n, h = 2 * d, s["state"], 2 * d // s["ssm_head"]
                for name, m in (("z", inner), ("x", inner), ("B", n), ("C", n), ("dt", h)):
                    matrix(L + name, m, d)
                matrix(L + "out", d, inner, zero=True)
                c = inner + 2 * n
                p[L + "conv.w"] = (torch.rand(c, 4, generator=g) * 2 - 1) * 0.5
                p[L + "conv.b"] = torch.zeros(c)
                dt = torch.exp(torch.rand(h, generator=g) * math.log(100) + math.log(1e-3))
                p[L + "dt_bias"] = dt + torch.log(-torch.expm1(-dt))
                p[L + "A_log"] = (torch.rand(h, generator=g) * 15 + 1).log()
                p[L + "D"] = torch.ones(h)
                p[L + "gn"] = torch.ones(inner)
            else:
                kv = s["kv"] * s["head_dim"]
                std = 0.02 if gpt2 else 0.0
                for name, m in (("q", d), ("k", kv), ("v", kv)):
                    matrix(L + name, m, d, std=std)
                matrix(L + "o", d, d, zero=not gpt2, std=last if gpt2 else 0.0)
                if gpt2:
                    p[L + "qkv.b"], p[L + "o.b"] = torch.zeros(3 * d), torch.zeros(d)
            if s["experts"]:
                e, f = s["experts"], s["d_expert"]
                p[L + "router"] = torch.randn(e, d, generator=g) * d**-0.5
                matrix(L + "gate", f, d, e)
                matrix(L + "up", f, d, e)
                matrix(L + "down", d, f, e, zero=True)
            if gpt2:
                matrix(L + "fu", s["d_ff"], d, std=0.02)
                matrix(L + "fd", d, s["d_ff"], std=last)
                p[L + "fu.b"], p[L + "fd.b"] = torch.zeros(s["d_ff"]), torch.zeros(d)
            elif s["d_ff"]:
                matrix(L + "sgate", s["d_ff"], d)
                matrix(L + "sup", s["d_ff"], d)
                matrix(L + "sdown", d, s["d_ff"], zero=True)
        if gpt2:
            self.muon = {}
        return p

    def norm(self, x: Tensor, name: str, p: dict[str, Tensor]) -> Tensor:
        w = p[name + ".w"][:, None]
        if name + ".b" in p:
            return (F.layer_norm(x, x.shape[-1:], eps=1e-5) * w + p[name + ".b"][:, None]).to(
                COMPUTE
            )
        return rms(x, w)

    def loss(
        self,
        p: dict[str, Tensor],
        ids: Tensor,
        targets: Tensor,
        balance: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ids, targets (R, B, L) -> mean loss (R,), what is minimised (R,), counts scored (R,)."""
        s = self.s
        R, B, L = ids.shape
        offset = torch.arange(R, device=ids.device)[:, None, None] * s["vocab"]
        x = p["emb"].reshape(R * s["vocab"], s["d"]).index_select(0, (ids + offset).flatten())
        x = x.view(R, B * L, s["d"])
        if s["family"] == "gpt2":
            x = x + p["pos"][:, :L].repeat(1, B, 1)
        aux: list[Tensor] = []
        self.counts: list[Tensor] = []
        for i, kind in enumerate(s["pattern"]):
            h = self.norm(x, f"{i}.n1", p)
            y = self.mamba(h, p, f"{i}.", B) if kind == "m" else self.attention(h, p, f"{i}.", B)
            x = x + self.dropped(y, drop)
            h = self.norm(x, f"{i}.n2", p)
            y = torch.zeros((), device=x.device)
            if s["experts"]:
                y, prob, counts = moe(
                    h,
                    p[f"{i}.router"],
                    p[f"{i}.gate"],
                    p[f"{i}.up"],
                    p[f"{i}.down"],
                    s["experts"],
                    s["top_k"],
                )
                if balance is not None:
                    aux.append(s["experts"] * (self.load[i] * prob).sum(-1))
                    self.counts.append(counts)
            if s["family"] == "gpt2":
                u = F.gelu(
                    mm(h, p[f"{i}.fu"]) + p[f"{i}.fu.b"][:, None].to(COMPUTE), approximate="tanh"
                )
                y = mm(u, p[f"{i}.fd"]) + p[f"{i}.fd.b"][:, None].to(COMPUTE)
            elif s["d_ff"]:
                y = y + swiglu(h, p[f"{i}.sgate"], p[f"{i}.sup"], p[f"{i}.sdown"])
            x = x + self.dropped(y, drop)
        h = self.norm(x, "norm", p)
        ce, scored = head(h, p["emb"], targets.reshape(R, -1))
        total = ce
        if aux:
            total = ce + balance * torch.stack(aux).mean(0)
        return ce, total, scored

    def dropped(self, y: Tensor, drop: Tensor | None) -> Tensor:
        if drop is None:
            return y.float()
        kept = torch.rand(y.shape, device=y.device, dtype=torch.float32) >= drop[:, None, None]
        return y.float() * kept / (1 - drop[:, None, None])

    def attention(self, h: Tensor, p: dict[str, Tensor], L: str, B: int) -> Tensor:
        s = self.s
        R, N, d = h.shape
        H, K, P = d // s["head_dim"], s["kv"], s["head_dim"]
        w = torch.cat([p[L + "q"], p[L + "k"], p[L + "v"]], 1)
        qkv = mm(h, w)
        if L + "qkv.b" in p:
            qkv = qkv + p[L + "qkv.b"][:, None].to(COMPUTE)
        qkv = qkv.view(R * B, N // B, H + 2 * K, P).transpose(1, 2)
        q, k, v = qkv.split((H, K, K), 1)
        if s["rope"]:
            q, k = rope(q, k, self.cos[: N // B], self.sin[: N // B])
        if K != H:
            k = k.repeat_interleave(H // K, 1)
            v = v.repeat_interleave(H // K, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = mm(y.transpose(1, 2).reshape(R, N, d), p[L + "o"])
        return y + p[L + "o.b"][:, None].to(COMPUTE) if L + "o.b" in p else y

    def mamba(self, h: Tensor, p: dict[str, Tensor], L: str, B: int) -> Tensor:
        s = self.s
        w = torch.cat([p[L + n] for n in ("z", "x", "B", "C", "dt")], 1)
        y = scan(
            mm(h, w),
            p[L + "conv.w"],
            p[L + "conv.b"],
            p[L + "dt_bias"],
            p[L + "A_log"],
            p[L + "D"],
            p[L + "gn"],
            B,
            s["state"],
            s["ssm_head"],
        )
        return mm(y, p[L + "out"])


def mm(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x, w.to(COMPUTE).transpose(1, 2))


def rms(x: Tensor, w: Tensor) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w).to(COMPUTE)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    return turn(q), turn(k)


def swiglu(h: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return mm(F.silu(mm(h, gate)) * mm(h, up), down)


def moe(
    h: Tensor, router: Tensor, gate: Tensor, up: Tensor, down: Tensor, experts: int, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    R, N, d = h.shape
    logits = mm(h, router).float()  # (R, N, E)
    top, index = logits.topk(top_k, -1)
    gates = torch.zeros_like(logits).scatter(-1, index, top.softmax(-1))
    prob = logits.softmax(-1).mean(1)
    counts = (gates > 0).float().mean(1) / top_k
    f = gate.shape[1] // experts
    hidden = F.silu(mm(h, gate)) * mm(h, up)
    hidden = (hidden.view(R, N, experts, f) * gates[..., None].to(COMPUTE)).view(R, N, -1)
    flat = down.view(R, experts, d, f).permute(0, 2, 1, 3).reshape(R, d, experts * f)
    return mm(hidden, flat), prob, counts.detach()


def scan(
    zxbcdt: Tensor,
    conv_w: Tensor,
    conv_b: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    gn: Tensor,
    B: int,
    n: int,
    P: int,
) -> Tensor:
    R, N, _ = zxbcdt.shape
    T, inner, H = N // B, gn.shape[1], dt_bias.shape[1]
    z, xbc, dt = zxbcdt.float().split((inner, inner + 2 * n, H), -1)
    xbc = F.pad(xbc.view(R, B, T, -1), (0, 0, 3, 0))
    w = conv_w[:, None, None]
    xbc = sum(xbc[:, :, k : k + T] * w[..., k] for k in range(4)) + conv_b[:, None, None]
    u, Bm, Cm = F.silu(xbc).split((inner, n, n), -1)
    c = T // CHUNK
    dt = F.softplus(dt.view(R, B, T, H) + dt_bias[:, None, None])
    u = u.view(R * B, c, CHUNK, H, P)
    v = (u * dt.view(R * B, c, CHUNK, H, 1)).to(COMPUTE)
    la = (dt * -A_log.exp()[:, None, None]).view(R * B, c, CHUNK, H).cumsum(2)  # (b,c,l,h)
    Bm = Bm.view(R * B, c, CHUNK, n).to(COMPUTE)
    Cm = Cm.view(R * B, c, CHUNK, n).to(COMPUTE)
    scores = Cm @ Bm.transpose(-1, -2)  # (b,c,l,s)
    span = la.permute(0, 1, 3, 2)
    span = span[..., :, None] - span[..., None, :]
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=la.device).tril()
    weights = (scores[:, :, None].float() * torch.exp(span.masked_fill(~causal, -1e9))).to(COMPUTE)
    y = weights @ v.transpose(2, 3)  # (b,c,h,l,p)
    to_end = torch.exp(la[:, :, -1:] - la)  # (b,c,l,h)
    scaled = (v.float() * to_end[..., None]).to(COMPUTE).flatten(3)  # (b,c,l,hp)
    added = Bm.transpose(-1, -2) @ scaled  # (b,c,n,hp)
    whole = la[:, :, -1].cumsum(1)  # (b,c,h) log decay to the end of chunk c
    span = whole[:, :, None] - whole[:, None]  # from the end of chunk s to that of chunk c
    lower = torch.ones(c, c, dtype=torch.bool, device=la.device).tril()
    carry = torch.exp(span.masked_fill(~lower[None, :, :, None], -1e9))  # (b,c,s,h)
    added = added.view(R * B, c, n, H, P)
    state = (carry[:, :, :, None, :, None] * added[:, None].float()).sum(2)  # after chunk c
    state = torch.cat([torch.zeros_like(state[:, :1]), state[:, :-1]], 1)
    from_state = Cm @ state.to(COMPUTE).view(R * B, c, n, H * P)  # (b,c,l,hp)
    from_state = from_state.view(R * B, c, CHUNK, H, P) * torch.exp(la)[..., None]
    y = (
        y.transpose(2, 3).float()
        + from_state
        + D.repeat_interleave(B, 0)[:, None, None, :, None] * u
    )
    y = y.reshape(R, N, inner) * F.silu(z)
    return rms(y, gn[:, None])


def head(h: Tensor, emb: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = mm(h, emb).float()  # (R, N, V)
    mask = targets >= 0
    picked = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    loss = (logits.logsumexp(-1) - picked) * mask
    return loss.sum(-1) / mask.sum(-1), mask.sum(-1)


def orthogonalize(x: Tensor) -> Tensor:
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        square = x @ x.mT
        if i == 0:
            norm = square.float().norm(dim=(1, 2), keepdim=True)
            trace = square.float().diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
            scale = trace / (norm + 1e-30)
            x, square = (x * scale.sqrt()).bfloat16(), (square * scale).bfloat16()
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


# --------------------------------------------------------------------------- optimizer


class Optimizer:
    """Muon and AdamW, with the numbers of each run as tensors (R,)."""

    def __init__(
        self, model: Ensemble, h: dict[str, Tensor], normuon: bool, cautious: bool
    ) -> None:
        self.model, self.h = model, h
        self.normuon, self.cautious = normuon, cautious
        R = self.R = model.flat.shape[0]
        self.gpt2 = model.s["family"] == "gpt2"
        self.momentum, self.second = {}, {}
        for (m, n), names in model.shapes.items():
            k = sum(model.sizes[x][0] // m for x in names)
            self.momentum[m, n] = torch.zeros(R, k, m, n, device=DEVICE)
            self.second[m, n] = torch.zeros(R, k, m, 1, device=DEVICE)
        self.start = sum(model.sizes[x].numel() for x in model.muon)
        lr, decay = [], []
        for x in model.rest:
            n, embedding = model.sizes[x].numel(), x == "emb" and not self.gpt2
            decayed = x.endswith("router") or embedding
            decayed = decayed or (self.gpt2 and len(model.sizes[x]) == 2)
            lr.append(h["lr_embedding" if embedding else "lr_other"][:, None].expand(R, n))
            decay.append((h["wd"] * decayed)[:, None].expand(R, n))
        self.lr, self.decay = torch.cat(lr, 1), torch.cat(decay, 1)
        self.avg, self.sq = torch.zeros_like(self.lr), torch.zeros_like(self.lr)
        self.b1, self.b2 = torch.ones(R, device=DEVICE), torch.ones(R, device=DEVICE)

    def step(self, grads: list[Tensor], factor: Tensor) -> None:
        h, R, W = self.h, self.R, self.model.flat
        g = torch.cat([x.reshape(R, -1) for x in grads], 1)
        clip = torch.clamp(h["clip"] / (g.norm(dim=1) + 1e-6), max=1.0)
        at = 0
        for (m, n), mo in self.momentum.items():
            size = mo[0].numel()
            w = W[:, at : at + size].view_as(mo)
            nesterov = momentum_step(g[:, at : at + size].view_as(mo), mo, clip, h["momentum"])
            u = orthogonalize(nesterov.flatten(0, 1)).view_as(mo)
            at += size
            if self.normuon:
                second = self.second[m, n]
                second.lerp_(u.square().mean(-1, keepdim=True), 0.05)
                scaled = u / (second.sqrt() + 1e-8)
                keep = u.norm(dim=(2, 3), keepdim=True) / (
                    scaled.norm(dim=(2, 3), keepdim=True) + 1e-8
                )
                u = torch.where(h["normuon"].view(-1, 1, 1, 1) > 0, scaled * keep, u)
            muon_step(
                w, u, h["lr_matrix"] * factor, h["wd_matrix"], h["cautious"], max(1.0, m / n) ** 0.5
            )
        self.b1.mul_(h["beta1"])
        self.b2.mul_(h["beta2"])
        adam_step(
            W[:, at:],
            g[:, at:],
            self.avg,
            self.sq,
            self.lr,
            self.decay,
            clip,
            factor,
            h["beta1"],
            h["beta2"],
            self.b1,
            self.b2,
            1e-8 if self.gpt2 else 1e-10,
        )


def momentum_step(g: Tensor, mo: Tensor, clip: Tensor, beta: Tensor) -> Tensor:
    g, beta = g * clip.view(-1, 1, 1, 1), beta.view(-1, 1, 1, 1)
    mo.copy_(mo * beta + g * (1 - beta))
    return g + (mo - g) * beta


def muon_step(w: Tensor, u: Tensor, lr: Tensor, wd: Tensor, cautious: Tensor, scale: float) -> None:
    lr, wd = lr.view(-1, 1, 1, 1), wd.view(-1, 1, 1, 1)
    keep = torch.where((cautious.view(-1, 1, 1, 1) > 0) & (u * w < 0), 0.0, 1.0)
    w.copy_(w * (1 - lr * wd * keep) - u * lr * scale)


def adam_step(
    w: Tensor,
    g: Tensor,
    avg: Tensor,
    sq: Tensor,
    lr: Tensor,
    decay: Tensor,
    clip: Tensor,
    factor: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    b1: Tensor,
    b2: Tensor,
    eps: float,
) -> None:
    g = g * clip[:, None]
    avg.copy_(avg * beta1[:, None] + g * (1 - beta1[:, None]))
    sq.copy_(sq * beta2[:, None] + g * g * (1 - beta2[:, None]))
    rate = lr * factor[:, None]
    update = (avg / (1 - b1[:, None])) / ((sq / (1 - b2[:, None])).sqrt() + eps)
    w.copy_(w * (1 - rate * decay) - rate * update)


# --------------------------------------------------------------------------- a sweep


def schedule(run: dict[str, Any], progress: np.ndarray) -> np.ndarray:
    rise = np.minimum(1, (progress + 1e-3) / run["warmup"]) if run["warmup"] else 1.0
    fall = np.minimum(1, np.maximum(0, 1 - progress) / run["decay"]) if run["decay"] else 1.0
    return np.minimum(rise, run["end"] + (1 - run["end"]) * fall)


@torch.no_grad()
def evaluate(
    model: Ensemble, p: dict[str, Tensor], ids: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    R = p["emb"].shape[0]
    nats = torch.zeros(R, device=DEVICE)
    rows = max(1, 1024 // R) if model.s["vocab"] < 10_000 else max(1, 64 // R)
    for a in range(0, len(ids), rows):
        x = torch.from_numpy(ids[a : a + rows]).to(DEVICE).expand(R, -1, -1)
        y = torch.from_numpy(targets[a : a + rows]).to(DEVICE).expand(R, -1, -1)
        ce, _, scored = model.loss(p, x, y)
        nats += ce * scored
    return nats.cpu().numpy() / math.log(2)


def run_sweep(sweep: Sweep, folder: Path, out: Path, deadline: float) -> None:
    begin = time.time()
    tokens = np.load(folder / f"{sweep.data}_train.npy")
    valid = np.load(folder / f"{sweep.data}_valid.npy")
    n_bytes = json.loads((folder / "bytes.json").read_text())[sweep.data]
    ids, targets = valid_windows(valid, sweep.length)
    runs = [{**RUN, **r, "seed": s} for r in sweep.runs for s in sweep.seeds]
    for r in runs:
        r["wd_matrix"] = r["wd"] if r["wd_matrix"] is None else r["wd_matrix"]
    R = len(runs)
    model = Ensemble(sweep.shape, [r["seed"] for r in runs])
    h = {k: torch.tensor([float(r[k]) for r in runs], device=DEVICE) for k in NUMBERS}
    drop = h["dropout"] if any(r["dropout"] for r in runs) else None
    optimizer = Optimizer(
        model, h, any(r["normuon"] for r in runs), any(r["cautious"] for r in runs)
    )
    steps = int(sweep.tokens / (sweep.batch * sweep.length))
    # Streams of windows: one for each order and seed.
    keys = sorted({(r["order"], r["seed"]) for r in runs})
    streams = [order_of(tokens, k, s, sweep.length, steps * sweep.batch) for k, s in keys]
    which = torch.tensor([keys.index((r["order"], r["seed"])) for r in runs], device=DEVICE)
    text = torch.from_numpy(tokens.astype(np.int64)).to(DEVICE)
    progress = np.arange(steps) / steps
    factors = torch.tensor(
        np.stack([schedule(r, progress) for r in runs], 1), dtype=torch.float32, device=DEVICE
    )
    windows = torch.zeros(
        len(keys), sweep.batch, sweep.length + 1, dtype=torch.int32, device=DEVICE
    )
    factor = torch.zeros(R, device=DEVICE)
    shown = torch.zeros(R, device=DEVICE)
    means = [model.flat.clone() for _ in sweep.ema]

    def step() -> None:
        batch = text[windows.long()][which]
        ids, targets = batch[..., :-1], batch[..., 1:]
        grads = [torch.zeros_like(v) for v in model.p.values()] if sweep.micro > 1 else None
        for part in range(sweep.micro):
            rows = slice(part * sweep.batch // sweep.micro, (part + 1) * sweep.batch // sweep.micro)
            ce, total, _ = model.loss(model.p, ids[:, rows], targets[:, rows], h["balance"], drop)
            found = torch.autograd.grad(total.sum() / sweep.micro, list(model.p.values()))
            grads = [a + b for a, b in zip(grads, found, strict=True)] if grads else found
            shown.mul_(0.98).add_(ce.detach() * 0.02)
        with torch.no_grad():
            if model.counts:
                model.load.copy_(torch.stack(model.counts))
            optimizer.step(list(grads), factor)
            for share, mean in zip(sweep.ema, means, strict=True):
                mean.lerp_(model.flat, 1 - 0.5 ** (1 / max(1.0, share * steps)))

    graph = None
    if DEVICE == "cuda":
        saved = [t.clone() for t in state_of(model, optimizer, means)]
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step()
        for t, old in zip(state_of(model, optimizer, means), saved, strict=True):
            t.data.copy_(old)
        del saved
    shown.fill_(math.log(sweep.shape.get("vocab", 2048)))
    made = time.time()
    group = 512
    for a in range(0, steps, group):
        chunk = (
            torch.from_numpy(
                np.stack([s[a * sweep.batch : (a + group) * sweep.batch] for s in streams])
            )
            .to(DEVICE)
            .view(len(keys), -1, sweep.batch, sweep.length + 1)
        )
        for i in range(chunk.shape[1]):
            windows.copy_(chunk[:, i])
            factor.copy_(factors[a + i])
            graph.replay() if graph else step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        if a == 0 or a // group % 8 == 0:
            print(
                f"{sweep.name} {a + chunk.shape[1]}/{steps} {time.time() - made:.1f} s "
                f"loss {shown.min().item():.4f}..{shown.max().item():.4f}",
                flush=True,
            )
        if time.time() > deadline:
            print(f"{sweep.name}: out of time", flush=True)
            return
    trained = time.time()
    named = [("last", model.p)] + [
        (f"ema{e:g}", model.views(m)) for e, m in zip(sweep.ema, means, strict=True)
    ]
    scores = {name: evaluate(model, p, ids, targets) / n_bytes for name, p in named}
    with out.open("a") as f:
        for i, r in enumerate(runs):
            changed = {k: v for k, v in r.items() if k == "seed" or RUN.get(k) != v}
            changed = {k: v for k, v in changed.items() if not (k == "wd_matrix" and v == r["wd"])}
            row = {
                "sweep": sweep.name,
                "shape": sweep.shape,
                "tokens": sweep.tokens,
                "batch": sweep.batch,
                "data": sweep.data,
                **changed,
                "train": float(shown[i]),
                **{k: float(v[i]) for k, v in scores.items()},
            }
            f.write(json.dumps(row) + "\n")
    count = len(sweep.seeds)
    for i in range(0, R, count):
        label = dict(sweep.runs[i // count].items())
        text_ = "  ".join(
            f"{k} {np.mean(v[i : i + count]):.4f}±{np.std(v[i : i + count]):.4f}"
            for k, v in scores.items()
        )
        print(f"  {text_}  train {float(shown[i : i + count].mean()):.3f}  {label}", flush=True)
    params = sum(v[0].numel() for v in model.p.values())
    print(
        f"{sweep.name}: {R} runs, {params:,} parameters, prepared {made - begin:.1f} s, trained "
        f"{trained - made:.1f} s, scored {time.time() - trained:.1f} s, "
        f"{R * sweep.tokens / (trained - made) / 1e6:.2f} M tokens/s",
        flush=True,
    )


def state_of(model: Ensemble, o: Optimizer, means: list[Tensor]) -> list[Tensor]:
    found = [model.flat, *o.momentum.values(), *o.second.values(), o.avg, o.sq, o.b1, o.b2, *means]
    return found + ([model.load] if model.s["experts"] else [])


FUSED = ("scan", "moe", "head", "rms", "swiglu", "rope", "orthogonalize", "momentum_step",
         "muon_step", "adam_step")  # fmt: skip


def main() -> None:
    plan, folder, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    limit = float(sys.argv[4]) if len(sys.argv) > 4 else 1e9
    torch.backends.cuda.matmul.allow_tf32 = True
    deadline = time.time() + limit
    if DEVICE == "cuda":  # capture of a graph refuses the default stream
        torch.cuda.set_stream(torch.cuda.Stream())
    original = {name: globals()[name] for name in FUSED}
    if "--compile" in sys.argv:
        torch._dynamo.config.cache_size_limit = 256
        globals().update({n: torch.compile(f, dynamic=False) for n, f in original.items()})
    entries = json.loads(plan.read_text())
    while entries:
        entry = entries.pop(0)
        try:
            run_sweep(Sweep(**entry), folder, out, deadline)
        except Exception as error:  # the next sweep may still be possible, or this one uncompiled
            if scan is not original["scan"]:
                globals().update(original)
                entries.insert(0, entry)
            import traceback

            traceback.print_exc()
            print(f"{entry['name']}: {type(error).__name__}: {error}"[:2000], flush=True)
            torch.cuda.empty_cache() if DEVICE == "cuda" else None
        if time.time() > deadline:
            break


if __name__ == "__main__":
    main()
