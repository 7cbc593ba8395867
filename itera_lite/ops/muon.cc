// Muon: momentum, orthogonalisation and update of each matrix of a stack while it is in the cache.
//
// `itera_lite.train.optim` defines it in PyTorch and is the oracle of the tests.
#include "gemm.h"

using namespace itera;

namespace {

struct Step {  // the same order as in muon.py
  int64_t rows, columns, iterations;
  const float* coefficients;  // (iterations, 3)
  float clip, momentum, rate, keep;
};

// P = c S^2 + b S, from the sums of S^2.
template <typename T> struct StorePolynomial {
  T* p;
  const T* square;
  int64_t stride;
  float b, c;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    T* to = p + i * stride + j;
    const T* from = square + i * stride + j;
    const float by = b, by_square = c;
    each<NV>(last, [&](int v, auto at) {
      at.store(to + v * LANES, by * at.load(from + v * LANES) + by_square * sum[v]);
    });
  }
};

// X = a X + P X, from the sums of P X.
template <typename T> struct StoreNext {
  T* next;
  const T* x;
  int64_t stride;
  float a;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    T* to = next + i * stride + j;
    const T* from = x + i * stride + j;
    const float by = a;
    each<NV>(last, [&](int v, auto at) {
      at.store(to + v * LANES, by * at.load(from + v * LANES) + sum[v]);
    });
  }
};

// The same in the last iteration: W = keep W - rate X.
template <typename T> struct StoreWeight {
  float* w;
  const T* x;
  int64_t stride;
  float a, keep, rate;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    float* to = w + i * stride + j;
    const T* from = x + i * stride + j;
    const float by = a, kept = keep, step = rate;
    each<NV>(last, [&](int v, auto at) {
      vec whole = by * at.load(from + v * LANES) + sum[v];
      at.store(to + v * LANES, kept * at.load(to + v * LANES) - step * whole);
    });
  }
};

// Copies the upper triangle of a (d, d) into the lower one, blocks of vectors at a time.
template <typename T> void mirror(T* a, int64_t d) {
  for (int64_t i = 0; i < d; i += LANES)
    for (int64_t j = i + LANES; j < d; j += LANES) {  // the block at i, j to j, i
      vec r[LANES];
      for (int c = 0; c < LANES; c++)
        r[c] = j + LANES <= d ? get(a + (i + c) * d + j) : get(a + (i + c) * d + j, d - j);
      transpose(r);
      for (int64_t c = 0; c < LANES && j + c < d; c++) put(a + (j + c) * d + i, r[c]);
    }
}

// A symmetric product (d, d): of each panel only the rows down to the diagonal, the rest mirrored.
template <typename T, typename S>
void symmetric(int64_t d, int64_t k, const Rows<T>& row, const T* packed, const S& store,
               T* result) {
  for (int64_t j = 0; j < d; j += PANEL) {
    panel(row, 0, j + PANEL < d ? j + PANEL : d, j, d, k, packed, store);
    packed += words<T>(k) * DEPTH<T> * LANES * vectors_at(j, d);
  }
  if (d > PANEL) mirror(result, d);
}

// The momentum's update; x (rows, columns): gradient and momentum together, of norm 1.
template <typename T>
void start(const Step& s, const float* gradient, float* momentum, T* x) {
  int64_t size = s.rows * s.columns;
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; i++) {
    float g = s.clip * gradient[i], m = momentum[i] + (1 - s.momentum) * (g - momentum[i]);
    momentum[i] = m;
    g += s.momentum * (m - g);
    total += g * g;
  }
  float inverse = 1.0f / (std::sqrt(total) + 1e-7f);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    float g = s.clip * gradient[i];
    x[i] = store<T>((g + s.momentum * (momentum[i] - g)) * inverse);
  }
}

template <typename T> struct Buffers {
  T *x, *next, *rows, *packed, *square, *p;
};

template <typename T>
void update(const Step& s, const Buffers<T>& k, float* w, const float* gradient,
            float* momentum) {
  const int64_t m = s.rows, n = s.columns, d = m < n ? m : n;
  const bool tall = m > n;
  T *x = k.x, *next = k.next;
  start(s, gradient, momentum, x);
  for (int64_t i = 0; i < s.iterations; i++) {
    float a = s.coefficients[3 * i], b = s.coefficients[3 * i + 1], c = s.coefficients[3 * i + 2];
    Rows<T> plain{x, n};
    if (tall) {
      transpose(plain, m, n, k.rows);
      pack(plain, m, n, k.packed);
      symmetric(d, m, Rows<T>{k.rows, transposed_stride<T>(m)}, k.packed,
                Store{k.square, d}, k.square);
    } else {
      pack_transposed(x, n, m, n, k.packed);
      symmetric(d, n, plain, k.packed, Store{k.square, d}, k.square);
    }
    if (i == 0) {  // the largest singular value is at most the root of the square's norm
      float norm = 0, trace = 0;
#pragma omp simd reduction(+ : norm)
      for (int64_t e = 0; e < d * d; e++) norm += load(k.square[e]) * load(k.square[e]);
      for (int64_t e = 0; e < d; e++) trace += load(k.square[e * d + e]);
      float scale = trace / (std::sqrt(norm) + 1e-30f), root = std::sqrt(scale);
      a *= root;
      b *= root * scale;
      c *= root * scale * scale;
    }
    Rows<T> square{k.square, d}, p{k.p, d};
    pack(square, d, d, k.packed);
    symmetric(d, d, square, k.packed, StorePolynomial<T>{k.p, k.square, d, b, c}, k.p);
    if (tall) pack(p, d, d, k.packed);
    else pack(plain, m, n, k.packed);
    const Rows<T>& left = tall ? plain : p;
    if (i + 1 < s.iterations) gemm(m, n, d, left, k.packed, StoreNext<T>{next, x, n, a});
    else gemm(m, n, d, left, k.packed, StoreWeight<T>{w, x, n, a, s.keep, s.rate});
    std::swap(x, next);
  }
}

// weights, gradients: the addresses of ``count`` matrices (rows, columns); momentum: a stack.
template <typename T>
void muon(const int64_t* weights, const int64_t* gradients, float* momentum, int64_t count,
          const Step& s) {
  int64_t size = s.rows * s.columns, d = s.rows < s.columns ? s.rows : s.columns;
  int64_t packed = packed_size<T>(s.columns, s.rows);
  for (int64_t other : {packed_size<T>(s.rows, s.columns), packed_size<T>(d, d)})
    packed = other > packed ? other : packed;
  int64_t rows = s.columns * transposed_stride<T>(s.rows);
  static thread_local Buffer<T> memory;
  constexpr int64_t LINE = 64 / sizeof(T);
  auto lines = [](int64_t numbers) { return (numbers + LINE - 1) / LINE * LINE; };
  T* free = memory.get(2 * lines(size) + lines(rows) + lines(packed) + 2 * lines(d * d));
  auto take = [&](int64_t numbers) { return std::exchange(free, free + lines(numbers)); };
  Buffers<T> k{take(size), take(size), take(rows), take(packed), take(d * d), take(d * d)};
  for (int64_t i = 0; i < count; i++)
    update(s, k, (float*)weights[i], (const float*)gradients[i], momentum + i * size);
}

}  // namespace

#define MUON(T, S)                                                                                \
  extern "C" void muon_##S(const int64_t* weights, const int64_t* gradients, float* momentum,     \
                           int64_t count, const Step* step) {                                     \
    muon<T>(weights, gradients, momentum, count, *step);                                          \
  }
ITERA_TYPES(MUON)
